# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The redrive, the same for every queue system: which tasks, what becomes of each, how fast, when to stop, and what is proved."""

from __future__ import annotations

import fnmatch
import re
import time
import uuid
from dataclasses import asdict, replace
from typing import Any

from .._errors import FleetError, Refused
from .api import (
    FINISH,
    Breaker,
    Capabilities,
    Decision,
    Match,
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

#: Tasks named in a report, of all and of each rule.
SAMPLE = 20
RULE_SAMPLE = 5
#: At most this many different names are counted apart.
NAMES = 100
#: With a rate, tasks are sent in portions of what the rate allows in this time (s), or of what is overdue.
PORTION_S = 0.1
#: Of the time in which the host was too slow for the rate, this much is made up for (s).
CAUGHT_UP_S = 1.0
#: Seconds between two questions for the fate of redriven tasks.
FATE_S = 0.2


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


class Matcher:
    """Whether a task fits a rule. Three answers: yes, no, and "it does not record what is asked" (None)."""

    def __init__(self, match: Match) -> None:
        self._match = match
        self._ids = frozenset(match.ids) if match.ids is not None else None
        self._pattern = match.error_pattern()
        self.any = not match.named()
        #: What has to be loaded before :meth:`fits` can tell.
        self.needs = frozenset(
            what for what, wanted in (("error", match.error), ("headers", match.header), ("fields", match.field)) if wanted is not None
        )

    def could_fit(self, task: Task, now: float) -> bool | None:
        """By what is known of every task, without loading more."""
        match = self._match
        if self._ids is not None and task.id not in self._ids:
            return False
        told: list[bool | None] = []
        if match.task is not None:
            told.append(None if task.name is None else fnmatch.fnmatchcase(task.name, match.task))
        if match.version is not None:
            told.append(None if task.version is None else task.version == match.version)
        if match.older_than is not None or match.newer_than is not None:
            told.append(None if task.ended_at is None else self._of_age(now - task.ended_at))
        return _all(told)

    def _of_age(self, age: float) -> bool:
        older, newer = self._match.older_than, self._match.newer_than
        return (older is None or age > older) and (newer is None or age < newer)

    def fits(self, task: Task) -> bool | None:
        """By what had to be loaded."""
        match = self._match
        told: list[bool | None] = []
        if self._pattern is not None:
            told.append(None if task.error is None else bool(self._pattern.search(task.error)))
        for name, wanted in (match.header or {}).items():
            told.append(None if task.headers is None else str(task.headers.get(name)) == wanted and name in task.headers)
        for name, wanted in (match.field or {}).items():
            told.append(None if task.fields is None else field_text(task.fields, name) == wanted)
        return _all(told)


def _all(told: list[bool | None]) -> bool | None:
    """Whether all hold; one that does not outweighs those that are unknown."""
    if False in told:
        return False
    return None if None in told else True


def field_text(fields: Any, path: str) -> str | None:
    """The value at ``path`` (names and list positions joined by dots) of a JSON payload as text; None if there is none.

    ``true``, ``false`` and ``null`` read as JSON writes them.
    """
    value = fields
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and re.match(r"^-?\d+$", part) and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return None if isinstance(value, (dict, list)) else str(value)


class Pace:
    """How many tasks may go now: at most ``rate`` a second, which is reached after ``ramp`` seconds of linear growth."""

    def __init__(self, rate: float | None, ramp: float) -> None:
        self._rate = rate
        self._ramp = ramp
        self._sent = 0
        self._began: float | None = None

    def portion(self, most: int) -> int:
        """How many of ``most`` to send next; waits until at least one may go."""
        if self._rate is None:
            return most
        now = time.monotonic()
        if self._began is None:
            self._began = now
        # A little lateness is caught up, so that the rate is kept on a busy host; more of it would be a burst.
        self._began = max(self._began, now - self._when(self._sent) - CAUGHT_UP_S)
        overdue = self._allowed(now - self._began) - self._sent
        portion = max(1, min(most, max(int(self._rate * PORTION_S), overdue)))
        wait = self._began + self._when(self._sent + portion) - now
        if wait > 0:
            time.sleep(wait)
        self._sent += portion
        return portion

    def _allowed(self, elapsed: float) -> int:
        """How many tasks may have gone so many seconds after the beginning."""
        rate = float(self._rate or 0)
        if elapsed < self._ramp:
            return int(rate * elapsed**2 / (2 * self._ramp))
        return int(rate * (elapsed - self._ramp / 2))

    def _when(self, sent: int) -> float:
        """Seconds after the beginning at which ``sent`` tasks may have gone."""
        rate = float(self._rate or 0)
        on_ramp = rate * self._ramp / 2
        if sent <= on_ramp:
            return float((2 * sent * self._ramp / rate) ** 0.5)
        return self._ramp + (sent - on_ramp) / rate


class Fuse:
    """The circuit breaker: few tasks go at first, then twice as many, as long as those whose fate is known did not fail again.

    So when it trips, no more than the tasks it needs to judge have been sent into a worker that always fails.
    """

    def __init__(self, store: TaskStore, breaker: Breaker) -> None:
        self._store = store
        self._breaker = breaker
        self._window = max(1, breaker.min_tasks)
        self.settled = self.failed_again = 0

    def room(self, moved: int) -> int:
        """How many more may go when ``moved`` went so far; waits for fates. 0: it has tripped."""
        end = time.monotonic() + self._breaker.patience
        while True:
            if moved:
                self.settled, self.failed_again = self._store.fates(moved)
            if self.tripped(moved):
                return 0
            if self.settled >= moved and moved >= self._window:
                self._window *= 2
            # Until enough fates are known to judge by, what is settled makes no room for more.
            unsettled = moved - self.settled if self.settled >= self._breaker.min_tasks else moved
            room = self._window - unsettled
            if room > 0:
                return room
            if time.monotonic() > end:
                return 0
            time.sleep(FATE_S)

    def tripped(self, moved: int) -> bool:
        """Whether enough fates are known, and too many of them are failures."""
        enough = self.settled >= min(self._breaker.min_tasks, moved) > 0 and self.settled >= self._breaker.min_tasks
        return enough and self.failed_again > self._breaker.limit * self.settled

    def reason(self, moved: int) -> str:
        told = "%d of the %d redriven tasks whose fate is known failed again" % (self.failed_again, self.settled)
        if self.tripped(moved):
            return "%s, which is more than %g %%" % (told, 100 * self._breaker.limit)
        return "after %g s only %s; are workers running?" % (self._breaker.patience, told)


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


def error_class(block: str | None) -> str | None:
    """The exception's class name; its message may hold data and is not shown."""
    found = re.match(r"[A-Za-z_][\w.:]*(?=:|$)", block or "")
    return found.group(0).rstrip(":") if found else None


def _count_name(counts: dict[str, int], name: str, count: int = 1) -> None:
    if name not in counts and len(counts) >= NAMES:
        name = "others"
    counts[name] = counts.get(name, 0) + count
