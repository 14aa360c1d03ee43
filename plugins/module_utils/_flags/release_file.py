# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of a release: a document that is one of its config files, so that it comes, goes back and is compared as these do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Mapping, Sequence

from .._errors import NotFound, Refused
from .document import empty, parse, render
from .file_store import FileStore
from .gate import OFF, PERCENT, Gate, definition, gate_of, owner_of, wanted_gates

#: The option that such a file is an entry of.
OPTION = "config.feature_gates"


@dataclass(frozen=True)
class ReleaseFile:
    """A file that holds gates of a release and nothing else.

    :ivar dest: its absolute path on the host.
    :ivar gates: each with a name of its own. Their ``release`` is None: the document of two releases that say the same is the same.
    """

    dest: str
    gates: tuple[Gate, ...]

    def content(self) -> bytes:
        """The document, the same bytes for the same gates."""
        document = empty()
        document["flags"] = {gate.name: definition(gate) for gate in self.gates}
        return render(document)

    def refuse_loss(self, fleet: str) -> dict[str, Gate]:
        """The gates of ``fleet`` that are in the file now; what else is in it would be lost, and is refused.

        :raises Refused: the file has a flag that is no gate of the fleet, is no document of flags, or no file. Nothing was changed.
        """
        try:
            content = FileStore(self.dest).read()
        except NotFound:
            return {}
        except Refused as problem:
            problem.option = OPTION
            raise
        if content is None:
            return {}
        found: dict[str, Gate] = {}
        for name, flag in parse(content, "the file %s" % self.dest, OPTION)["flags"].items():
            owner, gate = owner_of(flag), gate_of(name, flag)
            if gate is None or owner != fleet:
                whose = "belongs to the fleet %s" % owner if owner not in (None, fleet) else "is no gate of the fleet %s" % fleet
                raise Refused(
                    "The flag %s in the file %s %s, and a release replaces the whole file" % (name, self.dest, whose),
                    option=OPTION,
                    next_step="Give the release's gates a file of their own (dest), or take the flag out by hand if nobody needs it",
                    details={"name": name, "fleet": owner, "where": self.dest},
                )
            found[name] = gate
        return found

    def refuse_no_way_back(self, now: Mapping[str, Gate]) -> None:
        """Refuse to let anybody new in: no earlier release has the file, so that none would let them out again.

        :param now: the gates that are in the file now.
        """
        for gate in self.gates:
            if _lets_in(gate) not in (None, _lets_in(now.get(gate.name))):
                raise Refused(
                    "The gate %s would let somebody in with the first release that has the file %s, and a rollback could not let them "
                    "out again" % (gate.name, self.dest),
                    option=OPTION,
                    next_step="Deploy it first as it is now, which is off if it is not there yet, and change it with the release after",
                    details={"name": gate.name, "where": self.dest},
                )


def gates_in(content: bytes | None, dest: str, fleet: str) -> list[Gate]:
    """The gates of ``fleet`` that a release has in its file; what else the file had before the first release is left out.

    :param content: None if the release does not have the file, which is no gates.
    :raises Refused: the file is no document of flags.
    """
    flags = {} if content is None else parse(content, "the file %s" % dest, OPTION)["flags"]
    found = [gate_of(name, flag) for name, flag in flags.items() if owner_of(flag) == fleet]
    return [gate for gate in found if gate is not None]


def as_options(gate: Gate) -> dict[str, Any]:
    """The gate as the options that make it, without a release."""
    given = {"name": gate.name, "state": gate.state, "percent": gate.percent, "key": gate.key}
    options = {option: value for option, value in given.items() if value is not None}
    return options if gate.targets is None else dict(options, targets=list(gate.targets))


def release_file(fleet: str, dest: str, gates: Sequence[Mapping[str, Any]]) -> ReleaseFile:
    """The file that options ask for.

    :param gates: each with ``name``, ``state`` and what :func:`wanted_gates` takes besides.
    :raises Refused: a gate is wrong, or two have one name; names the gate and the option.
    """
    try:
        return ReleaseFile(dest, tuple(wanted_gates(fleet, gates)))
    except Refused as problem:
        problem.option = OPTION if problem.option == "gates" else problem.option
        problem.message = "%s, for the file %s (option %s)" % (problem.message, dest, OPTION)
        raise


def _lets_in(gate: Gate | None) -> Gate | None:
    """Whom the gate lets in; None for nobody."""
    nobody = gate is None or gate.state == OFF or (gate.state == PERCENT and not gate.percent)
    return None if nobody or gate is None else replace(gate, release=None)
