# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger of one redrive run: what was about to be published and what the broker has confirmed. Identities, never payloads.

One JSON object a line in ``<state_dir>/redrive/<run>.jsonl`` (0600, folder 0700): ``{"plan": n, "ids": [...], "to": ..., ...}`` before
batch n is published, ``{"sure": n}`` when it is confirmed, ``{"back": n, "ids": [...]}`` for those that the broker could not route,
``{"doubt": n}`` when the broker did not take all of it, ``{"settled": n}`` when batch n and those before it are acknowledged,
``{"closed": n}`` when the run came to its end in order.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections import Counter
from typing import IO, Any, Iterator
from urllib.parse import quote

from .._errors import Conflict, Refused


class Ledger:
    """The ledger of ``run``, held by this process alone.

    :ivar plans: the batches whose outcome is open, oldest first: published or not, acknowledged or not. Only what was there at first.
    :ivar sure: which of them are confirmed.
    :ivar doubt: which of them the broker took only in part.
    :ivar last: the number of the last batch.
    :ivar closed: the number of the last batch when the run last came to its end in order.
    :raises Conflict: another process holds it.
    :raises Refused: it cannot be written.
    """

    def __init__(self, state_dir: str, run: str) -> None:
        self.path = os.path.join(state_dir, "redrive", quote(run, safe=" @:+=,") + ".jsonl")
        self.plans: list[dict[str, Any]] = []
        self.sure: set[int] = set()
        self.doubt: set[int] = set()
        self.last = 0
        self.closed = 0
        self._pending: list[str] = []
        try:
            os.makedirs(state_dir, exist_ok=True)
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            self._new = not os.path.exists(self.path)
            self._file: IO[bytes] = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b")
        except OSError as problem:
            raise Refused(
                "The ledger %s cannot be written: %s" % (self.path, problem.strerror),
                option="state_dir",
                next_step="Give a folder in state_dir that this user may write to, and that outlives this host's restart",
            ) from problem
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise Conflict(
                "Another redrive under run=%s is going on on this host" % run,
                option="run",
                still_true="Nothing was changed",
                next_step="Wait for its end, or use another run",
            ) from None
        self._read()

    def _read(self) -> None:
        """Fold what was written. A last line that was cut off by a crash was not acted on."""
        self._file.seek(0)
        whole = 0
        for line in self._file:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                break
            whole += len(line)
            self._fold(entry)
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)

    def _fold(self, entry: dict[str, Any]) -> None:
        if "plan" in entry:
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

    def settled_ids(self) -> Iterator[list[str]]:
        """The identities of the settled batches of a run that has not come to its end, a batch at a time; without what was returned."""
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
                        yield waiting.pop(number)["ids"]

    def note(self, **entry: Any) -> None:
        """Write with the next :meth:`sync`."""
        self._pending.append(json.dumps(entry, ensure_ascii=True, separators=(",", ":")))

    def sync(self) -> None:
        """Write what was noted, and return when it is on disk.

        :raises Refused: the disk is full or broken.
        """
        if not self._pending:
            return
        try:
            self._file.write(("\n".join(self._pending) + "\n").encode("ascii"))
            self._file.flush()
            os.fsync(self._file.fileno())
            if self._new:
                folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
                self._new = False
        except OSError as problem:
            raise Refused(
                "The ledger %s cannot be written: %s" % (self.path, problem.strerror),
                option="state_dir",
                still_true="What was not yet written there was not published",
                next_step="Free space on this host's disk, and run again under the same run",
            ) from problem
        self._pending.clear()

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


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
