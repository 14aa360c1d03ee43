# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Was a task lost or doubled by a redrive? By identity: what was there before is there after, or was consumed, as multisets."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from array import array
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Iterable, cast

from .._errors import Refused
from .api import Census, RedriveReport, TaskStore

#: In how many parts fingerprints are compared.
PARTS = 16
#: A task that is nowhere may be on its way: some workers take one where nobody sees it for a moment. So long it is looked for again (s).
ON_ITS_WAY_S = 3.0
AGAIN_S = 0.2


def fingerprint(identity: str) -> int:
    """64 bits of an identity; 8 bytes a task are held, whatever the queue's length. Two of a million collide once in 10^7 runs."""
    return _digest(identity.encode("utf-8", "surrogateescape")) & 0xFFFFFFFFFFFFFFFF


def _digest(identity: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "big", signed=True)


#: Python's own hash, where it is long enough, is many times as fast, and good within this process.
_own: Callable[[bytes], int] = hash if sys.hash_info.width >= 64 else _digest


def _numbers(identities: list[str] | list[bytes]) -> Iterable[int]:
    """A signed number of 64 bits for each."""
    if identities and isinstance(identities[0], bytes):
        return map(_own, identities)
    return (_own(identity.encode("utf-8", "surrogateescape")) for identity in cast("list[str]", identities))


class Conservation:
    """Compares the places of a redrive before and after it.

    :param completions: a file on this host with the id of a completed task on each line, or None.
    """

    def __init__(self, store: TaskStore, completions: str | None, check: bool) -> None:
        self._store = store
        self._completions = completions
        self._check = check
        self._before: Census | None = None
        self._after: Census | None = None
        self._ids_before: array[int] | None = None
        self._ids_after: array[int] | None = None
        self._recorded = 0

    def before(self) -> None:
        """Take stock before the first task is moved."""
        if self._completions is not None:
            try:
                self._recorded = os.path.getsize(self._completions)
            except OSError as problem:
                raise Refused(
                    "The completion record %s cannot be read: %s" % (self._completions, problem.strerror),
                    option="completions",
                    next_step="Name the file on the host that runs this task to which workers write the id of each task that they complete",
                ) from problem
        self._before = self._store.census()
        if not self._check:
            self._ids_before = self._fingerprints()

    def after(self) -> None:
        """Take stock after the last one."""
        if not self._check:
            self._ids_after = self._fingerprints()
        self._after = self._store.census()

    def _fingerprints(self) -> array[int] | None:
        pieces = self._store.identities()
        if pieces is None:
            return None
        found = array("q")
        # The broker is asked for the next piece while this one is worked on; one at a time, so that no more are held.
        with ThreadPoolExecutor(1) as aside:
            done: Future[None] | None = None
            for piece in pieces:
                if done is not None:
                    done.result()
                done = aside.submit(found.extend, _numbers(piece))
        if done is not None:
            done.result()
        return found

    def _completed(self) -> array[int]:
        """Fingerprints of the tasks that were recorded as completed since :meth:`before`."""
        if self._completions is None:
            return array("q")
        with open(self._completions, "rb") as record:
            record.seek(self._recorded)
            return array("q", (_own(line.strip()) for line in record if line.strip()))

    def verdict(self, report: RedriveReport) -> dict[str, Any]:
        """``{"before", "after", "verdict": "proven" | "unproven", "by": "identity" | "count", "missing", "added", "reason"}``."""
        before, after = self._before, self._after
        if before is None or after is None:
            return {}
        found: dict[str, Any] = {
            "before": before.counts,
            "after": after.counts,
            "by": "count" if self._ids_before is None else "identity",
            "missing": None,
            "added": None,
        }
        problem = None
        if report.matched != report.moved + report.skipped + report.remaining:
            problem = "matched tasks and their outcomes do not add up"
        elif self._check:
            problem = "check mode: nothing was moved"
        elif self._ids_before is None or self._ids_after is None:
            problem = self._by_count(before, after, report)
        else:
            problem = self._by_identity(before, after, report, found)
        found["verdict"] = "unproven" if problem else "proven"
        found["reason"] = problem or "every task that was there before is there after%s" % (
            ", or is recorded as completed" if self._completions else ""
        )
        return found

    def _by_identity(self, before: Census, after: Census, report: RedriveReport, found: dict[str, Any]) -> str | None:
        missing, added = _difference(self._ids_before or array("q"), self._ids_after or array("q"))
        discarded = report.by_action.get("discard", 0)
        if self._completions is not None:
            missing = self._looked_for(_difference(missing, self._completed())[0], discarded)
        found["missing"], found["added"] = len(missing), len(added)
        if len(missing) <= discarded:
            # What was published meanwhile is added, and takes nothing away.
            return None
        lost = len(missing) - discarded
        gone = "%d %s in none of the places counted" % (lost, "task is" if lost == 1 else "tasks are")
        if self._completions is not None:
            return gone + ", and not recorded as completed"
        if before.activity != after.activity or before.activity is None:
            return "workers took tasks meanwhile: %s; only a record of completions can show what became of them" % gone
        return gone + ": gone to other queues than those counted, expired, or taken"

    def _looked_for(self, missing: array[int], discarded: int) -> array[int]:
        """Those that stay missing: each time in none of the places counted, and not recorded as completed."""
        end = time.monotonic() + ON_ITS_WAY_S
        while len(missing) > discarded and time.monotonic() < end:
            time.sleep(AGAIN_S)
            now = self._fingerprints() or array("q")
            gone, _added = _difference(self._ids_before or array("q"), now)
            gone, _others = _difference(gone, self._completed())
            found, _gone = _difference(missing, gone)
            missing, _found = _difference(missing, found)
        return missing

    def _by_count(self, before: Census, after: Census, report: RedriveReport) -> str | None:
        discarded = report.by_action.get("discard", 0)
        if before.activity != after.activity:
            return "workers took tasks meanwhile; only their completion records can show what became of those"
        if sum(after.counts.values()) != sum(before.counts.values()) - discarded:
            return "tasks were published, taken or failed meanwhile, or went to other queues than those counted"
        return None

    def diff(self, report: RedriveReport) -> dict[str, Any]:
        """What this redrive by itself does to the counts of its source."""
        before = self._before.counts if self._before else {}
        source = next(iter(before), None)
        if source is None:
            return {}
        return {
            "before": {source: before[source], "redriven": 0},
            "after": {source: before[source] - report.moved, "redriven": report.moved},
        }


def _difference(left: array[int], right: array[int]) -> tuple[array[int], array[int]]:
    """What only ``left`` and what only ``right`` holds, as multisets."""
    only_left, only_right = array("q"), array("q")
    if len(left) == len(right) and sum(left) == sum(right):
        return only_left, only_right
    # A part at a time, because numbers take five times the memory while they are sorted.
    for part in range(PARTS):
        mine = Counter(value for value in left if value % PARTS == part)
        mine.subtract(value for value in right if value % PARTS == part)
        for value, count in mine.items():
            (only_left if count > 0 else only_right).extend([value] * abs(count))
    return only_left, only_right
