# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a journal holds is untrusted: it is made plain here, once, before any page has it. Numbers and times as they are shown."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any, Iterable, Mapping, Sequence

NOT_KNOWN = "not known"

_LONGEST = 500
_TOO_LARGE = 1e15


def plain(value: Any) -> str:
    """``value`` on one line: white space joined, control and direction characters shown by their number, at most 500 characters."""
    return _visible(" ".join(_texted(value).split()))


def plain_lines(value: Any, most: int) -> list[str]:
    """The lines of a text, each made visible; at most ``most``, and a last one that says how many were left out."""
    lines = _texted(value).split("\n")
    shown = [_visible(line.replace("\t", "    ")) for line in lines[:most]]
    return shown if len(lines) <= most else [*shown, "… %d more lines" % (len(lines) - most)]


def _texted(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _visible(text: str) -> str:
    shown = "".join(character if character.isprintable() else "\\u%04x" % ord(character) for character in text)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def names(value: Any) -> list[str]:
    """The texts in a list, made plain."""
    return [plain(entry) for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """``value`` if it is a number of a size that can be measured, else None."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _TOO_LARGE else None


def count(value: Any) -> int | None:
    """``value`` if it is such a number and whole, else None."""
    return value if isinstance(value, int) and number(value) is not None else None


def unix(at: str | None) -> float:
    """Seconds since 1970 of a time as events have it."""
    return datetime.strptime(str(at), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()


def clock(at: str | None) -> str:
    """``2026-11-22 07:24:38``, in UTC as events are."""
    return str(at)[:19].replace("T", " ")


def clock_of(moment: float) -> str:
    """The same of seconds since 1970."""
    return clock(datetime.fromtimestamp(moment, timezone.utc).isoformat())


def seconds(value: float) -> str:
    """A duration: ``9.6 s``, ``4 min 07 s``, ``2 h 05 min``."""
    if value < 100:
        return "%.1f s" % value
    whole = round(value)
    if whole < 3600:
        return "%d min %02d s" % (whole // 60, whole % 60)
    return "%d h %02d min" % (whole // 3600, whole % 3600 // 60)


def percent(share: float) -> str:
    """A share as a percentage with one digit."""
    return "%.1f %%" % (100 * share)


def figure(name: str, value: Any) -> str:
    """One measured value, as its name says it is."""
    measured = number(value)
    if measured is not None and name.endswith("ratio"):
        return percent(measured)
    return plain(value) if measured is None else f"{measured:,}" if isinstance(measured, int) else "%.6g" % measured


def counted(tasks: Any) -> str:
    """How many, as far as it is known."""
    return NOT_KNOWN if count(tasks) is None else figure("", tasks)


def words(name: str) -> str:
    """``rolled_back`` as people say it."""
    return plain(name.replace("_", " "))


def some(hosts: Sequence[str], most: int = 5) -> str:
    """``worker1, worker2 and 28 more``"""
    if len(hosts) <= most:
        return ", ".join(hosts)
    return "%s and %d more" % (", ".join(hosts[:most]), len(hosts) - most)


def many(number_of: int, one: str) -> str:
    """``1 host``, ``2 hosts``"""
    return "%d %s%s" % (number_of, one, "" if number_of == 1 else "s")


def figures(data: Mapping[str, Any], known: Iterable[str] = ()) -> list[tuple[str, str]]:
    """The plain values of ``data`` whose names are not ``known``, by name."""
    left = sorted(set(data) - set(known))
    return [
        (words(name), figure(name, data[name]))
        for name in left
        if isinstance(data[name], (str, int, float)) and data[name] not in ("", None)
    ]
