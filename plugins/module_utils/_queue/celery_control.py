# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery's workers, by what they answer to its remote control. No worker answering is not the same as no worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping

from .api import NO_VERSION, Unknowns, WorkerState, version_and_host

#: What is asked of every worker, with the arguments. ``safe`` leaves the tasks' arguments out of the answer.
QUESTIONS: dict[str, dict[str, Any]] = {
    "stats": {},
    "active": {"safe": True},
    "reserved": {},
    "scheduled": {},
    "active_queues": {},
}

SILENT = "a worker did not answer; a worker of the pool solo answers only between tasks"
NOT_COUNTED = "Celery's workers count the tasks that they began, not how those ended"
NOT_ASKED = "the workers were not asked (ask_workers=false); only they know"


@dataclass
class Answers:
    """What came back.

    :ivar by: question -> node -> what it answered.
    :ivar complete: every worker that got the questions has answered all of them.
    :ivar nodes: the nodes that are known to listen or to have listened, None where the broker does not tell.
    :ivar why_not: why nobody was asked, or None.
    """

    by: dict[str, dict[str, Any]] = field(default_factory=dict)
    complete: bool = False
    nodes: list[str] | None = None
    why_not: str | None = None

    def names(self) -> list[str]:
        return sorted({node for answers in self.by.values() for node in answers})

    def silent(self) -> list[str]:
        """Nodes that are known and did not answer everything."""
        return [node for node in self.nodes or [] if any(node not in self.by.get(question, {}) for question in QUESTIONS)]

    def routes(self) -> dict[tuple[str, str], str]:
        """Exchange and routing key -> the queue that gets it, by what the workers consume."""
        found = {}
        for answer in self.by.get("active_queues", {}).values():
            for queue in _tasks(answer):
                exchange = queue.get("exchange")
                if isinstance(exchange, dict) and "name" in queue:
                    found[(str(exchange.get("name") or ""), str(queue.get("routing_key") or ""))] = str(queue["name"])
        return found

    def add(self, question: str, body: Any) -> None:
        """Take the body of one reply: ``{node: answer}``."""
        if isinstance(body, dict):
            for node, answer in body.items():
                self.by.setdefault(question, {})[str(node)] = answer


def control_body(
    question: str, arguments: Mapping[str, Any], nodes: list[str] | None, ticket: str | None, reply: str, key: str
) -> dict[str, Any]:
    """The body of a message to the workers' control. ``nodes`` None: to all; ``ticket`` None: no answer is wanted."""
    body: dict[str, Any] = {"method": question, "arguments": dict(arguments), "destination": nodes, "pattern": None, "matcher": None}
    if ticket is not None:
        body.update(ticket=ticket, reply_to={"exchange": reply, "routing_key": key})
    return body


def _tasks(answer: Any) -> list[dict[str, Any]]:
    return [task for task in answer if isinstance(task, dict)] if isinstance(answer, list) else []


def held_by(answers: Answers, node: str) -> list[tuple[str, dict[str, Any]]]:
    """The tasks that a node has in hand: ``(active | reserved | scheduled, task)``; task as Celery's ``Request.info``."""
    held = [(question, task) for question in ("active", "reserved") for task in _tasks(answers.by.get(question, {}).get(node))]
    for entry in _tasks(answers.by.get("scheduled", {}).get(node)):
        if isinstance(entry.get("request"), dict):
            held.append(("scheduled", entry["request"]))
    return held


def routed(task: Mapping[str, Any], routes: Mapping[tuple[str, str], str], own: list[str] | None) -> str | None:
    """The queue that a task came from; None: it was published to an exchange that leads on, as a route does, and nobody tells where to.

    :param own: the queues that its worker consumes; the task came from one of them, unless that was cancelled since.
    """
    info = task.get("delivery_info")
    if not isinstance(info, dict):
        return ""
    exchange, key = str(info.get("exchange") or ""), str(info.get("routing_key") or "")
    # Celery's own exchanges bear the queue's name, as the key does.
    if (exchange, key) in routes or exchange in ("", key):
        return routes.get((exchange, key), key)
    return own[0] if own and len(own) == 1 else None


def may_be_of(queue: str, task: Mapping[str, Any], routes: Mapping[tuple[str, str], str], own: list[str] | None) -> bool:
    """Whether a task counts as one of ``queue``: rather of too many queues than of none."""
    found = routed(task, routes, own)
    return found == queue if found is not None else not own or queue in own


def queues_of(answers: Answers, node: str) -> list[str] | None:
    answer = answers.by.get("active_queues", {}).get(node)
    return [str(queue["name"]) for queue in _tasks(answer) if "name" in queue] if isinstance(answer, list) else None


def held_of(answers: Answers, queue: str) -> tuple[set[str], set[str], int]:
    """Ids of all tasks that any worker has in hand; of ``queue`` those acknowledged before they run, and how many are scheduled."""
    routes = answers.routes()
    every: set[str] = set()
    acknowledged: set[str] = set()
    scheduled = 0
    for node in answers.names():
        for kind, task in held_by(answers, node):
            every.add(str(task.get("id")))
            if not may_be_of(queue, task, routes, queues_of(answers, node)):
                continue
            scheduled += kind == "scheduled"
            if kind != "scheduled" and task.get("acknowledged"):
                acknowledged.add(str(task.get("id")))
    return every, acknowledged, scheduled


def workers_of(answers: Answers, at: float, names: list[str] | None, unknowns: Unknowns, receivers: int | None) -> list[WorkerState]:
    """Every worker that answered or is known to have listened.

    :param names: the queues asked about (None: all); a worker that consumes others and holds none of their tasks is left out.
    :param receivers: how many got the questions; None: not known.
    """
    found = []
    for node in sorted(set(answers.names()) | set(answers.nodes or [])):
        worker = _worker(answers, node, at, names)
        if worker is None:
            continue
        if worker.version is None:
            unknowns.note("workers.version", NO_VERSION, node)
        if worker.state is None and receivers is not None and answers.complete and node not in answers.names():
            worker.state = "gone"
        for name in ("pid", "queues", "state", "started", "last_seen"):
            if getattr(worker, name) is None:
                reason = "nobody listens in its name any more" if worker.state == "gone" else answers.why_not or SILENT
                unknowns.note("workers." + name, reason, node)
        found.append(worker)
    if found:
        unknowns.note("workers.completed", NOT_COUNTED)
        unknowns.note("workers.failed", NOT_COUNTED)
    return found


def _worker(answers: Answers, node: str, at: float, names: list[str] | None) -> WorkerState | None:
    """One worker; None when it has nothing to do with the queues asked about."""
    routes = answers.routes()
    version, host = version_and_host(node)
    worker = WorkerState(name=node, version=version, host=host or node.partition("@")[2] or None)
    held = held_by(answers, node)
    worker.queues = queues_of(answers, node)
    here = names is None or worker.queues is None or bool(set(worker.queues) & set(names))
    if not here and not any(may_be_of(name, task, routes, worker.queues) for _kind, task in held for name in names or ()):
        return None
    stats = answers.by.get("stats", {}).get(node)
    if isinstance(stats, dict):
        worker.pid = stats.get("pid") if isinstance(stats.get("pid"), int) else None
        uptime = stats.get("uptime")
        worker.started = at - float(uptime) if isinstance(uptime, (int, float)) else None
        worker.last_seen = at
    if held:
        worker.state = "busy"
        _name_task(worker, held, names, routes)
    elif all(node in answers.by.get(question, {}) for question in ("active", "reserved", "scheduled")):
        worker.state = "idle"
    return worker


def _name_task(
    worker: WorkerState, held: list[tuple[str, dict[str, Any]]], names: list[str] | None, routes: Mapping[tuple[str, str], str]
) -> None:
    """The task in hand: one that executes rather than one that waits, of the queues asked about rather than of others, the oldest."""

    def rank(entry: tuple[str, dict[str, Any]]) -> tuple[bool, bool, float]:
        kind, task = entry
        foreign = names is not None and not any(may_be_of(name, task, routes, worker.queues) for name in names)
        return (foreign, kind != "active", float(task.get("time_start") or 0))

    kind, task = min(held, key=rank)
    worker.task = str(task.get("id"))
    worker.task_queue = routed(task, routes, worker.queues) or None
    since = task.get("time_start")
    worker.task_since = float(since) if kind == "active" and isinstance(since, (int, float)) else None
