# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gate: for whom a feature is on, as a flag that every OpenFeature SDK with flagd's evaluator reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from .._errors import Refused
from .logic import TARGETING_KEY, fractional, same

ON, OFF, PERCENT, TARGETS, ABSENT = "on", "off", "percent", "targets", "absent"

#: The options that each state has a use for.
_MEANS_SOMETHING = {
    ON: ("release",),
    OFF: ("release",),
    PERCENT: ("release", "percent", "key"),
    TARGETS: ("release", "percent", "key", "targets"),
    ABSENT: (),
}

#: Where a flag's metadata says whose it is.
FLEET, RELEASE = "queueops.fleet", "queueops.release"

_NAME = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
_FLEET = re.compile(r"\A[a-z0-9][a-z0-9-]*\Z")
_ATTRIBUTE = re.compile(r"\A[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*\Z")


class NotOurs(Refused):
    """Refused because the flag belongs to another fleet, or was not made by this collection."""

    code = "not_ours"


@dataclass(frozen=True)
class Gate:
    """For whom a feature is on.

    :ivar fleet: the fleet that the gate belongs to.
    :ivar state: ``on``, ``off``, ``percent``, ``targets`` or ``absent``.
    :ivar percent: of each hundred values of ``key``, for how many it is on. With targets: of those that are none.
    :ivar key: the context attribute that decides; None where nothing has to be decided.
    :ivar targets: the values of ``key`` for which it is on.
    :ivar release: the number of the release that the gate belongs to.
    """

    name: str
    fleet: str
    state: str
    percent: int | None = None
    key: str | None = None
    targets: tuple[str, ...] | None = None
    release: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The gate as a module returns it."""
        targets = None if self.targets is None else list(self.targets)
        return dict(vars(self), targets=targets)


def wanted_gate(
    name: str,
    fleet: str,
    state: str,
    percent: int | None = None,
    key: str | None = None,
    targets: Sequence[str] | None = None,
    release: int | None = None,
) -> Gate:
    """The gate that options ask for.

    :raises Refused: a name, a number or a combination is wrong; names the option.
    """
    if not _NAME.match(name):
        raise Refused(
            "A gate cannot be named %r" % name,
            option="name",
            next_step="Take up to 100 letters, digits, dots, dashes and underscores, beginning with a letter or a digit",
        )
    check_fleet(fleet)
    if key is not None and not _ATTRIBUTE.match(key):
        raise Refused(
            "%r is not the name of a context attribute" % key,
            option="key",
            next_step="Take letters, digits, dashes and underscores, beginning with a letter, with a dot between the parts of a nested one",
        )
    if percent is not None and not 0 <= percent <= 100:
        raise Refused("percent is %d, and has to be from 0 to 100" % percent, option="percent")
    if release is not None and release < 0:
        raise Refused("release is %d, and releases are counted from 0" % release, option="release")
    _check_state(state, percent, key, targets, release)
    return Gate(
        name,
        fleet,
        state,
        percent,
        (key or TARGETING_KEY) if state in (PERCENT, TARGETS) else None,
        None if targets is None else tuple(dict.fromkeys(targets)),
        release,
    )


def wanted_gates(fleet: str, gates: Sequence[Mapping[str, Any]]) -> list[Gate]:
    """The gates that options ask for, each with what :func:`wanted_gate` takes.

    :raises Refused: one is wrong, or two have one name; names the gate and the option.
    """
    check_fleet(fleet)
    found: dict[str, Gate] = {}
    for options in gates:
        try:
            gate = wanted_gate(fleet=fleet, **options)
        except Refused as problem:
            raise Refused(
                "The gate %s cannot be made: %s" % (options["name"], problem.message), option=problem.option, next_step=problem.next_step
            ) from problem
        if gate.name in found:
            raise Refused("The gate %s is given twice" % gate.name, option="gates", next_step="Leave one out")
        found[gate.name] = gate
    return list(found.values())


def check_fleet(fleet: str) -> None:
    """Refuse what is not the name of a fleet."""
    if not _FLEET.match(fleet):
        raise Refused(
            "A fleet cannot be named %r" % fleet, option="fleet", next_step="Take small letters, digits and dashes, as in the specification"
        )


def _check_state(state: str, percent: int | None, key: str | None, targets: Sequence[str] | None, release: int | None) -> None:
    given = {"percent": percent, "key": key, "targets": targets, "release": release}
    for option, value in given.items():
        if value is not None and option not in _MEANS_SOMETHING[state]:
            raise Refused("%s means nothing with state=%s" % (option, state), option=option, next_step="Leave it out")
    if state in given and given[state] is None:
        raise Refused("state=%s needs the option %s" % (state, state), option=state)
    if targets is not None and not targets:
        raise Refused("targets names nobody", option="targets", next_step="Name somebody, or take state=off")


def definition(gate: Gate, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The flag of ``gate``. What the flag ``before`` has in its metadata that is not this collection's is kept.

    Always ENABLED: a DISABLED flag gives each application the default in its own code, which need not be off.
    """
    flag: dict[str, Any] = {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "on" if gate.state == ON else "off",
    }
    rule = _rule(gate.percent, gate.key, gate.targets)
    if rule is not None:
        flag["targeting"] = rule
    metadata = {name: value for name, value in _metadata(before or {}).items() if name != RELEASE}
    metadata[FLEET] = gate.fleet
    if gate.release is not None:
        metadata[RELEASE] = gate.release
    flag["metadata"] = metadata
    return flag


def _rule(percent: int | None, key: str | None, targets: Sequence[str] | None) -> dict[str, Any] | None:
    """The targeting, in JSON logic."""
    if key is None:
        return None
    share = None if percent is None else _share(percent, key)
    if targets is None:
        return share
    return {"if": [{"in": [{"var": key}, list(targets)]}, "on", "off" if share is None else share]}


def _share(percent: int, key: str) -> dict[str, Any]:
    # On comes first, and the sum stays 100: who is on at 10 is on at 25, and who came last goes first.
    return fractional([["on", percent], ["off", 100 - percent]], key, "off")


def owner_of(flag: Mapping[str, Any]) -> str | None:
    """The fleet that a flag's metadata names, or None."""
    fleet = _metadata(flag).get(FLEET)
    return fleet if isinstance(fleet, str) else None


def _metadata(flag: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = flag.get("metadata", {})
    return found


def gate_of(name: str, flag: Mapping[str, Any]) -> Gate | None:
    """The gate that a flag is; None if it names no fleet, or is in no shape that :func:`definition` makes."""
    fleet, release, found = owner_of(flag), _metadata(flag).get(RELEASE), _read_rule(flag.get("targeting"))
    if fleet is None or found is None:
        return None
    percent, key, targets = found
    if not (_is_number_or_none(release) and _is_number_or_none(percent) and 0 <= (percent or 0) <= 100):
        return None
    state = TARGETS if targets is not None else PERCENT if percent is not None else ON if flag.get("defaultVariant") == "on" else OFF
    gate = Gate(name, fleet, state, percent, key, targets, release)
    # What was read loosely above counts only if it makes the same flag again.
    return gate if same(definition(gate, flag), flag) else None


def _read_rule(rule: Any) -> tuple[int | None, str | None, tuple[str, ...] | None] | None:
    """Percent, key and targets of a targeting that may be one of ours."""
    targets: tuple[str, ...] | None = None
    key: str | None = None
    try:
        if not rule:
            return None, None, None
        if "in" in (rule.get("if") or [{}])[0]:
            inside, _on, rest = rule["if"]
            key, targets = inside["in"][0]["var"], tuple(inside["in"][1])
            if rest == "off":
                return None, key, targets
            rule = rest
        if "if" in rule:
            return rule["if"][1]["fractional"][1][1], rule["if"][0]["var"], targets
        return rule["fractional"][0][1], TARGETING_KEY, targets
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None


def _is_number_or_none(value: Any) -> bool:
    # In Python true is 1, and in JSON it is not.
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def must_be_ours(name: str, flag: Mapping[str, Any], fleet: str, where: str) -> Gate:
    """The gate of ``fleet`` that the flag ``name`` is.

    :param where: the store, for the message.
    :raises NotOurs: it is another fleet's, or nobody's, or was changed into something that is no gate.
    """
    owner = owner_of(flag)
    details = {"name": name, "fleet": owner, "where": where}
    if owner is None:
        raise NotOurs(
            "The flag %s in %s was not made by this collection: its metadata names no fleet" % (name, where),
            option="name",
            next_step="Change it where it was made, or take another name",
            details=details,
        )
    if owner != fleet:
        raise NotOurs(
            "The flag %s in %s belongs to the fleet %s, not to %s" % (name, where, owner, fleet),
            option="fleet",
            next_step="Change it from the fleet %s, or take another name" % owner,
            details=details,
        )
    gate = gate_of(name, flag)
    if gate is None:
        raise NotOurs(
            "The flag %s of the fleet %s in %s is not as feature_gate makes one: somebody else has changed it" % (name, owner, where),
            option="name",
            next_step="Look at its definition there, and take it out by hand if nobody needs what was changed",
            details=details,
        )
    return gate
