# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The live board: what happens to the fleet, in operators' words, one line at a time."""

from __future__ import annotations

DOCUMENTATION = r"""
name: board
type: stdout
short_description: Shows a deploy or a rollback of a fleet in operators' words
version_added: 0.1.0
description:
  - Writes one line for each thing that happens to the fleet - which host is on which release in which phase, what a gate measured and
    decided, how many tasks were put back, which operation was opened and how it ended - and leaves out the tasks that only prepare it.
  - Failures, refusals and hosts that cannot be reached are always shown, with the whole sentence that says what to do. A task of another
    collection that fails is shown in full, as by the callback plugin P(ansible.builtin.default#callback). Warnings are never hidden.
  - With C(-v) the names of the tasks are shown as well, with C(-vv) the results too. From C(-vvv) on everything is shown as by
    P(ansible.builtin.default#callback).
  - With C(--diff) differences are shown as by P(ansible.builtin.default#callback).
  - Any task can put a line of its own on the board, by a result with the key C(board). It is a dictionary with C(text) (a text or a list
    of texts), C(subject) (what it is about, by default the host) and C(tone) (V(plain), V(good), V(warn) or V(bad)).
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - Set as C(stdout_callback) in the configuration, or in the environment variable C(ANSIBLE_STDOUT_CALLBACK).
author:
  - The queueops.fleet contributors (@queueops)
"""

EXAMPLES = r"""
ansible.cfg: |
  [defaults]
  stdout_callback = queueops.fleet.board
"""

import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ansible.constants as settings
import ansible.context as cli
from ansible.plugins.callback.default import CallbackModule as DefaultCallback

_OURS = "queueops.fleet."

#: Built-in tasks whose failure is a sentence for the operator, and no more than that.
_SENTENCES = ("ansible.builtin.fail", "ansible.builtin.assert", "ansible.builtin.validate_argument_spec")

_COLORS = {
    "plain": None,
    "good": settings.COLOR_OK,
    "change": settings.COLOR_CHANGED,
    "warn": settings.COLOR_WARN,
    "bad": settings.COLOR_ERROR,
    "lost": settings.COLOR_UNREACHABLE,
    "dim": settings.COLOR_SKIP,
}

#: What an error's code is called on the board.
_CODES = {
    "refused": "REFUSED",
    "not_found": "REFUSED",
    "missing_library": "REFUSED",
    "conflict": "REFUSED",
    "damaged": "JOURNAL DAMAGED",
    "unavailable": "NO ANSWER",
    "out_of_time": "OUT OF TIME",
    "put_back": "PUT BACK",
    "half_done": "HALF DONE",
}

#: The post-mortem's times that have room on the board.
_TIMES = {"detect": "detect_s", "decide": "decide_s", "revert": "revert_s"}

#: How ansible-core 2.19 begins the message of an unreachable host.
_TASK_FAILED = "Task failed: "

#: Columns: the least that a wrapped sentence gets, the most that the first column takes, and the line where no terminal is.
_NARROWEST = 60
_WIDEST_SUBJECT = 24
_WIDTH_WITHOUT_TERMINAL = 120


@dataclass
class Line:
    """One line of the board.

    :ivar subject: what it is about: a host, a queue, a fleet. Empty for the host that the result is from.
    """

    text: str
    tone: str = "plain"
    subject: str = ""


@dataclass
class Seen:
    """A result, alike for every ansible-core.

    :ivar name: our module's name without the collection, empty for a task of another collection.
    :ivar args: the task's arguments, templated.
    """

    host: str
    task: Any
    action: str
    name: str
    data: dict[str, Any]
    args: Mapping[str, Any]

    @classmethod
    def of(cls, result: Any) -> Seen:
        # ansible-core 2.19 made these attributes public; 2.18 only has the private names.
        task = result.task if hasattr(result, "task") else result._task
        host = result.host if hasattr(result, "host") else result._host
        data = result.result if hasattr(result, "result") else result._result
        fields = result.task_fields if hasattr(result, "task_fields") else result._task_fields
        action = str(getattr(task, "resolved_action", None) or task.action)
        args = fields.get("args") if isinstance(fields, Mapping) else None
        return cls(
            host.get_name(),
            task,
            action,
            action[len(_OURS) :] if action.startswith(_OURS) else "",
            data,
            args if isinstance(args, Mapping) else {},
        )

    @property
    def where(self) -> str:
        """The host that the task really ran on."""
        return str(self.task.delegate_to or self.host)

    @property
    def checking(self) -> bool:
        return bool(self.task.check_mode)

    @property
    def hidden(self) -> bool:
        return bool(self.data.get("censored") or self.data.get("_ansible_no_log"))


# -- words ------------------------------------------------------------------------------------------------------------


def _many(count: Any, one: str) -> str:
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def _seconds(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return "?"
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def _known(value: Any) -> str:
    return "not known" if value is None else str(value)


def _part(data: Any, name: str) -> Mapping[str, Any]:
    value = data.get(name) if isinstance(data, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _entries(data: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = data.get(name)
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _release_name(number: Any, version: Any) -> str:
    return f"release {number} ({version})" if version else f"release {number}"


def _board_lines(seen: Seen) -> Iterator[Line]:
    board = seen.data["board"]
    texts = board.get("text") or []
    for text in [texts] if isinstance(texts, str) else texts:
        tone = board.get("tone", "plain")
        yield Line(str(text), tone if tone in _COLORS else "plain", str(board.get("subject") or ""))


# -- what our modules did ---------------------------------------------------------------------------------------------


def _worker_release(seen: Seen) -> Iterator[Line]:
    data = seen.data
    live, release = _part(data, "live"), _part(data, "release")
    phase = str(seen.args.get("phase") or live.get("phase") or "")
    number = release.get("number", live.get("release"))
    name = _release_name(number, release.get("version") or live.get("version"))
    changed, pending = bool(data.get("changed")), bool(data.get("pending"))
    words, tone = _phase_words(phase, changed, pending, seen.checking)
    figures = [] if phase == "prepared" else _switch_figures(live, _part(data, "timings"))
    if phase == "prepared" and pending and live.get("release") is not None:
        figures = ["live is " + _release_name(live.get("release"), live.get("version"))]
    yield Line(f"{name:<20}  {words:<13}  {', '.join(figures)}".rstrip(), tone, seen.where)


def _phase_words(phase: str, changed: bool, pending: bool, checking: bool) -> tuple[str, str]:
    if phase == "prepared":
        if not pending:
            return "already live", "good"
        return ("would be prepared" if checking else "prepared") if changed else "can be switched to", "plain"
    done = {"active": "active", "confirmed": "confirmed", "reverted": "live again"}.get(phase, phase)
    if not changed:
        return f"already {'live' if phase == 'reverted' else done}", "good"
    return f"would be {done}" if checking else done, "change" if phase == "active" else "good"


def _switch_figures(live: Mapping[str, Any], timings: Mapping[str, Any]) -> list[str]:
    workers = _entries(live, "workers")
    running = [worker for worker in workers if worker.get("state") == "running"]
    figures = []
    if workers:
        all_run = len(running) == len(workers)
        figures.append(_many(len(workers), "worker") if all_run else f"{len(running)} of {_many(len(workers), 'worker')} running")
    words = {"drain": "drained", "swap": "switched", "start": "started"}
    figures += [f"{words[step]} in {_seconds(timings[step])}" for step in words if step in timings]
    until = live.get("confirm_until")
    if isinstance(until, (int, float)):
        figures.append(f"confirm by {time.strftime('%H:%M:%S', time.localtime(until))}")
    return figures


def _fleet_operation(seen: Seen) -> Iterator[Line]:
    data = seen.data
    fleet = str(data.get("fleet") or "fleet")
    operation, state = data.get("operation"), _part(data, "state")
    would = "would be " if seen.checking else ""
    taken = _part(data, "taken_over")
    if taken:
        yield Line(f"{taken.get('id')} of {taken.get('actor')} {would}taken over", "warn", fleet)
    if data.get("outcome") is None:
        name = _release_name(data.get("target"), data.get("version"))
        yield Line(f"{operation} {would}opened: to {name}, from release {data.get('from_release')}", "plain", fleet)
        return
    outcome = str(data["outcome"])
    words = {"rolled_back": "rolled back", "nothing_to_do": "nothing to do", "failed": "FAILED"}.get(outcome, outcome)
    tone = "bad" if outcome == "failed" else "good"
    if outcome == "rolled_back" and data.get("kind") == "deploy":
        tone = "warn"
    verb = f"{would}closed" if data.get("changed") else "already was closed"
    good = state.get("known_good")
    known = "no release is known good" if good is None else f"known good is release {good}"
    # After a failure the journal cannot say where the fleet is; the verdict does.
    stands = "the hosts may differ" if outcome == "failed" else f"the fleet is on release {state.get('current')}"
    yield Line(f"{operation} {verb}: {words}; {stands}, {known}", tone, fleet)


def _fleet_journal_info(seen: Seen) -> Iterator[Line]:
    state = _part(seen.data, "state")
    fleet = str(seen.args.get("fleet") or "fleet")
    if not seen.data.get("exists"):
        yield Line("no journal yet: nothing was ever deployed", "plain", fleet)
        return
    good = state.get("known_good")
    known = "no release is known good" if good is None else f"known good is release {good}"
    yield Line(f"on release {state.get('current')}; {known}", "plain", fleet)
    held = _part(state, "open_operation")
    if held:
        whence = f" from {held['controller']}" if held.get("controller") else ""
        yield Line(f"held by {held.get('id')} since {held.get('opened_at')}, opened by {held.get('actor')}{whence}", "warn", fleet)


def _fleet_plan(seen: Seen) -> Iterator[Line]:
    cannot = bool(seen.data.get("cannot"))
    yield Line(str(seen.data.get("msg")), "bad" if cannot else "change" if seen.data.get("changes") else "good", "plan")


def _fleet_verdict(seen: Seen) -> Iterator[Line]:
    failed = not seen.data.get("agree")
    rows = str(seen.data.get("text") or "").splitlines()
    good = [True] + [bool(row.get("ok")) for row in _entries(seen.data, "table")]
    for row, ok in zip(rows, good, strict=False):
        yield Line(row, "plain" if ok else "bad", "verdict")
    if not failed:
        yield Line(str(seen.data.get("msg")), "good", "verdict")


def _fleet_gate(seen: Seen) -> Iterator[Line]:
    data = seen.data
    verdict = str(data.get("verdict", "inconclusive"))
    tone = {"pass": "good", "fail": "bad"}.get(verdict, "warn")
    samples = _entries(data, "samples")
    text = f"{verdict.upper()}: {data.get('reason') or 'no reason was given'}"
    if samples and not data.get("reason"):
        last = samples[-1]
        text += f" ({last.get('failed')} failed, {last.get('completed')} completed)"
    yield Line(text, tone, str(seen.args.get("name") or "gate"))


def _queue_redrive(seen: Seen) -> Iterator[Line]:
    data = seen.data
    abandoned = seen.args.get("source") == "abandoned"
    if abandoned and not data.get("matched"):
        return
    conservation = _part(data, "conservation")
    actions = _part(data, "by_action")
    put_back = not set(actions) - {"requeue"}
    done = "put back" if put_back else "treated by rules (%s)" % ", ".join(f"{name} {actions[name]}" for name in sorted(actions))
    moved = f"would be {done}" if seen.checking else done
    tasks = _many(data.get("matched"), "abandoned task" if abandoned else "matching task")
    text = f"{data.get('moved')} of {tasks} {moved}, {data.get('remaining')} remain"
    if data.get("skipped_count"):
        text += f", {data['skipped_count']} left out"
    # Nothing was moved in check mode, so there is nothing to prove.
    proven = None if seen.checking else conservation.get("verdict")
    if proven:
        text += f"; conservation {proven}"
    if proven == "unproven" and conservation.get("reason"):
        text += f" ({conservation['reason']})"
    tone = "warn" if proven == "unproven" else "change" if data.get("moved") else "good"
    yield Line(text, tone, str(seen.args.get("queue") or "queue"))


def _queue_info(seen: Seen) -> Iterator[Line]:
    for queue in _entries(seen.data, "queues"):
        words = ("queued", "executing", "scheduled", "failed", "dead_lettered")
        figures = [f"{queue[word]} {word.replace('_', '-')}" for word in words if queue.get(word) is not None]
        paused = ", PAUSED" if queue.get("paused") else ""
        yield Line(", ".join(figures) + paused, "warn" if paused else "plain", str(queue.get("name")))
    if isinstance(seen.data.get("workers"), list):
        workers = _entries(seen.data, "workers")
        versions = sorted({str(worker["version"]) for worker in workers if worker.get("version")})
        yield Line(_many(len(workers), "worker") + (f", of version {', '.join(versions)}" if versions else ""), "plain", "workers")


def _queue_drain(seen: Seen) -> Iterator[Line]:
    data = seen.data
    subject = ", ".join(seen.args.get("queues") or []) if isinstance(seen.args.get("queues"), list) else "queues"
    if "drained" in data:
        waited = f" after {_seconds(data['waited_s'])}" if "waited_s" in data else ""
        yield Line(
            f"{'drained' if data['drained'] else 'not drained'}{waited}: {_known(data.get('executing'))} executing, "
            f"{_known(data.get('queued'))} queued",
            "good" if data["drained"] else "warn",
            subject,
        )
    elif "paused" in data:
        would = "would be " if seen.checking and data.get("changed") else "" if data.get("changed") else "already "
        yield Line(would + ("paused" if data["paused"] else "active"), "change" if data.get("changed") else "good", subject)


def _config_snapshot(seen: Seen) -> Iterator[Line]:
    snapshot = _part(seen.data, "snapshot")
    if not seen.data.get("changed"):
        yield Line("config unchanged since its last snapshot", "good", seen.where)
        return
    would = "would be " if seen.checking else ""
    yield Line(f"config {would}recorded as snapshot {snapshot.get('label') or snapshot.get('id')}", "change", seen.where)


def _fleet_postmortem(seen: Seen) -> Iterator[Line]:
    facts = _part(seen.data, "facts")
    times = _part(facts, "times")
    told = [f"{name} {_seconds(times[key]) if times.get(key) is not None else 'not known'}" for name, key in _TIMES.items()]
    yield Line(f"{seen.data.get('operation')}: {facts.get('sentence')}; {', '.join(told)}", "plain", str(seen.args.get("fleet") or "fleet"))


def _changed_or_not(seen: Seen) -> Iterator[Line]:
    """For a module of ours that has no words of its own yet."""
    if seen.data.get("changed"):
        would = "would change: " if seen.checking else "changed: "
        yield Line(would + seen.task.get_name().strip(), "change", seen.where)


def _nothing(seen: Seen) -> Iterator[Line]:
    """What is written into the journal is told by the line of what happened."""
    return iter(())


_WORDS: dict[str, Callable[[Seen], Iterator[Line]]] = {
    "worker_release": _worker_release,
    "fleet_operation": _fleet_operation,
    "fleet_journal": _nothing,
    "fleet_journal_info": _fleet_journal_info,
    "fleet_plan": _fleet_plan,
    "fleet_postmortem": _fleet_postmortem,
    "fleet_verdict": _fleet_verdict,
    "fleet_gate": _fleet_gate,
    "queue_redrive": _queue_redrive,
    "queue_info": _queue_info,
    "queue_drain": _queue_drain,
    "config_snapshot": _config_snapshot,
}


# -- the plugin -------------------------------------------------------------------------------------------------------


class CallbackModule(DefaultCallback):
    """Operators' words up to ``-vv``; everything, as the default callback shows it, from ``-vvv`` on."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "queueops.fleet.board"

    def __init__(self) -> None:
        super().__init__()
        self._width = 8
        #: host -> what its last answer said of its release.
        self._stands: dict[str, str] = {}
        #: host -> how its last task of ours ended, when it did not end well.
        self._ill: dict[str, str] = {}
        self._troubles: dict[str, int] = {}
        #: host -> whether the verdict found it on the wanted release.
        self._judged: dict[str, bool] = {}

    # -- writing --------------------------------------------------------------------------------------------------

    @property
    def _verbosity(self) -> int:
        return int(self._display.verbosity)

    @property
    def _everything(self) -> bool:
        return self._verbosity >= 3

    def _write(self, line: Line, subject: str = "", stderr: bool = False, wrap: bool = False) -> None:
        about = line.subject or subject
        self._width = max(self._width, min(len(about), _WIDEST_SUBJECT))
        lead = f"{time.strftime('%H:%M:%S')}  {about:<{self._width}}  "
        text = _wrapped(line.text, len(lead)) if wrap else line.text.replace("\n", "\n" + " " * len(lead))
        self._display.display((lead + text).rstrip(), color=_COLORS[line.tone], stderr=stderr)

    def _to_stderr(self) -> bool:
        return bool(self.get_option("display_failed_stderr"))

    def _tell_warnings(self, result: Any, seen: Seen) -> None:
        if hasattr(self, "_handle_warnings_and_exception"):
            self._handle_warnings_and_exception(result)
        else:
            self._handle_warnings(seen.data)

    # -- plays and tasks ------------------------------------------------------------------------------------------

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if self._everything:
            super().v2_playbook_on_play_start(play)
            return
        self._play = play
        inventory = getattr(play.get_variable_manager(), "_inventory", None)
        if inventory is not None:
            names = [len(host.get_name()) for host in inventory.get_hosts()]
            self._width = max([self._width, *(min(length, _WIDEST_SUBJECT) for length in names)])
        name = play.get_name().strip() or "play"
        check = "  (check mode: nothing is changed)" if play.check_mode else ""
        self._display.display(f"{time.strftime('%H:%M:%S')}  == {name} =={check}", color=settings.COLOR_HIGHLIGHT)

    def _task_start(self, task: Any, prefix: str | None = None) -> None:
        if self._everything:
            super()._task_start(task, prefix=prefix)
            return
        if prefix is not None:
            self._task_type_cache[task._uuid] = prefix
        # The name is kept for the banner of a failure; with strategy free it may belong to another host's task.
        free = getattr(self._play, "strategy", "linear") in ("free", "host_pinned", "ansible.builtin.free", "ansible.builtin.host_pinned")
        self._last_task_name = None if free else task.get_name().strip()
        if self._verbosity >= 1:
            self._write(Line(task.get_name().strip(), "dim", "task"))
            if self._verbosity >= 2:
                self._print_task_path(task)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        if self._verbosity >= 1:
            super().v2_playbook_on_include(included_file)

    # -- results --------------------------------------------------------------------------------------------------

    def v2_runner_on_ok(self, result: Any) -> None:
        if self._everything:
            super().v2_runner_on_ok(result)
            return
        seen = Seen.of(result)
        self._tell_warnings(result, seen)
        if not (seen.task.loop and "results" in seen.data):
            self._show(result, seen)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        if self._everything:
            super().v2_runner_item_on_ok(result)
            return
        seen = Seen.of(result)
        self._tell_warnings(result, seen)
        self._show(result, seen, item=True)

    def _show(self, result: Any, seen: Seen, item: bool = False) -> None:
        if seen.name:
            self._ill.pop(seen.host, None)
        for line in self._lines(result, seen, item):
            self._write(line, seen.where)
        if self._verbosity >= 2 and not seen.hidden and seen.name:
            self._display.display(self._dump_results(seen.data))

    def _lines(self, result: Any, seen: Seen, item: bool) -> Iterator[Line]:
        if seen.hidden:
            return
        if isinstance(seen.data.get("board"), Mapping):
            yield from _board_lines(seen)
        elif seen.name:
            self._remember(seen)
            yield from _WORDS.get(seen.name, _changed_or_not)(seen)
        elif seen.action in settings._ACTION_DEBUG:
            self._clean_results(seen.data, seen.task.action)
            said = seen.data.get("msg")
            if isinstance(said, list) and all(isinstance(row, str) for row in said):
                said = "\n".join(said)
            yield Line(said if isinstance(said, str) else self._dump_results(seen.data))
        elif seen.data.get("changed"):
            label = f" ({self._get_item_label(seen.data)})" if item else ""
            would = "would change: " if seen.checking else "changed: "
            yield Line(f"{would}{seen.task.get_name().strip()}{label}", "change")

    def _remember(self, seen: Seen) -> None:
        """What the recap says of each host."""
        if seen.name == "worker_release":
            live = _part(seen.data, "live")
            if live.get("release") is not None:
                phase = live.get("phase")
                self._stands[seen.host] = _release_name(live["release"], live.get("version")) + (
                    f", {phase}" if phase not in (None, "confirmed") else ""
                )
        elif seen.name == "fleet_verdict":
            for row in _entries(seen.data, "table"):
                host = str(row.get("host"))
                self._judged[host] = bool(row.get("ok"))
                if row.get("ok"):
                    self._stands[host] = _release_name(row.get("found"), seen.args.get("version"))
                else:
                    self._stands[host] = f"release {_known(row.get('found'))}, wanted {row.get('wanted')}: {row.get('reason')}"
                    if self._ill.get(host) != "unreachable":
                        self._ill[host] = "differs"

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        seen = Seen.of(result)
        self._count_trouble(seen, "failed", lasting=bool(seen.name) or not ignore_errors)
        if self._everything:
            super().v2_runner_on_failed(result, ignore_errors=ignore_errors)
            return
        if seen.task.loop and "results" in seen.data:
            # Each item was shown when it failed.
            self._tell_warnings(result, seen)
        elif self._is_sentence(seen):
            self._show_sentence(seen)
        else:
            super().v2_runner_on_failed(result, ignore_errors=False)
        if ignore_errors:
            self._write(Line("the run goes on", "dim"), seen.where)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        seen = Seen.of(result)
        if not self._everything and self._is_sentence(seen):
            self._show_sentence(seen)
        else:
            super().v2_runner_item_on_failed(result)

    def _is_sentence(self, seen: Seen) -> bool:
        """Whether the message says it all: a failure that our modules explain, or one that a playbook's author wrote."""
        if seen.hidden or not seen.data.get("msg"):
            return False
        if seen.name:
            return (seen.name == "fleet_verdict" and "table" in seen.data) or isinstance(seen.data.get("error"), Mapping)
        return seen.action in _SENTENCES

    def _show_sentence(self, seen: Seen) -> None:
        data, stderr = seen.data, self._to_stderr()
        self._handle_warnings(data)
        self._remember(seen)
        about = ""
        if seen.name == "fleet_verdict":
            about = "verdict"
            for line in _fleet_verdict(seen):
                self._write(line, stderr=stderr)
        message = data["msg"]
        text = "\n".join(str(part) for part in message) if isinstance(message, list) else str(message)
        code = _CODES.get(str(_part(data, "error").get("code")), "FAILED")
        self._write(Line(f"{code}  {text}", "bad", about), seen.where, stderr, wrap=True)
        if data.get("assertion") is not None:
            self._write(Line(f"checked: {data['assertion']}", "dim"), seen.where, stderr, wrap=True)
        if self._verbosity >= 1:
            self._print_task_path(seen.task)
            self._display.display(self._dump_results(data), color=settings.COLOR_ERROR, stderr=stderr)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        seen = Seen.of(result)
        self._count_trouble(seen, "unreachable", lasting=True)
        if self._everything:
            super().v2_runner_on_unreachable(result)
            return
        # The message says what the exception says; the place in the playbook is of no use when a host is down.
        self._handle_warnings(seen.data)
        message = str(seen.data.get("msg") or "no reason was given").strip()
        if message.startswith(_TASK_FAILED):
            message = message[len(_TASK_FAILED) :]
        self._write(Line(f"UNREACHABLE  {message}", "lost"), seen.where, self._to_stderr(), wrap=True)
        if seen.task.ignore_unreachable:
            self._write(Line("the run goes on", "dim"), seen.where)

    def _count_trouble(self, seen: Seen, how: str, lasting: bool) -> None:
        # A verdict fails for the fleet, not for the host that happened to run it.
        if seen.name == "fleet_verdict":
            return
        self._troubles[seen.host] = self._troubles.get(seen.host, 0) + 1
        if lasting and seen.where == seen.host:
            self._ill[seen.host] = how
            if how == "unreachable":
                self._stands.pop(seen.host, None)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._skipped(result, super().v2_runner_on_skipped)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        self._skipped(result, super().v2_runner_item_on_skipped)

    def _skipped(self, result: Any, show_all: Callable[[Any], None]) -> None:
        seen = Seen.of(result)
        if self._everything:
            show_all(result)
            return
        self._tell_warnings(result, seen)
        if seen.name == "queue_redrive" and "matched" in seen.data:
            # It counts the tasks that it left out as skipped, which ansible-core takes for a skipped task.
            self._show(result, seen)

    def v2_on_file_diff(self, result: Any) -> None:
        if self._everything:
            super().v2_on_file_diff(result)
            return
        seen = Seen.of(result)
        results = seen.data.get("results") if seen.task.loop else None
        for entry in results if isinstance(results, list) else [seen.data]:
            if isinstance(entry, Mapping) and entry.get("diff") and entry.get("changed", False):
                diff = self._get_diff(entry["diff"])
                if diff:
                    self._write(Line(f"difference: {seen.task.get_name().strip()}", "dim"), seen.where)
                    self._display.display(diff)

    # -- the end --------------------------------------------------------------------------------------------------

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self._everything:
            super().v2_playbook_on_stats(stats)
            return
        self._display.display(f"{time.strftime('%H:%M:%S')}  == hosts ==", color=settings.COLOR_HIGHLIGHT)
        for host in sorted(stats.processed):
            self._recap(host, stats.summarize(host))
        if stats.custom and self.get_option("show_custom_stats"):
            self._display.display(self._dump_results(stats.custom))
        if cli.CLIARGS.get("check") and self.get_option("check_mode_markers"):
            self._display.display(f"{time.strftime('%H:%M:%S')}  check mode: nothing was changed", color=settings.COLOR_HIGHLIGHT)

    def _recap(self, host: str, summary: Mapping[str, int]) -> None:
        how = self._ill.get(host) or ("failed" if summary.get("failures") else "ok")
        if summary.get("unreachable"):
            how = "unreachable"
        elif self._judged.get(host):
            # Proven to be well, even where the verdict on the others failed the run.
            how = "ok"
        tone = {"ok": "good", "unreachable": "lost"}.get(how, "bad")
        stands = self._stands.get(host) or ("release not known" if how == "unreachable" else "")
        troubles = self._troubles.get(host, 0)
        if troubles and how == "ok":
            stands = ", ".join(part for part in (stands, f"{_many(troubles, 'failure')} on the way") if part)
        self._write(Line(f"{how:<11}  {stands}".rstrip(), tone, host))


def _wrapped(text: str, indent: int) -> str:
    """``text`` broken for the screen; its own line breaks stay."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
    width = max(columns - indent, _NARROWEST)
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        lines += textwrap.wrap(paragraph, width, break_long_words=False, break_on_hyphens=False) or [""]
    return ("\n" + " " * indent).join(lines)
