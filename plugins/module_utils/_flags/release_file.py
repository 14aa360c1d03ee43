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
from .gate import OFF, PERCENT, Gate, definition, gate_of, owner_of, wanted_gate

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


def release_file(fleet: str, dest: str, gates: Sequence[Mapping[str, Any]]) -> ReleaseFile:
    """The file that options ask for.

    :param gates: each with ``name``, ``state`` and what :func:`wanted_gate` takes besides.
    :raises Refused: a gate is wrong, or two have one name; names the gate and the option.
    """
    found: dict[str, Gate] = {}
    for options in gates:
        try:
            gate = wanted_gate(fleet=fleet, **options)
        except Refused as problem:
            raise Refused(
                "The gate %s for the file %s (option %s) cannot be made: %s" % (options["name"], dest, OPTION, problem.message),
                option=problem.option,
                next_step=problem.next_step,
            ) from problem
        if gate.name in found:
            raise Refused("The gate %s is given twice for the file %s" % (gate.name, dest), option=OPTION, next_step="Leave one out")
        found[gate.name] = gate
    return ReleaseFile(dest, tuple(found.values()))


def _lets_in(gate: Gate | None) -> Gate | None:
    """Whom the gate lets in; None for nobody."""
    nobody = gate is None or gate.state == OFF or (gate.state == PERCENT and not gate.percent)
    return None if nobody or gate is None else replace(gate, release=None)
