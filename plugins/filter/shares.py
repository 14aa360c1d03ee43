# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over the part ``route`` of a fleet specification: which share of the tasks a version gets, and when."""

from __future__ import annotations

from typing import Any

from ansible_collections.queueops.fleet.plugins.filter.operation import iso
from ansible_collections.queueops.fleet.plugins.filter.queue import queue_can
from ansible_collections.queueops.fleet.plugins.filter.queue_names import VERSION
from ansible_collections.queueops.fleet.plugins.filter.rules import queues_in_turn

Route = dict[str, Any]
Waves = list[list[str]]


def shares_refusal(queue: dict[str, Any], route: Route, waves: Waves) -> str:
    """Why the tasks cannot be divided as the specification says; empty: they can. What only the broker knows is not looked at.

    :param queue: the part ``queue`` of the fleet specification.
    :param route: its part ``route``; empty where the versions take tasks from the same queues.
    :param waves: the hosts of each wave.
    """
    versioned = [name for name in queue["names"] if VERSION in name]
    if not route:
        return (
            ""
            if not versioned
            else (
                "queueops_fleet.queue.names has %s, a queue for each version, and nothing divides the tasks among them. "
                "Say in queueops_fleet.route how they are divided, or name a queue that all versions take tasks from." % versioned[0]
            )
        )
    if len(versioned) != 1:
        return "queueops_fleet.route divides the tasks of one queue among versions, and queueops_fleet.queue.names has %s. %s" % (
            "the queues %s for each of them" % ", ".join(versioned) if versioned else "no queue for each of them",
            "Put {version} into the name of one queue, as in %s-{version}." % route["name"],
        )
    if not queue_can(queue, "source:queued", "action:requeue"):
        return (
            "A %s queue gives no queued task back, so that a version that is rolled back would keep its share of them. Leave "
            "queueops_fleet.route out." % queue["backend"]
        )
    if len(waves) < 2:
        return (
            "queueops_fleet.route gives a version a share of the tasks while the other one still has workers, and queueops_fleet.waves "
            "switches all %d hosts at once. Name a smaller wave before the last one." % len(waves[0] if waves else [])
        )
    return _no_growth(route.get("shares"), len(waves))


def _no_growth(shares: Any, waves: int) -> str:
    """What is wrong with the shares that the specification names."""
    if shares is None:
        return ""
    if not shares or any(not 0 < share < 100 for share in shares) or list(shares) != sorted(shares):
        return (
            "queueops_fleet.route.shares is %s. It takes percent from 1 to 99 that do not become less, one for each wave but the last."
            % shares
        )
    if len(shares) > waves - 1:
        return "queueops_fleet.route.shares has %d shares for %d waves; before the last wave the version gets everything. Leave %d out." % (
            len(shares),
            waves,
            len(shares) - waves + 1,
        )
    return ""


def shares_of_waves(route: Route, waves: Waves) -> list[int]:
    """Percent of the tasks that a version gets after each wave, and before the last one: 100.

    :param route: the part ``route`` of the fleet specification; without C(shares) a version gets the share of its hosts.
    :param waves: the hosts of each wave.
    """
    total = sum(len(wave) for wave in waves)
    given = route.get("shares") or []
    found, switched = [], 0
    for index, wave in enumerate(waves[:-1]):
        switched += len(wave)
        found.append(int(given[min(index, len(given) - 1)]) if given else min(max(100 * switched // total, 1), 99))
    return [*found, 100]


def share_weights(versions: list[dict[str, Any]], version: str, share: int, rest: str) -> dict[str, int]:
    """The weights with which ``version`` has ``share`` percent and ``rest`` the others; every other version that has some gets none.

    :param versions: as M(queueops.fleet.queue_route_info) returned them.
    """
    weights = {str(one["version"]): 0 for one in versions if one["weight"]}
    weights.update({version: share, rest: 100 - share} if rest != version else {version: 100})
    return weights


def share_of(versions: list[dict[str, Any]], version: str) -> int:
    """Percent of the tasks that a version gets.

    :param versions: as M(queueops.fleet.queue_route_info) returned them.
    """
    return sum(int(one["weight"]) for one in versions if str(one["version"]) == version)


def shares_told(shares: list[int], rest: str, drain_timeout: float) -> str:
    """The shares in words, for the plan.

    :param shares: as P(queueops.fleet.shares_of_waves#filter) gave them.
    :param rest: the version that has the other tasks; empty where there is none.
    :param drain_timeout: seconds that it gets to work off what it has.
    """
    if not rest:
        return "the version gets all tasks after wave 1, for no other version has a queue in the route"
    after = ", ".join("%d %% after wave %d" % (share, wave + 1) for wave, share in enumerate(shares[:-1]))
    return (
        "share of the tasks: %s; all before wave %d, which waits until %s has worked off what is in its queue, at most %g s, "
        "and pauses then" % (after, len(shares), rest, drain_timeout)
    )


def shares_now(versions: list[dict[str, Any]], route: str) -> list[str]:
    """A note for the plan: how the tasks of a route are divided before it. None where no version gets any.

    :param versions: as M(queueops.fleet.queue_route_info) returned them.
    :param route: the route's name.
    """
    told = ["%s %d %%" % (one["version"], one["weight"]) for one in versions if one["weight"]]
    return ["tasks of route %s now: %s" % (route, ", ".join(told))] if told else []


def share_given(results: dict[str, Any], what: str) -> dict[str, Any]:
    """What became of a division: C(events) for the journal, and C(failures), a sentence for each host where it failed.

    :param results: the registered result of a loop of M(queueops.fleet.queue_route) over the hosts where the route is kept.
    :param what: what should have been, in words.
    """
    answers = [one for one in results.get("results") or [] if not one.get("skipped")]
    if not answers and (results.get("failed") or results.get("unreachable")):
        answers = [results]
    failed = [one for one in answers if one.get("failed") or one.get("unreachable")]
    changed = [one for one in answers if one.get("changed") and one not in failed]
    events: list[dict[str, Any]] = [
        {"kind": "tasks_divided", "at": iso(one["ended"]), "data": {"weights": one["weights"], "moved": one["moved"]}}
        for one in changed[:1]
    ]
    failures = [
        "%s: %s" % (what, str(one.get("msg") or "%s was not reached" % one.get("shares_host", "its host")).strip()) for one in failed
    ]
    if failures:
        events.append({"kind": "divide_failed", "reason": failures[0].splitlines()[0][:500]})
    return {"events": events, "failures": failures}


def queues_left(queue: dict[str, Any], to: str, left: str) -> list[dict[str, str]]:
    """The queues that only the version ``left`` listens to: ``queue``, and ``into``, that of the version ``to``.

    :param queue: the part ``queue`` of the fleet specification.
    """
    return [{"queue": name, "into": into} for name, into in queues_in_turn(queue, to, [left]) if into]


def stranded(looked: dict[str, Any], version: str) -> list[str]:
    """What is in queues that nobody listens to any more, a sentence each, for the verdict.

    :param looked: what M(queueops.fleet.queue_info) returned of them.
    :param version: the version that listened to them.
    """
    found = []
    for state in looked.get("queues") or []:
        left = ["%d %s" % (state[name], name) for name in ("queued", "executing", "scheduled") if state.get(name)]
        if left:
            found.append(
                "nobody listens to queue %s of version %s any more, which has %s: move them (queue_redrive), or start a worker "
                "of that version" % (state["name"], version, " and ".join(left))
            )
    return found


class FilterModule:
    """The collection's filters over shares of tasks."""

    def filters(self) -> dict[str, Any]:
        return {
            "queues_left": queues_left,
            "share_given": share_given,
            "share_of": share_of,
            "share_weights": share_weights,
            "shares_now": shares_now,
            "shares_of_waves": shares_of_waves,
            "shares_refusal": shares_refusal,
            "shares_told": shares_told,
            "stranded": stranded,
        }
