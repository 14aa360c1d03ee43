# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What both pages say of what the journal does not have, and what a person has to write."""

from __future__ import annotations

from typing import Sequence

from .facts import Facts, Line
from .hosts import Host
from .text import NOT_KNOWN, many, some

#: Headings and what belongs under them.
BLANKS = (
    ("Summary", "What happened, in three sentences for somebody who was not there."),
    ("Impact", "Who noticed what, from when to when; how many tasks were late, failed or wrong."),
    ("Root cause", "Why the release was bad, and why that was not seen before it went out."),
    ("What went well", "What should be kept as it is."),
    ("Actions", "What is to be changed, by whom, until when."),
)
FILL_IN = "The journal cannot know these. Write into a copy, so that making the page again does not touch what you wrote."

CONFIG = {True: "differs", False: "the same", None: NOT_KNOWN}
NO_PLOT = "Not in the journal: no look at the queue, no gate's sample and no host that moved."
NO_DECISIONS = "Not in the journal."
NO_TASKS = "Not in the journal: no redrive was recorded in this operation."
NO_CONFIG_DIFF = "The lines that differ are not in the journal; each host has them: queueops.fleet.config_info compares its snapshots."


def config_words(hosts: Sequence[Host]) -> str:
    """On which hosts the operation's release has another config than the one before, by the releases' digests."""
    parts = []
    for changed, words in ((True, "differs"), (False, "is the same"), (None, "is not known")):
        names = [host.name for host in hosts if host.config is changed]
        if names:
            parts.append("%s on %s (%s)" % (words, many(len(names), "host"), some(names)))
    return "Compared with the release before, the config %s." % ", ".join(parts) if parts else "Of the config nothing is in the journal."


def where(line: Line) -> str:
    """The hosts of a line, the first few by name: the table of hosts has all."""
    return some(line.where, 5) or "fleet"


def timeline_words(facts: Facts) -> str:
    """How the timeline is to be read."""
    days = sorted({line.at[:10] for line in facts.timeline})
    return "Times are UTC, of %s. Event is the number of the line in the journal. Where nobody is named, it was %s." % (
        days[0] if len(days) == 1 else "%s to %s" % (days[0], days[-1]),
        facts.actor,
    )
