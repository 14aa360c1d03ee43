# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes on RabbitMQ, made of exchanges and bindings alone, so that publishers and the broker need nothing of ours.

::

    mail                headers exchange, to which is published; bound to the queues of tasks that are kept apart. All else goes on to
    mail.route.spread   consistent-hash exchange: by the task's key to one of a hundred
    mail.route.slot.07  fanout exchanges, each bound to one version's queue, or to none; what it does not route goes on to
    mail.route.rest     fanout exchange, bound to the queue of the version that has the rest

So a slot is given to a version by one binding, and given back by deleting it: at no moment is a task routed twice, or to nobody.
``mail.route.versions``, to which nobody publishes, is bound to each version's queue under the version's name.
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping

from .._errors import FleetError, Refused, Unavailable
from .._queue.amqp_connection import AmqpConnection
from .._queue.rabbitmq_management import Management, path_part
from .route import Apart, Change, Route, Router
from .slots import SLOTS

_HASH = "x-consistent-hash"
_PROPERTIES = ("message_id", "correlation_id")


def _spread(name: str) -> str:
    return name + ".route.spread"


def _rest(name: str) -> str:
    return name + ".route.rest"


def _versions(name: str) -> str:
    return name + ".route.versions"


def _slot(name: str, number: int) -> str:
    return "%s.route.slot.%02d" % (name, number)


class RabbitmqRouter(Router):
    """Routes in one vhost. They are changed over AMQP; which bindings there are is told by the management API alone."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._amqp = AmqpConnection(settings)
        self._management = Management(settings)

    # Looking

    def look(self, name: str) -> Route | None:
        entry = self._exchange(name)
        if entry is None:
            return None
        if entry.get("type") != "headers" or (entry.get("arguments") or {}).get("alternate-exchange") != _spread(name):
            raise Refused(
                "RabbitMQ has an exchange %s in vhost %s, and it is no route" % (name, self._management.vhost),
                option="route",
                next_step="Name the route otherwise, or delete the exchange once nobody publishes to it",
            )
        spread = self._exchange(_spread(name)) or {}
        bound = self._bound()
        queues = {str(entry["routing_key"]): str(entry["destination"]) for entry in bound.get(_versions(name), ())}
        version_of = {queue: version for version, queue in queues.items()}
        rests = [version_of.get(str(entry["destination"])) for entry in bound.get(_rest(name), ())]
        rest = rests[0] if rests else None
        owners = []
        for number in range(SLOTS):
            owned = bound.get(_slot(name, number), ())
            owner = version_of.get(str(owned[0]["destination"])) if owned else rest
            if owner is None or len(owned) > 1 or len(rests) > 1:
                raise Refused(
                    "Route %s was changed by somebody else: its exchange %s does not lead to one version's queue"
                    % (name, _slot(name, number)),
                    option="route",
                    next_step="Delete the bindings that this module did not make",
                )
            owners.append(owner)
        return Route(name, _key_of(spread.get("arguments") or {}), queues, tuple(owners), rest, _apart(bound.get(name, ())))

    # Changing

    def preflight(self, name: str, key: str, change: Change) -> list[str]:
        _arguments_of(key)
        if change.before is not None and key != change.before.key:
            raise Refused(
                "Route %s divides the tasks by %s, and cannot be made to divide them by %s" % (name, change.before.key, key),
                option="key",
                next_step="Leave the key as it is, or make a route of another name",
            )
        if change.before is None:
            kinds = {kind.get("name") for kind in (self._ask("overview") or {}).get("exchange_types") or ()}
            if _HASH not in kinds:
                raise Refused(
                    "RabbitMQ does not know exchanges of the type %s" % _HASH,
                    option="url",
                    next_step="Enable its plugin: rabbitmq-plugins enable rabbitmq_consistent_hash_exchange",
                )
        warnings = []
        depths = self._amqp.depths(
            [*change.added.values(), *(change.before.queues[version] for version in change.removed if change.before)]
        )
        for version, queue in sorted(change.added.items()):
            depth = depths[queue]
            if depth is None:
                raise Refused(
                    "Version %s is not known: there is no queue %s at %s" % (version, queue, self._amqp.where),
                    option="weights",
                    next_step="Start a worker of version %s, which declares its queue, or declare it" % version,
                )
            if not depth.consumers and change.after().get(version):
                warnings.append("No worker listens to queue %s: the tasks of version %s wait there" % (queue, version))
        for version in change.removed:
            queue = (change.before.queues if change.before else {})[version]
            depth = depths[queue]
            if depth is not None and depth.consumers:
                raise Refused(
                    "Version %s cannot be removed: %d consumers listen to its queue %s, and would be stranded"
                    % (version, depth.consumers, queue),
                    option="remove",
                    next_step="Stop the workers of version %s first" % version,
                )
        return warnings

    def apply(self, name: str, key: str, change: Change) -> None:
        queues = dict(change.before.queues if change.before else {}, **change.added)
        rest = change.rest or (change.before.rest if change.before else None)
        if change.before is None:
            self._make(name, key)
        for version, queue in change.added.items():
            self._do("queue_bind", queue=queue, exchange=_versions(name), routing_key=version)
        if change.rest:
            # Only while the version that has it gets nothing: no task comes by here, so that none is lost or doubled in between.
            self._lead({_rest(name): queues[change.rest]})
        self._lead({_slot(name, number): None if owner == rest else queues[owner] for number, owner in enumerate(change.owners)})
        if change.before is None:
            # Last: nobody can publish to a route that is not whole.
            self._make_exchange(name, "headers", _spread(name))
        for version in change.removed:
            # The broker refuses where a task or a worker has come meanwhile.
            self._do("queue_delete", queue=queues[version], if_unused=True, if_empty=True)
        self._amqp.close()

    def isolate(self, name: str, apart: Apart) -> None:
        self._do("queue_bind", queue=apart.queue, exchange=name, routing_key="", arguments=_mark(apart))
        self._amqp.close()

    def join(self, name: str, apart: Apart) -> None:
        self._do("queue_unbind", queue=apart.queue, exchange=name, routing_key="", arguments=_mark(apart))
        self._amqp.close()

    def _lead(self, wanted: Mapping[str, str | None]) -> None:
        """Have each exchange lead to this queue alone, or to none; what is to be given back first."""
        bound = {exchange: [str(entry["destination"]) for entry in entries] for exchange, entries in self._bound().items()}
        for exchange, queue in wanted.items():
            for other in bound.get(exchange, ()):
                if other != queue:
                    self._do("queue_unbind", queue=other, exchange=exchange, routing_key="")
        for exchange, queue in wanted.items():
            if queue is not None and queue not in bound.get(exchange, ()):
                self._do("queue_bind", queue=queue, exchange=exchange, routing_key="")

    def _make(self, name: str, key: str) -> None:
        self._make_exchange(_versions(name), "direct")
        self._make_exchange(_rest(name), "fanout")
        self._make_exchange(_spread(name), _HASH, _rest(name), _arguments_of(key))
        for number in range(SLOTS):
            self._make_exchange(_slot(name, number), "fanout", _rest(name))
            # The number is the weight: each is as likely as the others.
            self._do("exchange_bind", destination=_slot(name, number), source=_spread(name), routing_key="1")

    def _make_exchange(self, exchange: str, kind: str, alternate: str = "", arguments: Mapping[str, str] | None = None) -> None:
        given = dict({"alternate-exchange": alternate} if alternate else {}, **(arguments or {}))
        self._do("exchange_declare", exchange=exchange, type=kind, durable=True, auto_delete=False, arguments=given)

    def _do(self, method: str, **arguments: Any) -> None:
        """One change at the broker; returns when it has taken effect."""
        try:
            with self._amqp.asking("change the route") as channel:
                getattr(channel, method)(**arguments)
        except FleetError as problem:
            problem.still_true = "Every task goes to one version, as before this run or as after it"
            raise

    # Asking

    def _bound(self) -> dict[str, list[dict[str, Any]]]:
        """Every binding of the vhost by the exchange that it starts from."""
        found: dict[str, list[dict[str, Any]]] = {}
        for entry in self._ask("bindings/%s" % self._management.vhost) or ():
            found.setdefault(str(entry["source"]), []).append(entry)
        return found

    def _exchange(self, exchange: str) -> dict[str, Any] | None:
        found = self._ask("exchanges/%s/%s" % (self._management.vhost, path_part(exchange)))
        return found if isinstance(found, dict) else None

    def _ask(self, path: str) -> Any:
        answer = self._management.ask(path)
        if self._management.reason is not None:
            raise Unavailable(
                self._management.reason, option="management_url", next_step="Check management_url and the user's tags, and run again"
            )
        return answer


def _mark(apart: Apart) -> dict[str, str]:
    """The arguments of the binding of tasks that are kept apart."""
    return {"x-match": "all", apart.header: apart.task}


def _apart(bound: Iterable[Mapping[str, Any]]) -> tuple[Apart, ...]:
    found = []
    for entry in bound:
        headers = {name: value for name, value in (entry.get("arguments") or {}).items() if name != "x-match"}
        if len(headers) == 1:
            header, task = next(iter(headers.items()))
            found.append(Apart(str(header), str(task), str(entry["destination"])))
    return tuple(sorted(found, key=lambda apart: (apart.header, apart.task)))


def _arguments_of(key: str) -> dict[str, str]:
    """What makes the consistent-hash exchange look at ``key``."""
    kind, _colon, name = key.partition(":")
    if key == "routing_key":
        return {}
    if kind == "header" and name:
        return {"hash-header": name}
    if kind == "property" and name in _PROPERTIES:
        return {"hash-property": name}
    raise Refused(
        "Tasks cannot be divided by %s" % key,
        option="key",
        next_step="Use routing_key, header:<name>, %s" % " or ".join("property:%s" % name for name in _PROPERTIES),
    )


def _key_of(arguments: Mapping[str, Any]) -> str:
    if "hash-header" in arguments:
        return "header:%s" % arguments["hash-header"]
    if "hash-property" in arguments:
        return "property:%s" % arguments["hash-property"]
    return "routing_key"
