# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger of one redrive run: what was about to be published and what the broker has confirmed. Identities, never payloads.

One JSON object a line in ``<state_dir>/redrive/<run>.<hash>.jsonl`` (0600, folder 0700; the hash is that of the source, with the broker
and the namespace that it is in, since other fleets have runs of the same name): ``{"ledger": token, "of": source}`` first,
``{"plan": n, "ids": [...], "to": ..., ...}`` before batch n is published, ``{"sure": n}`` when it is confirmed,
``{"back": n, "ids": [...]}`` for those that the broker could not route, ``{"doubt": n}`` when the broker did not take all of it,
``{"settled": n}`` when batch n and those before it are acknowledged, ``{"closed": n}`` when the run came to its end in order.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import uuid
from collections import Counter
from contextlib import suppress
from typing import Any, Iterator
from urllib.parse import quote

from .._errors import Conflict, Refused


class Ledger:
    """The ledger of ``run``, held by this process alone.

    :param of: the source that the run takes from, named as no other one is, at whatever broker.
    :ivar name: of the run and its source, fit for a file's name.
    :ivar token: tells this ledger from one of the same name on another host.
    :ivar plans: the batches whose outcome is open, oldest first: published or not, acknowledged or not. Only what was there at first.
    :ivar sure: which of them are confirmed.
    :ivar doubt: which of them the broker took only in part.
    :ivar last: the number of the last batch.
    :ivar closed: the number of the last batch when the run last came to its end in order.
    :raises Conflict: another process holds it.
    :raises Refused: it cannot be written, or is damaged.
    """

    def __init__(self, state_dir: str, run: str, of: str = "") -> None:
        self.name = run + ("." + hashlib.blake2b(_bytes(of), digest_size=4).hexdigest() if of else "")
        self.path = os.path.join(state_dir, "redrive", quote(self.name, safe=" @:+=,", errors="surrogateescape") + ".jsonl")
        self.token = uuid.uuid4().hex
        self.plans: list[dict[str, Any]] = []
        self.sure: set[int] = set()
        self.doubt: set[int] = set()
        self.last = 0
        self.closed = 0
        self._pending: list[str] = []
        try:
            os.makedirs(state_dir, exist_ok=True)
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as problem:
            raise Refused(
                "The ledger %s cannot be written: %s" % (self.path, problem.strerror),
                option="state_dir",
                next_step="Give a folder in state_dir that this user may write to, and that outlives this host's restart",
            ) from problem
        try:
            self._lock(run)
            self._size = self._read()
            if not self._size:
                self.note(ledger=self.token, of=of)
                self.sync()
                self._sync_folder()
        except BaseException:
            self.close()
            raise

    def _lock(self, run: str) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(
                "Another redrive under run=%s is going on on this host" % run,
                option="run",
                still_true="Nothing was changed",
                next_step="Wait for its end, or use another run",
            ) from None

    def _read(self) -> int:
        """Fold what was written; returns its length. A last line that was cut off by a crash was not acted on, and is dropped."""
        whole = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                entry = _entry(line)
                if entry is None:
                    raise Refused(
                        "The ledger %s is damaged at line %d" % (self.path, number),
                        option="state_dir",
                        next_step="Restore it, or use another run; that may send twice what this one had sent and not noted",
                    )
                whole += len(line)
                self._fold(entry)
        os.ftruncate(self._file, whole)
        return whole

    def _fold(self, entry: dict[str, Any]) -> None:
        if "ledger" in entry:
            self.token = entry["ledger"]
        elif "plan" in entry:
            self.last = entry["plan"]
            self.plans.append(entry)
        elif "sure" in entry:
            self.sure.add(entry["sure"])
        elif "doubt" in entry:
            self.doubt.add(entry["doubt"])
        elif "closed" in entry:
            self.closed = entry["closed"]
        elif "back" in entry:
            gone = Counter(entry["ids"])
            for plan in self.plans:
                if plan["plan"] == entry["back"]:
                    _take_out(plan, gone)
        elif "settled" in entry:
            self.plans = [plan for plan in self.plans if plan["plan"] > entry["settled"]]
            self.sure = {number for number in self.sure if number > entry["settled"]}
            self.doubt = {number for number in self.doubt if number > entry["settled"]}

    def take_back(self, plan: dict[str, Any], identities: list[str]) -> None:
        """These of a batch did not arrive: they are no part of it any more. On disk with the next :meth:`sync`."""
        self.note(back=plan["plan"], ids=identities)
        _take_out(plan, Counter(identities))

    def settled_ids(self, source: str) -> Iterator[list[str]]:
        """The identities of the settled batches of a run that has not come to its end, a batch at a time; without what was returned,
        and without what went to the tail of ``source`` itself.
        """
        open_ones = {plan["plan"] for plan in self.plans}
        waiting: dict[int, dict[str, Any]] = {}
        with open(self.path, "rb") as file:
            for line in file:
                entry = json.loads(line)
                if "plan" in entry and entry["plan"] > self.closed and entry["plan"] not in open_ones:
                    waiting[entry["plan"]] = entry
                elif "back" in entry and entry["back"] in waiting:
                    _take_out(waiting[entry["back"]], Counter(entry["ids"]))
                elif "settled" in entry:
                    for number in [one for one in waiting if one <= entry["settled"]]:
                        yield sent(waiting.pop(number), source)[0]

    def note(self, **entry: Any) -> None:
        """Write with the next :meth:`sync`."""
        self._pending.append(json.dumps(entry, ensure_ascii=True, separators=(",", ":")))

    def sync(self) -> None:
        """Write what was noted, and return when it is on disk.

        :raises Refused: the disk is full or broken.
        """
        if not self._pending:
            return
        data = ("\n".join(self._pending) + "\n").encode("ascii")
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError as problem:
            self._cut_back()
            raise Refused(
                "The ledger %s cannot be written: %s" % (self.path, problem.strerror),
                option="state_dir",
                still_true="What was not yet written there was not published",
                next_step="Free space on this host's disk, and run again under the same run",
            ) from problem
        self._size += len(data)
        self._pending.clear()

    def _cut_back(self) -> None:
        """Leave no half of a line behind."""
        with suppress(OSError):
            os.ftruncate(self._file, self._size)

    def _sync_folder(self) -> None:
        """See that the new file's name is on disk too."""
        folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Let go of it."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def sent(plan: dict[str, Any], source: str) -> tuple[list[str], list[str]]:
    """The identities of a batch: those that went elsewhere or nowhere, and those that went to the tail of ``source`` itself."""
    queues = plan.get("queues") or [None]
    elsewhere: list[str] = []
    back: list[str] = []
    for place, identity in zip(plan.get("to") or [0] * len(plan["ids"]), plan["ids"]):
        (back if queues[place] == source else elsewhere).append(identity)
    return elsewhere, back


def _take_out(plan: dict[str, Any], gone: Counter[str]) -> None:
    """Forget the tasks of a batch that the broker returned."""
    kept = []
    for place, identity in enumerate(plan["ids"]):
        if gone[identity]:
            gone[identity] -= 1
        else:
            kept.append(place)
    plan["ids"] = [plan["ids"][place] for place in kept]
    if "to" in plan:
        plan["to"] = [plan["to"][place] for place in kept]


_PLAIN = re.compile(r"^[\w@:+=,. -]{1,100}$")


def run_name_is_plain(run: str) -> bool:
    """Whether ``run`` can be part of a queue's name and a file's."""
    return bool(_PLAIN.match(run))
