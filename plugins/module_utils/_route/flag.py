# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes where the producers decide: a flag whose value is the name of the queue, which they ask the OpenFeature SDK for.

The variants are the versions, each with its queue as its value. ``fractional`` divides a hundred buckets of a hash of the task's key, in
runs of slots, so that the slots are those of any other route. Tasks without a key go to the version that has most.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Mapping, Sequence

from .._errors import Conflict, Refused
from .._flags.change import Store, read_flag, set_flag
from .._flags.gate import FLEET, NotOurs, owner_of
from .._flags.logic import fractional, same
from .._queue.api import QueueBackend
from .route import Apart, Change, Route, Router
from .slots import SLOTS, counted, heaviest

#: Where the flag's metadata says who has the rest, and what the key is.
REST, KEY = "queueops.route.rest", "queueops.route.key"
#: How the variant of a task type that is kept apart is called; what tells the type is behind it.
_APART = "apart:"


class FlagRouter(Router):
    """Routes of one fleet in ``stores``, each a flag of the route's name.

    :param backend: the queue system, which is asked whether anybody listens to a queue.
    """

    def __init__(self, fleet: str, stores: Sequence[Store], backend: QueueBackend) -> None:
        self._fleet, self._stores, self._backend = fleet, stores, backend

    def look(self, name: str) -> Route | None:
        # Each store is brought to the same; which of them is behind is found when it is written.
        found = [self._route(name, read_flag(name, store), store.where) for store in self._stores]
        return next((route for route in found if route is not None), None)

    def _route(self, name: str, flag: Mapping[str, Any] | None, where: str) -> Route | None:
        if flag is None:
            return None
        owner, found = owner_of(flag), route_of(name, flag)
        if owner == self._fleet and found is not None:
            return found
        raise NotOurs(
            "The flag %s in %s %s"
            % (
                name,
                where,
                "is no route of fleet %s: somebody else made it, or has changed it" % self._fleet
                if owner in (None, self._fleet)
                else "belongs to the fleet %s, not to %s" % (owner, self._fleet),
            ),
            option="route",
            next_step="Take another name, or take the flag out by hand if nobody needs it",
        )

    def preflight(self, name: str, key: str, change: Change) -> list[str]:
        if change.before is not None and key != change.before.key:
            raise Refused(
                "Route %s divides the tasks by %s, and cannot be made to divide them by %s" % (name, change.before.key, key),
                option="key",
                next_step="Leave the key as it is, or make a route of another name",
            )
        removed = {version: (change.before.queues if change.before else {})[version] for version in change.removed}
        if not change.added and not removed:
            return []
        looked = self._backend.look(sorted([*change.added.values(), *removed.values()]), missing_ok=True)
        exist = {queue.name for queue in looked.queues if queue.exists}
        listened = {
            queue: [worker.name for worker in looked.workers if queue in (worker.queues or ())] for queue in sorted(removed.values())
        }
        listens = {queue for worker in looked.workers for queue in worker.queues or ()}
        warnings = []
        for version, queue in sorted(change.added.items()):
            # The workers of the first version may read the flag when they start, so that it has to be there before them.
            first = change.before is None and len(change.added) == 1
            if queue not in listens and queue not in exist and not first:
                raise Refused(
                    "Version %s is not known: no worker listens to queue %s, and no task was ever in it" % (version, queue),
                    option="weights",
                    next_step="Start a worker of version %s, which listens to its queue" % version,
                )
            if queue not in listens and change.after().get(version):
                warnings.append("No worker is known to listen to queue %s: the tasks of version %s may wait there" % (queue, version))
        for version, queue in sorted(removed.items()):
            if listened[queue]:
                raise Refused(
                    "Version %s cannot be removed: %d workers listen to its queue %s, and would be stranded"
                    % (version, len(listened[queue]), queue),
                    option="remove",
                    next_step="Stop the workers of version %s first" % version,
                )
        return warnings

    def apply(self, name: str, key: str, change: Change) -> None:
        before = change.before
        queues = {**(before.queues if before else {}), **change.added}
        kept = {version: queue for version, queue in queues.items() if version not in change.removed}
        rest = change.rest or (before.rest if before else None)
        self._write(name, before, Route(name, key, kept, change.owners, rest, before.apart if before else ()))

    def isolate(self, name: str, apart: Apart) -> None:
        route = self.look(name)
        if route is not None:
            self._write(name, route, _with(route, (*route.apart, apart)))

    def join(self, name: str, apart: Apart) -> None:
        route = self.look(name)
        if route is not None:
            self._write(name, route, _with(route, tuple(one for one in route.apart if one != apart)))

    def _write(self, name: str, before: Route | None, after: Route) -> None:
        def wanted(flag: Mapping[str, Any] | None, where: str) -> Mapping[str, Any]:
            if self._route(name, flag, where) not in (before, after, None):
                raise Conflict(
                    "Route %s was changed by somebody else meanwhile, in %s" % (name, where),
                    still_true="Nothing was changed",
                    next_step="Run again",
                )
            return definition(after, self._fleet)

        set_flag(name, wanted, self._stores)


def _with(route: Route, apart: tuple[Apart, ...]) -> Route:
    ordered = tuple(sorted(apart, key=lambda one: (one.header, one.task)))
    return Route(route.name, route.key, route.queues, route.owners, route.rest, ordered)


def definition(route: Route, fleet: str) -> dict[str, Any]:
    """The flag of a route."""
    most = heaviest(counted(route.owners))
    runs = [[version, len(list(slots))] for version, slots in groupby(route.owners)]
    divided: Any = most
    if len(runs) > 1:
        divided = fractional(runs, route.key, most)
    variants = dict(route.queues)
    chosen: list[Any] = []
    for apart in route.apart:
        variant = "%s%s=%s" % (_APART, apart.header, apart.task)
        variants[variant] = apart.queue
        chosen += [{"==": [{"var": apart.header}, apart.task]}, variant]
    flag: dict[str, Any] = {"state": "ENABLED", "variants": variants, "defaultVariant": most}
    if chosen:
        flag["targeting"] = {"if": [*chosen, divided]}
    elif divided != most:
        flag["targeting"] = divided
    flag["metadata"] = {FLEET: fleet, REST: route.rest or most, KEY: route.key}
    return flag


def route_of(name: str, flag: Mapping[str, Any]) -> Route | None:
    """The route that a flag is; None if it is in no shape that :func:`definition` makes."""
    try:
        metadata, variants, targeting = flag["metadata"], flag["variants"], flag.get("targeting")
        fleet, rest, key = metadata[FLEET], metadata[REST], metadata[KEY]
        queues = {version: queue for version, queue in variants.items() if not version.startswith(_APART)}
        marks = [variant[len(_APART) :].partition("=") for variant in variants if variant.startswith(_APART)]
        apart = tuple(Apart(header, task, variants["%s%s=%s" % (_APART, header, task)]) for header, _equals, task in marks)
        divided = flag["defaultVariant"] if targeting is None else targeting["if"][-1] if apart else targeting
        if isinstance(divided, dict) and "if" in divided:
            divided = {"fractional": divided["if"][1]["fractional"][1:]}
        runs: list[Any] = [[divided, SLOTS]] if isinstance(divided, str) else divided["fractional"]
        owners = tuple(version for version, count in runs for _slot in range(count))
        route = Route(name, key, queues, owners, rest, apart)
        whole = len(owners) == SLOTS and {rest, *owners} <= set(queues)
        # What was read loosely above counts only if it makes the same flag again.
        return route if whole and same(definition(route, fleet), flag) else None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None
