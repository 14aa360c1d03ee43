# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts as Markdown (CommonMark with GitHub's tables), to be filled in and kept where a team keeps such things."""

from __future__ import annotations

import re
from typing import Sequence

from .facts import Facts
from .hosts import ending, told
from .notes import BLANKS, CONFIG, FILL_IN, NO_CONFIG_DIFF, NO_DECISIONS, NO_TASKS, config_words, timeline_words, where
from .tasks import Redrive
from .text import NOT_KNOWN, clock, counted, seconds

#: What would be markup in running text. An underscore within a word is none; an address would become a link.
_SPECIAL = re.compile(r"[\\`*\[\]<>|~&!#$]|(?<![^\W_])_|_(?![^\W_])|(?<=:)//|(?<=www)\.", re.IGNORECASE)


def escaped(text: str) -> str:
    """``text``, one line of it, so that no renderer takes a part of it for markup."""
    return _SPECIAL.sub(lambda found: "".join("\\" + character for character in found.group()), text)


def markdown(facts: Facts) -> str:
    """The page, ending in a newline."""
    blocks = [
        "# Post-mortem of %s, fleet %s" % (escaped(facts.operation), escaped(facts.fleet)),
        "**%s.** %s." % (escaped(facts.verdict[:1].upper() + facts.verdict[1:]), escaped(facts.sentence[:1].upper() + facts.sentence[1:])),
        "From %s UTC %s. Opened by %s on %s, epoch %d."
        % (
            clock(facts.opened_at),
            "until %s UTC" % clock(facts.closed_at) if facts.closed_at else "and still open",
            escaped(facts.actor),
            escaped(facts.controller),
            facts.epoch,
        ),
    ]
    if facts.reason:
        blocks.append("Reason given: %s" % escaped(facts.reason))
    blocks += ["## To fill in by hand", FILL_IN]
    for title, hint in BLANKS:
        blocks += ["### " + title, "_%s_" % hint]
    blocks += ["## Times", _times(facts)]
    blocks += ["## Decision points", *(_decisions(facts) or [NO_DECISIONS])]
    blocks += ["## Timeline", escaped(timeline_words(facts)), _timeline(facts)]
    blocks += ["## Hosts", _hosts(facts)]
    blocks += ["## Tasks by outcome", *([block for one in facts.redrives for block in _redrive(one)] or [NO_TASKS])]
    blocks += ["## Config", escaped(config_words(facts.hosts)), *(_diffs(facts) or [NO_CONFIG_DIFF])]
    blocks.append(
        "Made by queueops.fleet from the fleet's journal alone, up to event %d, whose hash is `%s`. The plots are in the HTML page."
        % facts.last
    )
    return "\n\n".join(blocks) + "\n"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *[[escaped(cell) for cell in row] for row in rows]]
    return "\n".join("| %s |" % " | ".join(line) for line in lines)


def _times(facts: Facts) -> str:
    rows = []
    for span in facts.spans:
        told = span.meaning if span.seconds is not None else "%s: %s" % (span.meaning, span.why)
        events = ["" if seq is None else str(seq) for seq in (span.began, span.ended)]
        rows.append([span.name, NOT_KNOWN if span.seconds is None else seconds(span.seconds), *events, told])
    return _table(["", "Time", "From event", "To event", "Meaning"], rows)


def _decisions(facts: Facts) -> list[str]:
    blocks = []
    for one in facts.decisions:
        measured = [*one.values, *([("limit", one.limit)] if one.limit is not None else [])]
        lines = ["Time: %s UTC, event %d" % (clock(one.at), one.seq), "Decided by: %s" % escaped(one.by)]
        if measured:
            lines.append("Measured: " + escaped(", ".join("%s %s" % pair for pair in measured)))
        if one.reason:
            lines.append("Reason: " + escaped(one.reason))
        lines.append("Alternatives: " + escaped(" ".join(one.alternatives)))
        blocks += ["### %d. %s" % (one.number, escaped(one.what)), "\n".join("- " + line for line in lines)]
    return blocks


def _timeline(facts: Facts) -> str:
    rows = [
        [
            clock(line.at),
            ", ".join(str(seq) for seq in line.seqs),
            where(line),
            ("(%d) " % line.number if line.number else "") + line.text,
            line.actor,
        ]
        for line in facts.timeline
    ]
    return _table(["Time", "Event", "Where", "What happened", "By"], rows)


def _hosts(facts: Facts) -> str:
    rows = []
    for host in facts.hosts:
        steps = ["%s (event %d)" % (told(step), step.seq) for step in host.steps]
        rows.append([host.name, "; ".join(steps) or "not touched", CONFIG[host.config], ending(host, facts.names)])
    return _table(["Host", "What happened there", "Config", "Found at the end"], rows)


def _redrive(one: Redrive) -> list[str]:
    title = "Queue %s, event %d" % (escaped(one.queue), one.seq)
    if one.failure:
        return ["%s: the redrive failed: %s" % (title, escaped(one.failure))]
    rows = [[name, counted(tasks)] for name, tasks in one.outcomes] + [["left out: " + why, counted(tasks)] for why, tasks in one.left_out]
    blocks = [title, _table(["Outcome", "Tasks"], rows)]
    places = sorted(set(one.before) | set(one.after))
    if places:
        counts = [[place, counted(one.before.get(place)), counted(one.after.get(place))] for place in places]
        blocks.append(_table(["Tasks", "before", "after"], counts))
    why = ", " + escaped(one.conservation_reason) if one.conservation_reason else ""
    return [*blocks, "Conservation: %s%s." % (escaped(one.conservation or NOT_KNOWN), why)]


def _diffs(facts: Facts) -> list[str]:
    blocks = []
    for one in facts.diffs:
        blocks.append("File %s on %s, event %d" % (escaped(one.path), escaped(", ".join(one.hosts) or NOT_KNOWN), one.seq))
        # Indented, for no content of a file can end such a block.
        blocks.append("\n".join("    " + line for line in one.lines))
    return blocks
