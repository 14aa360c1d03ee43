# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The redrive, the same for every queue system: which tasks, what becomes of each, how fast, when to stop, and what is proved."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict, replace
from typing import Any

from .._errors import FleetError, Refused
from .api import (
    FINISH,
    Capabilities,
    Decision,
    QueueBackend,
    RedriveReport,
    RedriveRequest,
    Rule,
    RuleReport,
    Sweep,
    Task,
    TaskStore,
)
from .conservation import Conservation
from .matching import Matcher, error_class
from .pace import Fuse, Pace

#: Tasks named in a report, of all and of each rule.
SAMPLE = 20
RULE_SAMPLE = 5
#: At most this many different names are counted apart.
NAMES = 100


def redrive(backend: QueueBackend, request: RedriveRequest, check: bool = False) -> RedriveReport:
    """Redrive by ``request``. With ``check`` only count what each rule would take.

    :raises Refused: the system cannot do what is asked, or an option is wrong. Nothing was changed.
    :raises NotFound: the queue or a destination does not exist.
    :raises FleetError: it broke off; the details hold the report so far, and running again under the same run goes on.
    """
    _require(backend.capabilities, request, check)
    if request.run is None and not check and "redrive_run" in backend.capabilities.can:
        request = replace(request, run="auto-%s" % uuid.uuid4().hex[:12])
    store = backend.open_store(request, check)
    try:
        return _Run(store, request, check).go()
    finally:
        store.close()


def _require(able: Capabilities, request: RedriveRequest, check: bool) -> None:
    """Refuse what the system cannot do, or what makes no sense, before anything is touched."""
    able.require("redrive", "backend")
    able.require_source(request.source)
    if request.run is not None:
        able.require("redrive_run", "run")
    if request.max_redrives is not None:
        able.require("redrive_count", "max_redrives")
        able.require_action("park")
    if request.breaker is not None:
        able.require("breaker", "breaker")
    if check and any(rule.match.named() for rule in request.rules):
        able.require("check", "match")
    if request.held_by is not None:
        able.require("in_flight", "held_by")
        if request.source != "executing":
            raise Refused("Only executing tasks are in a worker's hands", option="held_by", next_step="Give source=executing")
    for rule in request.rules:
        _require_rule(able, rule, request.source)
    if request.rate is not None and request.rate <= 0:
        raise Refused("rate is %s tasks a second" % request.rate, option="rate", next_step="Give a rate above 0, or leave it out")
    if request.breaker is not None and not 0 <= request.breaker.limit < 1:
        raise Refused(
            "breaker.limit is %s, and has to be a share from 0 to below 1" % request.breaker.limit,
            option="breaker",
            next_step="Give for example limit=0.2 for a fifth",
        )


def _require_rule(able: Capabilities, rule: Rule, source: str) -> None:
    if rule.action != FINISH:
        able.require_action(rule.action)
    elif source != "executing":
        raise Refused("Only executing tasks can be left to finish", option="rules", next_step="Use another action")
    able.require_match(rule.match.named())
    rule.match.error_pattern()
    if rule.action == "compensate" and not rule.destination:
        raise Refused(
            "A rule that compensates does not say which queue undoes the task's effect",
            option="rules",
            next_step="Name the queue in the rule's destination",
        )
    if rule.destination and rule.action not in ("requeue", "compensate"):
        raise Refused(
            "A rule with action=%s has a destination, and would not use it" % rule.action,
            option="rules",
            next_step="Leave destination out, or use action=requeue",
        )


class _Run:
    """One redrive under way."""

    def __init__(self, store: TaskStore, request: RedriveRequest, check: bool) -> None:
        self._store = store
        self._request = request
        self._check = check
        self._rules = [(rule, Matcher(rule.match), RuleReport(rule.action, rule.destination, rule.name)) for rule in request.rules]
        self._report = RedriveReport(run=request.run)
        self._pace = Pace(request.rate, request.ramp)
        self._fuse = Fuse(store, request.breaker) if request.breaker is not None and not check else None
        self._requeued = 0
        self._open = True
        self._acted = False

    def go(self) -> RedriveReport:
        store, report = self._store, self._report
        proof = Conservation(store, self._request.completions, self._check)
        try:
            proof.before()
            began = time.monotonic()
            if not self._sweep():
                self._walk()
            report.seconds = round(time.monotonic() - began, 3)
            proof.after()
        except FleetError as error:
            self._finish()
            error.details = dict(report.as_dict(), **error.details)
            if self._acted:
                # Also with 0 moved: the answer to the first batch may be what did not come.
                error.still_true = "%d tasks are known to be moved; %s" % (report.moved, store.unfinished())
            raise
        self._finish()
        report.conservation = proof.verdict(report)
        report.diff = proof.diff(report)
        report.warnings.extend(store.warnings)
        if report.undetermined:
            report.warnings.append("%d tasks do not record what match asks for and were left where they are" % report.undetermined)
        if report.stopped and report.stopped["by"] == "breaker":
            report.warnings.append("The breaker stopped the redrive: %s" % report.stopped["reason"])
        return report

    def _sweep(self) -> bool:
        """Let the server take everything, if there is nothing to choose and the store can do it. False: nothing was done."""
        if self._check or len(self._rules) != 1 or not self._rules[0][1].any or self._request.max_redrives is not None:
            return False
        rule, _matcher, counted = self._rules[0]
        if rule.action == FINISH:
            return False
        report, first = self._report, True
        while True:
            room = self._room(self._store.batch)
            self._acted = self._acted or room > 0
            swept = self._store.sweep(rule.action, rule.destination, room)
            if swept is None:
                self._acted = not first
                return not first
            if not room:
                # What the limit or the breaker left, counted as a sweep of nothing.
                report.matched += swept.matched
                report.remaining += swept.matched
                counted.matched += swept.matched
                counted.remaining += swept.matched
                return True
            if not swept.matched:
                return True
            first = False
            self._add(swept, counted)

    def _add(self, swept: Sweep, counted: RuleReport) -> None:
        report = self._report
        report.matched += swept.matched
        report.moved += swept.moved
        counted.matched += swept.matched
        counted.moved += swept.moved
        if counted.action in ("requeue", "compensate"):
            self._requeued += swept.moved
        for reason, count in swept.skipped_because.items():
            report.skip(reason, count)
            counted.skipped += count
        if swept.moved:
            _count_name(report.by_action, counted.action, swept.moved)
        for task in swept.sample:
            self._show(Decision(task, counted.action, counted.destination), counted)
        for into, counts in ((report.by_version, swept.by_version), (report.by_task, swept.by_task)):
            for name, count in counts.items():
                _count_name(into, name, count)

    def _walk(self) -> None:
        store = self._store
        now = store.now()
        for window in store.windows():
            chosen, left = self._decide(window, now)
            if left:
                store.leave(left)
            self._act(chosen)
            if not self._open and not self._check and not self._counts_on():
                break

    def _counts_on(self) -> bool:
        """Whether to walk on after the last task to be moved, only to count what remains: not where looking means taking."""
        return type(self._store).leave is TaskStore.leave

    def _decide(self, window: list[Task], now: float) -> tuple[list[tuple[Decision, RuleReport]], list[Task]]:
        """The first rule that each task fits, and the tasks that none fits."""
        if len(self._rules) == 1 and self._rules[0][1].any:
            rule, _matcher, counted = self._rules[0]
            return [(self._decision(task, rule), counted) for task in window], []
        chosen: dict[int, tuple[Decision, RuleReport]] = {}
        pending = list(enumerate(window))
        unclear: list[tuple[int, Task]] = []
        for rule, matcher, counted in self._rules:
            candidates: list[tuple[int, Task]] = []
            rest: list[tuple[int, Task]] = []
            for index, task in pending:
                answer = matcher.could_fit(task, now)
                if answer is None:
                    unclear.append((index, task))
                else:
                    (candidates if answer else rest).append((index, task))
            if matcher.needs and candidates:
                self._store.load([task for _index, task in candidates], matcher.needs)
            for index, task in candidates:
                answer = matcher.fits(task)
                if answer:
                    chosen[index] = (self._decision(task, rule), counted)
                elif answer is None:
                    # A later rule must not take what an earlier one might have meant.
                    unclear.append((index, task))
                else:
                    rest.append((index, task))
            pending = sorted(rest, key=lambda entry: entry[0])
        self._report.undetermined += len(unclear)
        left = [task for _index, task in sorted(pending + unclear, key=lambda entry: entry[0])]
        return [chosen[index] for index in sorted(chosen)], left

    def _decision(self, task: Task, rule: Rule) -> Decision:
        most = self._request.max_redrives
        if rule.action == "requeue" and most is not None and task.redrives >= most:
            return Decision(task, "park")
        return Decision(task, rule.action, rule.destination)

    def _act(self, chosen: list[tuple[Decision, RuleReport]]) -> None:
        """Act on the chosen ones as far as limit, rate and breaker let, and count what became of each."""
        report = self._report
        report.matched += len(chosen)
        able = []
        for decision, counted in chosen:
            counted.matched += 1
            if decision.action == FINISH:
                self._keep(decision, counted)
            elif decision.task.obstacle:
                report.skip(decision.task.obstacle)
                counted.skipped += 1
            else:
                able.append((decision, counted))
        hindered = [decision.task for decision, _counted in chosen if decision.task.obstacle or decision.action == FINISH]
        if hindered:
            self._store.leave(hindered)
        while able:
            room = self._room(len(able))
            if not room:
                self._remain(able)
                return
            portion, able = able[:room], able[room:]
            self._name(portion)
            self._acted = not self._check
            outcomes = [""] * len(portion) if self._check else self._store.apply([decision for decision, _counted in portion])
            self._count(portion, outcomes)

    def _keep(self, decision: Decision, counted: RuleReport) -> None:
        """A task that is left to finish where it is."""
        self._report.remaining += 1
        counted.remaining += 1
        if len(counted.sample) < RULE_SAMPLE:
            counted.sample.append(_told(decision))

    def _room(self, wanted: int) -> int:
        """How many tasks may be acted on now; 0 closes the run."""
        if not self._open:
            return 0
        room = min(wanted, self._store.batch)
        if self._request.limit is not None:
            left = self._request.limit - self._report.moved
            if left <= 0:
                self._stop("limit", "limit=%d" % self._request.limit)
                return 0
            room = min(room, left)
        if self._check:
            return room
        if self._fuse is not None:
            room = min(room, self._fuse.room(self._requeued))
            if not room:
                self._stop("breaker", self._fuse.reason(self._requeued))
                return 0
        return self._pace.portion(room)

    def _stop(self, by: str, reason: str) -> None:
        self._open = False
        self._report.stopped = {"by": by, "reason": reason}

    def _remain(self, able: list[tuple[Decision, RuleReport]]) -> None:
        self._report.remaining += len(able)
        for _decision, counted in able:
            counted.remaining += 1
        self._store.leave([decision.task for decision, _counted in able])

    def _name(self, portion: list[tuple[Decision, RuleReport]]) -> None:
        """Load the errors of those that the report will name, before they are gone."""
        named = [decision.task for decision, _counted in portion[: SAMPLE - len(self._report.sample)] if decision.task.error is None]
        if named:
            self._store.load(named, frozenset(("error",)))

    def _count(self, portion: list[tuple[Decision, RuleReport]], outcomes: list[str]) -> None:
        report = self._report
        for (decision, counted), outcome in zip(portion, outcomes):
            task = decision.task
            if outcome:
                report.skip(outcome)
                counted.skipped += 1
                continue
            report.moved += 1
            counted.moved += 1
            if decision.action in ("requeue", "compensate"):
                self._requeued += 1
            _count_name(report.by_action, decision.action)
            _count_name(report.by_version, task.version or "unknown")
            _count_name(report.by_task, task.name or "unknown")
            self._show(decision, counted)

    def _show(self, decision: Decision, counted: RuleReport) -> None:
        for sample, most in ((self._report.sample, SAMPLE), (counted.sample, RULE_SAMPLE)):
            if len(sample) < most:
                sample.append(_told(decision))

    def _finish(self) -> None:
        report = self._report
        report.held = self._store.held
        report.rules = [asdict(counted) for _rule, _matcher, counted in self._rules]
        if self._fuse is not None:
            report.settled, report.failed_again = self._fuse.settled, self._fuse.failed_again


def _told(decision: Decision) -> dict[str, Any]:
    """What a report says of one task: nothing of its payload, and of its error the class alone."""
    task = decision.task
    return {
        "id": task.id,
        "task": task.name,
        "version": task.version,
        "error": error_class(task.error),
        "ended_at": task.ended_at,
        "redrives": task.redrives,
        "action": decision.action,
    }


def _count_name(counts: dict[str, int], name: str, count: int = 1) -> None:
    if name not in counts and len(counts) >= NAMES:
        name = "others"
    counts[name] = counts.get(name, 0) + count
