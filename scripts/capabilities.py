# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every queue system is able to do, as one markdown table, from what the backends declare. Connects to nothing.

Without an option it prints the table; ``--write`` puts it into docs/queues.md, between its two marks; ``--check`` fails unless
it stands there already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from house import BUILD, ROOT

PAGE = ROOT / "docs" / "queues.md"
BEGIN, END = "<!-- begin: scripts/capabilities.py -->", "<!-- end: scripts/capabilities.py -->"

if str(BUILD) not in sys.path:
    sys.path.insert(0, str(BUILD))

from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import ABILITIES, ACTIONS, SOURCES, Capabilities
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import BACKENDS, capabilities_of

#: A broker's address and its name, for systems that are able to do more on one than on another.
BROKERS = {"redis://": "Redis", "amqp://": "RabbitMQ"}


def systems() -> Iterator[tuple[str, Capabilities]]:
    """Every queue system, on each of its brokers."""
    for name in sorted(BACKENDS):
        if isinstance(BACKENDS[name](), type):
            yield f"`{name}`", capabilities_of(name)
            continue
        for url, broker in BROKERS.items():
            yield f"`{name}` on {broker}", capabilities_of(name, url)


def rows(system: str, able: Capabilities) -> Iterator[tuple[str, str, str, str]]:
    """System, what is asked of it, how it does it, and what it promises or what to use instead."""
    for ability, meaning in ABILITIES.items():
        if ability in able.can:
            yield system, meaning, "yes", able.guarantee.get(ability, "")
        else:
            yield system, meaning, "no", able.instead.get(ability, "")
    for kind, known, declared in (("source", SOURCES, able.sources), ("action", ACTIONS, able.actions)):
        for word in known:
            if word in declared:
                yield system, f"{kind} `{word}`", declared[word], able.guarantee.get(f"{kind}:{word}", "")
            else:
                yield system, f"{kind} `{word}`", "no", able.instead.get(f"{kind}:{word}", "")
    options = ", ".join(f"`{option}`" for option in able.match) or "no"
    missing = [able.instead[key] for key in sorted(able.instead) if key.startswith("match:")]
    yield system, "select by `match`", options, "; ".join(missing)


def cell(text: str) -> str:
    """Text that cannot end a table's cell, or become a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def table() -> str:
    """The whole table."""
    lines = ["| System | Ability | How | Guarantee, or what to use instead |", "| --- | --- | --- | --- |"]
    for system, able in systems():
        lines += ["| " + " | ".join(cell(text) for text in row) + " |" for row in rows(system, able)]
    return "\n".join(lines)


def page(text: str) -> str | None:
    """``text`` with the table between its marks; None if it has none."""
    before, begin, rest = text.partition(BEGIN)
    _old, end, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}" if begin and end else None


def main(arguments: list[str]) -> int:
    """Print, write or check; 1: not up to date, or no marks to write between."""
    if arguments not in (["--check"], ["--write"]):
        print(table())
        return 0
    there = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    wanted = page(there)
    if wanted is None:
        print(f"{PAGE.relative_to(ROOT)} lacks the lines {BEGIN} and {END}", file=sys.stderr)
        return 1
    if arguments == ["--write"]:
        PAGE.write_text(wanted, encoding="utf-8")
    elif wanted != there:
        print(f"{PAGE.relative_to(ROOT)} is not up to date: run scripts/capabilities.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
