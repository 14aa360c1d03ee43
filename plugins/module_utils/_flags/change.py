# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A flag changed in its stores: everything is looked at before the first write, and what is there already is not written."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, ContextManager, Mapping, Protocol, Sequence

from .._errors import Conflict, FleetError, HalfDone, Unavailable
from .document import as_text, empty, parse, render
from .gate import ABSENT, Gate, definition, gate_of, must_be_ours, owner_of

#: What a flag is to be, given what it is (None: it is not there) and the store's name. None: it is not to be there.
#: Refuses, by raising, a flag that is not whose turn it is to change it.
Wanted = Callable[["Mapping[str, Any] | None", str], "Mapping[str, Any] | None"]

#: What some flags are to be (None: not there), by name, given all flags that are there and the store's name.
WantedFlags = Callable[["Mapping[str, Any]", str], "Mapping[str, Mapping[str, Any] | None]"]

#: How often another writer of the same store may come in between.
_ATTEMPTS = 100


class Store(Protocol):
    """What holds one document of flags.

    :ivar where: the store as people call it.
    :ivar option: the option that names it.
    """

    where: str
    option: str

    def read(self) -> bytes | None:
        """The document; None if there is none."""

    def pending(self) -> tuple[str, str] | None:
        """What besides the document is not as it should be, before and after; None if nothing."""

    def require_writable(self) -> None:
        """Refuse what can be known before to fail."""

    def locked(self) -> ContextManager[None]:
        """Keep other writers out, where the store is able to."""

    def stage(self, before: bytes | None, after: bytes) -> None:
        """Do all of the writing that nobody sees."""

    def discard(self) -> None:
        """Undo that."""

    def commit(self) -> bool:
        """Let what was staged be seen. False: the store does not hold ``before`` any more, and was left alone."""


@dataclass
class Plan:
    """What is to be written into one store.

    :ivar before: the document as it was read; None if there was none.
    :ivar after: the document to write; None if nothing is to be written.
    :ivar diffs: the definition of each flag that is to be changed, before and after, as Ansible shows it.
    :ivar changed: the names of the flags that are to be made or changed. ``gone``: of those that are to be taken away.
    """

    store: Store
    before: bytes | None
    after: bytes | None
    diffs: list[dict[str, str]]
    changed: list[str]
    gone: list[str]


def set_gate(gate: Gate, stores: Sequence[Store], dry_run: bool = False) -> list[Plan]:
    """Make the gate's flag be what ``gate`` says (with the state ``absent``: not be there) in each of ``stores``; see :func:`set_flag`.

    :raises Refused: the flag is not the fleet's.
    """
    return set_flag(gate.name, partial(_flag_of, gate), stores, dry_run)


def set_gates(fleet: str, gates: Sequence[Gate], stores: Sequence[Store], dry_run: bool = False) -> list[Plan]:
    """Make ``gates`` be all gates of ``fleet`` in each of ``stores``, in one step for each; see :func:`set_flags`.

    :raises Refused: one of these flags is not the fleet's.
    """

    def wanted(flags: Mapping[str, Any], where: str) -> dict[str, Mapping[str, Any] | None]:
        found = {gate.name: _flag_of(gate, flags.get(gate.name), where) for gate in gates}
        others = [name for name, flag in flags.items() if name not in found and owner_of(flag) == fleet and gate_of(name, flag)]
        return {**found, **dict.fromkeys(others)}

    return set_flags(wanted, stores, dry_run)


def set_flag(name: str, wanted: Wanted, stores: Sequence[Store], dry_run: bool = False) -> list[Plan]:
    """Make a flag be what is ``wanted`` in each of ``stores``; see :func:`set_flags`."""
    return set_flags(lambda flags, where: {name: wanted(flags.get(name), where)}, stores, dry_run)


def set_flags(wanted: WantedFlags, stores: Sequence[Store], dry_run: bool = False) -> list[Plan]:
    """Make flags be what is ``wanted`` in each of ``stores``, and leave all others alone.

    :param stores: in the order in which they are to be seen to change.
    :returns: for each store what was done, or with ``dry_run`` would be.
    :raises Refused: a document is broken, ``wanted`` refuses a flag, or a store cannot be written. Nothing was changed.
    :raises Conflict: other writers were faster each time. Nothing was changed.
    :raises Unavailable: a store did not answer; ``still_true`` says what is known.
    :raises HalfDone: one store has the change and the other has not; running again does the rest.
    """
    plans = [_plan(wanted, store) for store in stores]
    # Who has nothing to write takes no lock.
    if dry_run or not any(plan.after for plan in plans):
        return plans
    with contextlib.ExitStack() as locks:
        for store in stores:
            locks.enter_context(store.locked())
        for _attempt in range(_ATTEMPTS):
            plans = [_plan(wanted, store) for store in stores]
            if _write(plans):
                return plans
    names = dict.fromkeys(name for plan in plans for name in plan.changed + plan.gone)
    raise Conflict(
        "Others changed the flags %d times while the flag %s was being written" % (_ATTEMPTS, ", ".join(names)),
        still_true="Nothing was changed",
        next_step="Run again",
    )


def read_flag(name: str, store: Store) -> dict[str, Any] | None:
    """The flag's definition in ``store``; None if it is not there."""
    content = store.read()
    found: dict[str, Any] | None = None if content is None else parse(content, store.where, store.option)["flags"].get(name)
    return found


def list_gates(store: Store, fleet: str, names: Sequence[str] | None) -> tuple[bool, list[dict[str, Any]]]:
    """Whether there is a document, and its flags as seen from ``fleet``, in the document's order.

    :param names: which flags, in this order; those that are not there are ``absent``. None for all.
    """
    content = store.read()
    flags: dict[str, Any] = {} if content is None else parse(content, store.where, store.option)["flags"]
    return content is not None, [_told(name, flags.get(name), fleet) for name in (flags if names is None else names)]


def _told(name: str, flag: dict[str, Any] | None, fleet: str) -> dict[str, Any]:
    if flag is None:
        return dict(Gate(name, fleet, ABSENT).as_dict(), fleet=None, mine=False)
    gate = gate_of(name, flag)
    if gate is None:
        return dict(Gate(name, fleet, ABSENT).as_dict(), fleet=owner_of(flag), state=None, mine=False)
    return dict(gate.as_dict(), mine=gate.fleet == fleet)


def _flag_of(gate: Gate, before: Mapping[str, Any] | None, where: str) -> Mapping[str, Any] | None:
    current = None if before is None else must_be_ours(gate.name, before, gate.fleet, where)
    if gate.state == ABSENT:
        return None
    return before if current == gate else definition(gate, before)


def _plan(wanted: WantedFlags, store: Store) -> Plan:
    content = store.read()
    document = empty() if content is None else parse(content, store.where, store.option)
    flags = document["flags"]
    plan = Plan(store, content, None, [], [], [])
    for name, after in wanted(flags, store.where).items():
        before = flags.get(name)
        if after == before:
            continue
        plan.diffs.append(_diff("%s, flag %s" % (store.where, name), _shown(before), _shown(after)))
        if after is None:
            del flags[name]
            plan.gone.append(name)
        else:
            flags[name] = after
            plan.changed.append(name)
    if plan.changed or plan.gone:
        plan.after = render(document)
    pending = None if content is None else store.pending()
    if pending is not None:
        plan.after = plan.after or content
        plan.diffs.append(_diff("%s, permissions" % store.where, *pending))
    if plan.after is not None:
        store.require_writable()
    return plan


def _diff(header: str, before: str, after: str) -> dict[str, str]:
    return {"before": before, "after": after, "before_header": header, "after_header": header}


def _shown(flag: Mapping[str, Any] | None) -> str:
    return "" if flag is None else as_text(flag) + "\n"


def _write(plans: list[Plan]) -> bool:
    """Write what is planned; False if somebody else was there first, and then nothing is written."""
    with contextlib.ExitStack() as staged:
        for plan in plans:
            if plan.after is not None:
                plan.store.stage(plan.before, plan.after)
                staged.callback(plan.store.discard)
        done: list[str] = []
        for plan in plans:
            if plan.after is None:
                continue
            try:
                if not plan.store.commit():
                    return False
            except HalfDone:
                raise
            except FleetError as problem:
                if done:
                    raise _half_done(problem, done[0], plan.store.where) from problem
                if isinstance(problem, Unavailable):
                    # The answer may be what was lost, and not the question.
                    problem.still_true = "The flag may be changed in %s; nothing else was" % plan.store.where
                raise
            done.append(plan.store.where)
    return True


def _half_done(problem: FleetError, changed: str, unchanged: str) -> HalfDone:
    return HalfDone(
        problem.message,
        option=problem.option,
        still_true="The flag is changed in %s, and is as it was in %s" % (changed, unchanged),
        next_step="%s, and run again, which does the rest" % (problem.next_step or "Mend that").rstrip("."),
    )
