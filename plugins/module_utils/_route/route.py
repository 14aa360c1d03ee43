# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A logical queue and the versions of the workers that share its tasks.

Where the broker routes, the route is the broker's: it is read from there, and nothing is kept beside it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

from .._errors import NotFound, Refused
from .._queue.api import QueueState
from .slots import SLOTS, checked, counted, divided, heaviest

#: A version gets tasks; gets none and has some left; has none left.
ACTIVE, DRAINING, DRAINED = "active", "draining", "drained"


@dataclass(frozen=True)
class Apart:
    """Tasks that have a queue of their own beside the versions' queues: those whose header ``header`` is ``task``."""

    header: str
    task: str
    queue: str


@dataclass(frozen=True)
class Route:
    """A route at one moment.

    :ivar queues: the queue of each version that was ever given tasks and not removed.
    :ivar owners: the version that has each of the hundred slots.
    :ivar rest: the version that has the slots that nobody was given; None: none has, as when a run died while that was changed.
    :ivar key: what of a task decides its slot, as in the option ``key``.
    :ivar apart: the tasks that go to none of the versions' queues.
    """

    name: str
    key: str
    queues: Mapping[str, str]
    owners: tuple[str, ...]
    rest: str | None
    apart: tuple[Apart, ...] = ()

    def weights(self) -> dict[str, int]:
        """Percent of the tasks by version."""
        return {**dict.fromkeys(self.queues, 0), **counted(self.owners)}


@dataclass(frozen=True)
class Change:
    """What has to be done to a route, in this order; empty where nothing has.

    :ivar added: versions that get a queue in the route.
    :ivar rest: the version that shall have the slots that nobody was given; None: it stays.
    :ivar owners: the version that shall have each slot.
    :ivar removed: versions whose queue is deleted.
    """

    before: Route | None
    added: Mapping[str, str]
    rest: str | None
    owners: tuple[str, ...]
    removed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.before is None or self.added or self.rest or self.owners != self.before.owners or self.removed)

    def moved(self) -> int:
        """Percent of the tasks that go to another version than before; 0 for a new route."""
        return sum(old != new for old, new in zip(self.before.owners, self.owners)) if self.before else 0

    def after(self) -> dict[str, int]:
        """Percent of the tasks by version when it is done."""
        versions = [*(self.before.queues if self.before else ()), *self.added]
        weights = {**dict.fromkeys(versions, 0), **counted(self.owners)}
        return {version: weight for version, weight in weights.items() if version not in self.removed}


@dataclass(frozen=True)
class VersionState:
    """One version in a route. ``weight`` is percent, counts are tasks; None where they are not known."""

    version: str
    queue: str
    weight: int
    state: str
    queued: int | None
    executing: int | None
    scheduled: int | None


class Router(ABC):
    """The routes of one broker. Every method may raise :class:`Unavailable` when the broker does not answer."""

    @abstractmethod
    def look(self, name: str) -> Route | None:
        """The route as it is; None: there is none.

        :raises Refused: something else has its name.
        """

    @abstractmethod
    def preflight(self, name: str, key: str, change: Change) -> list[str]:
        """Refuse what can be known to go wrong; what the operator should know, a sentence each. Reads only."""

    @abstractmethod
    def apply(self, name: str, key: str, change: Change) -> None:
        """Do it. After a death in the midst of it every task still has exactly one queue, and the same call does what is left."""

    @abstractmethod
    def isolate(self, name: str, apart: Apart) -> None:
        """From now on such tasks go to their own queue, in one step. What is queued already stays where it is."""

    @abstractmethod
    def join(self, name: str, apart: Apart) -> None:
        """From now on such tasks are divided like the others, in one step."""


def planned(
    route: Route | None, weights: Mapping[str, int], template: str, removed: tuple[str, ...] = (), named: Callable[[str], str] = str
) -> Change:
    """What makes ``route`` divide the tasks by ``weights``.

    :param template: the name of a version's queue, with ``{version}``, for which stands what ``named`` makes of the version.
    :raises Refused: the weights are no division, or leave out a version that has tasks routed to it.
    """
    wanted = checked(weights)
    queues = dict(route.queues) if route else {}
    both = sorted(set(removed) & {version for version, weight in wanted.items() if weight})
    if both:
        raise Refused(
            "Version %s is to be removed, and has a weight" % both[0],
            option="remove",
            next_step="Give it the weight 0, let it drain, and remove it then",
        )
    added = {
        version: template.replace("{version}", named(version)) for version in wanted if version not in queues and version not in removed
    }
    removed = tuple(version for version in removed if version in queues)
    if route:
        left_out = sorted(version for version, weight in route.weights().items() if weight and version not in wanted)
        if left_out:
            raise Refused(
                "Version %s has %d %% of the tasks of route %s and no weight" % (left_out[0], route.weights()[left_out[0]], route.name),
                option="weights",
                next_step="Give it one; 0 lets it drain",
            )
    if route is None:
        first = heaviest(wanted)
        return Change(None, added, first, tuple(divided([first] * SLOTS, wanted, first)), removed)
    # The version that has the rest stays it as long as it may, since what is given back goes there.
    if route.rest and route.rest not in removed:
        kept = tuple(divided(route.owners, wanted, route.rest))
        if kept == route.owners or wanted.get(route.rest) or route.rest in route.owners:
            return Change(route, added, None, kept, removed)
    rest = heaviest(route.weights())
    return Change(route, added, rest, tuple(divided(route.owners, wanted, rest)), removed)


def known(route: Route | None, name: str) -> Route:
    """The route, if there is one.

    :raises NotFound: there is none.
    """
    if route is None:
        raise NotFound("There is no route %s" % name, option="route", next_step="Make it with queue_route, or check its name")
    return route


def isolation(route: Route, wanted: Apart) -> Apart | None:
    """The tasks of ``wanted`` as they are apart now; None: they are not.

    :raises Refused: ``wanted`` names a version's queue, or the tasks are apart in another queue.
    """
    if wanted.queue in route.queues.values():
        raise Refused(
            "The queue %s is one of the versions' queues of route %s" % (wanted.queue, route.name),
            option="queue",
            next_step="Name a queue that only workers of %s listen to" % wanted.task,
        )
    found = next((apart for apart in route.apart if (apart.header, apart.task) == (wanted.header, wanted.task)), None)
    if found and found.queue != wanted.queue:
        raise Refused(
            "The tasks %s of route %s are apart already, in the queue %s" % (wanted.task, route.name, found.queue),
            option="queue",
            next_step="Name that queue, or join them first (state=joined)",
        )
    return found


def states(route: Route, looked: Sequence[QueueState]) -> list[VersionState]:
    """How far each version of a route is, by what was seen of its queue."""
    weights, seen = route.weights(), {queue.name: queue for queue in looked}
    found = []
    for version, queue in sorted(route.queues.items()):
        one = seen.get(queue) or QueueState(queue, exists=False)
        # A system that knows no scheduled tasks has none; what is queued or in hand has to be known.
        known = not one.exists or (one.queued is not None and one.executing is not None)
        left = any((one.queued, one.executing, one.scheduled))
        state = ACTIVE if weights[version] else DRAINED if known and not left else DRAINING
        found.append(VersionState(version, queue, weights[version], state, one.queued, one.executing, one.scheduled))
    return found


def require_drained(versions: Sequence[VersionState], change: Change) -> None:
    """Refuse to remove a version that still has something to do, or that gets tasks until ``change`` is made.

    :raises Refused: names the version and what it has.
    """
    for version in versions:
        if version.state == DRAINED:
            continue
        told = [
            "%s %s" % ("an unknown number of" if count is None else count, name)
            for name, count in (("queued", version.queued), ("executing", version.executing), ("scheduled", version.scheduled or 0))
            if count != 0
        ]
        raise Refused(
            "Version %s is %s: it gets %d %% of the tasks, and its queue %s has %s"
            % (version.version, version.state, version.weight, version.queue, " and ".join(told) or "none"),
            option="remove",
            next_step="Give it the weight 0, and remove it when queue_route_info says that it is drained",
        )


def whole(weights: Mapping[Any, Any]) -> dict[str, int]:
    """Weights as a module got them.

    :raises Refused: one is no whole number.
    """
    found = {}
    for version, weight in weights.items():
        try:
            found[str(version)] = int(str(weight))
        except ValueError:
            raise Refused(
                "The weight of version %s is %s" % (version, weight), option="weights", next_step="Use whole numbers from 0 to 100"
            ) from None
    return found


def described(weights: Mapping[str, int], queues: Mapping[str, str]) -> str:
    """A route as text, for a diff."""
    return "".join("%s: %d %% in %s\n" % (version, weights[version], queues[version]) for version in sorted(weights))
