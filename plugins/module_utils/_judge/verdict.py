# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks in, verdict out. Pure: no clock, no broker.

``fail`` says that the version does badly. That it could not be measured, or that too little was seen to judge, is
``inconclusive``: failing is not could-not-measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._errors import Refused


@dataclass(frozen=True)
class Rule:
    """How long a gate watches, and how many bad looks it bears.

    :ivar bake: seconds that the version has to do well, from the first look that could say anything.
    :ivar timeout: seconds after which an undecided gate is inconclusive.
    :ivar fail_limit: so many looks may fail; one more is a verdict.
    :ivar inconclusive_limit: so many looks may be inconclusive; None: as many as there are until the timeout.
    :ivar errors_limit: so many looks in a row that got no answer end it.
    """

    bake: float
    timeout: float
    fail_limit: int = 0
    inconclusive_limit: int | None = None
    errors_limit: int = 5

    def check(self) -> None:
        """:raises Refused: the rule cannot be met."""
        if self.bake < 0 or self.timeout <= 0 or self.timeout < self.bake:
            raise Refused(
                "The gate's timeout (%s s) is over before its bake time (%s s) is" % (self.timeout, self.bake),
                option="timeout",
                next_step="Give timeout longer than bake, both in seconds",
            )
        if self.errors_limit < 1:
            raise Refused("errors_limit must be at least 1", option="errors_limit")
        for name in ("fail_limit", "inconclusive_limit"):
            if (getattr(self, name) or 0) < 0:
                raise Refused("%s is a number of looks, and cannot be below 0" % name, option=name)


@dataclass(frozen=True)
class Finding:
    """What the looks so far say.

    :ivar state: ``pass``, ``fail``, ``inconclusive`` (the newest look got an answer that says nothing), or ``waiting`` (too early).
    :ivar text: the figures.
    :ivar lacking: what is missing, where it is ``waiting``.
    """

    state: str
    text: str
    lacking: str = ""

    @property
    def measured(self) -> bool:
        return self.state in ("pass", "fail")


@dataclass(frozen=True)
class Verdict:
    """``verdict``: pass, fail or inconclusive. ``measured``: whether enough was seen to say anything."""

    verdict: str
    reason: str
    measured: bool

    def as_dict(self, dry_run: bool) -> dict[str, Any]:
        """For the report. A dry run always passes; ``would_be`` is what it would have said, else None."""
        if not dry_run:
            return {"verdict": self.verdict, "reason": self.reason, "measured": self.measured, "would_be": None}
        reason = "dry run, would be %s: %s" % (self.verdict, self.reason)
        return {"verdict": "pass", "reason": reason, "measured": self.measured, "would_be": self.verdict}


class Tally:
    """Counts looks by what came of them, until there is a verdict.

    :ivar newest: the newest finding; None before any look got an answer.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.newest: Finding | None = None
        self.looks = self.failing = self.inconclusive = self.errors = 0
        self._errors_in_row = 0
        self._last_error = ""
        self._baking_since: float | None = None

    def found(self, finding: Finding, elapsed: float) -> None:
        """A look got an answer, ``elapsed`` seconds after the gate began."""
        self.newest = finding
        self.looks += 1
        self._errors_in_row = 0
        self.failing += finding.state == "fail"
        if finding.state == "inconclusive":
            self.inconclusive += 1
            self._baking_since = None  # Nobody knows how it did meanwhile.
        elif self._baking_since is None:
            self._baking_since = elapsed

    def missed(self, reason: str) -> None:
        """A look got no answer."""
        self.looks += 1
        self.errors += 1
        self._errors_in_row += 1
        self._last_error = reason

    def bake_left(self, elapsed: float) -> float | None:
        """Seconds of the bake time that are still to go; None while it has not begun."""
        if self._baking_since is None:
            return None
        return max(self._rule.bake - (elapsed - self._baking_since), 0.0)

    def verdict(self, elapsed: float) -> Verdict | None:
        """The verdict; None while it is too early for one."""
        rule, newest = self._rule, self.newest
        measured = newest is not None and newest.measured
        if newest is not None and newest.state == "fail" and self.failing > rule.fail_limit:
            return Verdict("fail", newest.text + (_of_looks(self.failing, rule.fail_limit) if rule.fail_limit else ""), True)
        if self._errors_in_row >= rule.errors_limit:
            reason = "could not measure: %d looks in a row failed, the last with: %s" % (self._errors_in_row, self._last_error)
            return Verdict("inconclusive", reason, measured)
        if newest is not None and rule.inconclusive_limit is not None and self.inconclusive > rule.inconclusive_limit:
            return Verdict(
                "inconclusive", "could not measure: " + newest.text + _of_looks(self.inconclusive, rule.inconclusive_limit), False
            )
        baked = self._baking_since is not None and elapsed - self._baking_since >= rule.bake
        if newest is not None and newest.state == "pass" and baked and not self._errors_in_row:
            return Verdict("pass", "%s after %.0f s" % (newest.text, elapsed), True)
        if elapsed >= rule.timeout:
            return Verdict("inconclusive", "time is up after %.0f s: %s" % (elapsed, self._undecided()), measured)
        return None

    def _undecided(self) -> str:
        newest = self.newest
        if self._errors_in_row or newest is None:
            return "could not measure, the last look failed with: %s" % (self._last_error or "no reason")
        if newest.state == "inconclusive":
            return "could not measure: %s" % newest.text
        if newest.state == "fail":
            return "the last look failed: %s%s" % (newest.text, _of_looks(self.failing, self._rule.fail_limit))
        return newest.lacking or "%s, but not yet for the bake time of %.0f s" % (newest.text, self._rule.bake)


def _of_looks(count: int, allowed: int) -> str:
    return " (look %d of its kind, %d are allowed)" % (count, allowed)


def single_look(finding: Finding | None, told: str, rule: Rule) -> Verdict:
    """The verdict of one look without any waiting: a failing version shows at once, a good one cannot.

    :param finding: None where one look cannot even show a failing one.
    :param told: the figures.
    """
    if finding is not None and finding.state == "fail" and rule.fail_limit == 0:
        return Verdict("fail", finding.text, True)
    return Verdict("inconclusive", "measured once, did not wait: %s" % told, finding is not None and finding.measured)
