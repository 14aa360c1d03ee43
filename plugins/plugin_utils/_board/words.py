# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What our modules did, in operators' words: a result in, lines out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .line import TONES, Line
from .seen import Seen, entries, part

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


def many(count: Any, one: str) -> str:
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def seconds(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return "?"
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def known(value: Any) -> str:
    return "not known" if value is None else str(value)


def release_name(number: Any, version: Any) -> str:
    return f"release {number} ({version})" if version else f"release {number}"


def board_lines(seen: Seen) -> Iterator[Line]:
    board = seen.data["board"]
    texts = board.get("text") or []
    for text in [texts] if isinstance(texts, str) else texts:
        tone = board.get("tone", "plain")
        yield Line(str(text), tone if tone in TONES else "plain", str(board.get("subject") or ""))


def _worker_release(seen: Seen) -> Iterator[Line]:
    data = seen.data
    live, release = part(data, "live"), part(data, "release")
    phase = str(seen.args.get("phase") or live.get("phase") or "")
    number = release.get("number", live.get("release"))
    name = release_name(number, release.get("version") or live.get("version"))
    changed, pending = bool(data.get("changed")), bool(data.get("pending"))
    words, tone = _phase_words(phase, changed, pending, seen.checking)
    figures = [] if phase == "prepared" else _switch_figures(live, part(data, "timings"))
    if phase == "prepared" and pending and live.get("release") is not None:
        figures = ["live is " + release_name(live.get("release"), live.get("version"))]
    yield Line(f"{name:<20}  {words:<13}  {', '.join(figures)}".rstrip(), tone, seen.where)


def _phase_words(phase: str, changed: bool, pending: bool, checking: bool) -> tuple[str, str]:
    if phase == "prepared":
        if not pending:
            return "already live", "good"
        return ("would be prepared" if checking else "prepared") if changed else "can be switched to", "plain"
    if phase in ("drained", "killed"):
        return ({"drained": "drained first", "killed": "workers killed"}[phase] if changed else "nothing to do"), "plain"
    done = {"active": "active", "confirmed": "confirmed", "reverted": "live again"}.get(phase, phase)
    if not changed:
        return f"already {'live' if phase == 'reverted' else done}", "good"
    return f"would be {done}" if checking else done, "change" if phase == "active" else "good"


def _switch_figures(live: Mapping[str, Any], timings: Mapping[str, Any]) -> list[str]:
    workers = entries(live, "workers")
    running = [worker for worker in workers if worker.get("state") == "running"]
    figures = []
    if workers:
        all_run = len(running) == len(workers)
        figures.append(many(len(workers), "worker") if all_run else f"{len(running)} of {many(len(workers), 'worker')} running")
    words = {"drain": "drained", "swap": "switched", "start": "started"}
    figures += [f"{words[step]} in {seconds(timings[step])}" for step in words if step in timings]
    until = live.get("confirm_until")
    if isinstance(until, (int, float)):
        figures.append(f"confirm by {time.strftime('%H:%M:%S', time.localtime(until))}")
    return figures


def _fleet_operation(seen: Seen) -> Iterator[Line]:
    data = seen.data
    fleet = str(data.get("fleet") or "fleet")
    operation, state = data.get("operation"), part(data, "state")
    would = "would be " if seen.checking else ""
    taken = part(data, "taken_over")
    if taken:
        yield Line(f"{taken.get('id')} of {taken.get('actor')} {would}taken over", "warn", fleet)
    if data.get("outcome") is None:
        name = release_name(data.get("target"), data.get("version"))
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
    state = part(seen.data, "state")
    fleet = str(seen.args.get("fleet") or "fleet")
    if not seen.data.get("exists"):
        yield Line("no journal yet: nothing was ever deployed", "plain", fleet)
        return
    good = state.get("known_good")
    known = "no release is known good" if good is None else f"known good is release {good}"
    yield Line(f"on release {state.get('current')}; {known}", "plain", fleet)
    held = part(state, "open_operation")
    if held:
        whence = f" from {held['controller']}" if held.get("controller") else ""
        paused = part(held, "paused")
        stays = f"; paused: {paused.get('reason')}" if paused else ""
        yield Line(f"held by {held.get('id')} since {held.get('opened_at')}, opened by {held.get('actor')}{whence}{stays}", "warn", fleet)


def _fleet_plan(seen: Seen) -> Iterator[Line]:
    cannot = bool(seen.data.get("cannot"))
    yield Line(str(seen.data.get("msg")), "bad" if cannot else "change" if seen.data.get("changes") else "good", "plan")


def verdict_lines(seen: Seen) -> Iterator[Line]:
    failed = not seen.data.get("agree")
    rows = str(seen.data.get("text") or "").splitlines()
    good = [True] + [bool(row.get("ok")) for row in entries(seen.data, "table")]
    for row, ok in zip(rows, good, strict=False):
        yield Line(row, "plain" if ok else "bad", "verdict")
    if not failed:
        yield Line(str(seen.data.get("msg")), "good", "verdict")


def _fleet_gate(seen: Seen) -> Iterator[Line]:
    data = seen.data
    if seen.checking:
        # A single look before anything changed: that it can be made is all that it says.
        yield Line("can be measured", "plain", str(seen.args.get("name") or "gate"))
        return
    verdict = str(data.get("verdict", "inconclusive"))
    tone = {"pass": "good", "fail": "bad"}.get(verdict, "warn")
    samples = entries(data, "samples")
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
    conservation = part(data, "conservation")
    actions = part(data, "by_action")
    put_back = not set(actions) - {"requeue"}
    done = "put back" if put_back else "treated by rules (%s)" % ", ".join(f"{name} {actions[name]}" for name in sorted(actions))
    moved = f"would be {done}" if seen.checking else done
    tasks = many(data.get("matched"), "abandoned task" if abandoned else "matching task")
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
    for queue in entries(seen.data, "queues"):
        words = ("queued", "executing", "scheduled", "failed", "dead_lettered")
        figures = [f"{queue[word]} {word.replace('_', '-')}" for word in words if queue.get(word) is not None]
        paused = ", PAUSED" if queue.get("paused") else ""
        yield Line(", ".join(figures) + paused, "warn" if paused else "plain", str(queue.get("name")))
    if isinstance(seen.data.get("workers"), list):
        workers = entries(seen.data, "workers")
        versions = sorted({str(worker["version"]) for worker in workers if worker.get("version")})
        yield Line(many(len(workers), "worker") + (f", of version {', '.join(versions)}" if versions else ""), "plain", "workers")


def _queue_drain(seen: Seen) -> Iterator[Line]:
    data = seen.data
    subject = ", ".join(seen.args.get("queues") or []) if isinstance(seen.args.get("queues"), list) else "queues"
    if "drained" in data:
        waited = f" after {seconds(data['waited_s'])}" if "waited_s" in data else ""
        yield Line(
            f"{'drained' if data['drained'] else 'not drained'}{waited}: {known(data.get('executing'))} executing, "
            f"{known(data.get('queued'))} queued",
            "good" if data["drained"] else "warn",
            subject,
        )
    elif "paused" in data:
        would = "would be " if seen.checking and data.get("changed") else "" if data.get("changed") else "already "
        yield Line(would + ("paused" if data["paused"] else "active"), "change" if data.get("changed") else "good", subject)


def _queue_fence(seen: Seen) -> Iterator[Line]:
    data, opened = seen.data, seen.args.get("state") == "open"
    if not data.get("changed"):
        if not opened:
            yield Line("is shut out", "good", str(data.get("user")))
        return
    would = "would be " if seen.checking else ""
    closed = "" if opened else f", {many(data.get('connections'), 'connection')} closed"
    yield Line(f"{would}{'let in' if opened else 'shut out'} at the broker{closed}", "change", str(data.get("user")))


def _queue_route(seen: Seen) -> Iterator[Line]:
    data, subject = seen.data, str(seen.args.get("route"))
    shares = ", ".join(f"{version} {weight} %" for version, weight in part(data, "weights").items())
    if not data.get("changed"):
        yield Line(f"is divided so: {shares}", "good", subject)
        return
    would = "would be divided: " if seen.checking else "divided: "
    moved = f"; {data['moved']} % of the tasks go to another version" if data.get("moved") else ""
    yield Line(would + shares + moved, "change", subject)


def _queue_route_info(seen: Seen) -> Iterator[Line]:
    if not seen.data.get("exists"):
        yield Line("there is no such route", "warn", str(seen.args.get("route")))
    for version in entries(seen.data, "versions"):
        left = ", ".join(f"{version[word]} {word}" for word in ("queued", "executing", "scheduled") if version.get(word) is not None)
        yield Line(f"{version.get('weight')} %, {version.get('state')}: {left}", "plain", str(version.get("queue")))


def _queue_isolate(seen: Seen) -> Iterator[Line]:
    data, apart = seen.data, seen.args.get("state") == "isolated"
    if not data.get("changed"):
        yield Line("is apart" if apart else "is divided like the others", "good", str(seen.args.get("task")))
        return
    would = "would be " if seen.checking else ""
    moved = sum(count for count in part(data, "moved").values() if isinstance(count, int))
    where = f"apart, in queue {data.get('queue')}" if apart else "divided like the others again"
    yield Line(f"{would}{where}; {many(moved, 'queued task')} {would}moved", "change", str(seen.args.get("task")))


def _feature_gate(seen: Seen) -> Iterator[Line]:
    gate = part(seen.data, "gate")
    told = _whom(gate)
    if not seen.data.get("changed"):
        yield Line(f"is {told}" if told else "is not there", "good", str(gate.get("name")))
        return
    release = "" if gate.get("release") is None else f", of release {gate['release']}"
    yield Line(("would be " if seen.checking else "") + (told or "taken away") + release, "change", str(gate.get("name")))


def _whom(gate: Mapping[str, Any]) -> str:
    """For whom a gate is on; nothing if it is taken away. Targets may be customers, and are only counted."""
    state, share = str(gate.get("state")), f"{gate.get('percent')} %"
    if state == "targets":
        others = f" and {share} of the others" if gate.get("percent") is not None else ""
        return f"on for {many(len(gate.get('targets') or ()), 'target')}{others}"
    return {"on": "on for all", "off": "off for all", "percent": f"on for {share} by {gate.get('key')}"}.get(state, "")


def _config_snapshot(seen: Seen) -> Iterator[Line]:
    snapshot = part(seen.data, "snapshot")
    if not seen.data.get("changed"):
        yield Line("config unchanged since its last snapshot", "good", seen.where)
        return
    would = "would be " if seen.checking else ""
    yield Line(f"config {would}recorded as snapshot {snapshot.get('label') or snapshot.get('id')}", "change", seen.where)


def _fleet_postmortem(seen: Seen) -> Iterator[Line]:
    facts = part(seen.data, "facts")
    times = part(facts, "times")
    told = [f"{name} {seconds(times[key]) if times.get(key) is not None else 'not known'}" for name, key in _TIMES.items()]
    yield Line(f"{seen.data.get('operation')}: {facts.get('sentence')}; {', '.join(told)}", "plain", str(seen.args.get("fleet") or "fleet"))


def changed_or_not(seen: Seen) -> Iterator[Line]:
    """For a module of ours that has no words of its own yet."""
    if seen.data.get("changed"):
        would = "would change: " if seen.checking else "changed: "
        yield Line(would + seen.task.get_name().strip(), "change", seen.where)


def sentence(data: Mapping[str, Any]) -> str:
    """``PUT BACK  Switching worker2 failed ...``: why a task failed, headed by what kind of failure it is."""
    message = data["msg"]
    text = "\n".join(str(line) for line in message) if isinstance(message, list) else str(message)
    return f"{_CODES.get(str(part(data, 'error').get('code')), 'FAILED')}  {text}"


def unreachable(data: Mapping[str, Any]) -> str:
    """``UNREACHABLE  no route to host``"""
    message = str(data.get("msg") or "no reason was given").strip()
    return "UNREACHABLE  " + (message[len(_TASK_FAILED) :] if message.startswith(_TASK_FAILED) else message)


def _nothing(seen: Seen) -> Iterator[Line]:
    """What is written into the journal is told by the line of what happened."""
    return iter(())


WORDS: dict[str, Callable[[Seen], Iterator[Line]]] = {
    "worker_release": _worker_release,
    "fleet_operation": _fleet_operation,
    "fleet_journal": _nothing,
    "fleet_journal_info": _fleet_journal_info,
    "fleet_plan": _fleet_plan,
    "fleet_postmortem": _fleet_postmortem,
    "fleet_verdict": verdict_lines,
    "fleet_approval": _fleet_gate,
    "fleet_gate": _fleet_gate,
    "queue_redrive": _queue_redrive,
    "queue_info": _queue_info,
    "queue_drain": _queue_drain,
    "queue_fence": _queue_fence,
    "queue_isolate": _queue_isolate,
    "queue_route": _queue_route,
    "queue_route_info": _queue_route_info,
    "feature_gate": _feature_gate,
    "config_snapshot": _config_snapshot,
}
