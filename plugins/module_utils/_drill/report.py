# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sums a drill up: verdict and reasons, ``summary.json``, the lines for the terminal, and the report page."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from typing import Any

from .._errors import MissingLibrary
from .._page_style import STYLE
from .chart import Chart, draw
from .daemon import write_json
from .measure import Conservation, Row, compare_files
from .moments import Moment, Story


@dataclass
class Findings:
    """All that was measured and told.

    :ivar trial: ``bad`` or ``good``, what release 2 was.
    :ivar tasks: how many tasks at least had to be published.
    :ivar target_release: the release that every host should be on.
    :ivar target_version: its version.
    :ivar releases: host to release, as the fleet's status says; None where it is not known.
    :ivar running: host to version to number of workers, from the processes.
    :ivar instances: workers that each host should have.
    :ivar files: host to what ``compare_files`` found.
    :ivar problems: what already went wrong before the measuring.
    """

    trial: str
    tasks: int
    target_release: int
    target_version: str
    releases: dict[str, int | None]
    running: dict[str, dict[str, int]]
    instances: int
    files: dict[str, list[dict[str, Any]]]
    conservation: Conservation
    story: Story
    samples: list[dict[str, Any]]
    rows: list[Row]
    problems: list[str]


def compare_hosts(expected: dict[str, dict[str, str]]) -> dict[str, list[dict[str, Any]]]:
    """``compare_files`` for each host; here every host's files lie on this machine."""
    return {host: compare_files(files) for host, files in sorted(expected.items())}


def reasons(found: Findings) -> list[str]:
    """Why the drill did not pass; empty when it did."""
    why = list(found.problems) + _reasons_of_tasks(found.conservation, found.tasks)
    for host in sorted(found.running):
        why += _reasons_of_host(found, host)
    if found.trial == "bad" and not found.story.rolled_back:
        why.append("the bad release was not rolled back")
    if found.trial == "good" and found.story.rolled_back:
        why.append("the good release was rolled back")
    return why


def _reasons_of_tasks(kept: Conservation, tasks: int) -> list[str]:
    why = []
    if kept.lost:
        why.append("%d tasks were lost: %s" % (kept.lost, _listed(kept.lost_ids, kept.lost)))
    if kept.duplicated:
        why.append("%d runs too many, of the tasks %s" % (kept.duplicated, _listed(kept.duplicated_ids, len(kept.duplicated_ids))))
    if kept.unknown:
        why.append("%d tasks ran that nobody published" % kept.unknown)
    if kept.failed_by_rule:
        why.append("%d tasks still stand as failed: %s" % (kept.failed_by_rule, _listed(kept.failed_ids, kept.failed_by_rule)))
    if kept.waiting:
        why.append("%d tasks still wait or execute" % kept.waiting)
    if kept.parked:
        why.append("%d tasks are still parked" % kept.parked)
    if kept.published < tasks:
        why.append("only %d of %d tasks were published" % (kept.published, tasks))
    return why


def _reasons_of_host(found: Findings, host: str) -> list[str]:
    why = []
    release = found.releases.get(host)
    if release != found.target_release:
        why.append("%s is on release %s, not on release %d" % (host, "unknown" if release is None else release, found.target_release))
    if found.running[host] != {found.target_version: found.instances}:
        really = ", ".join("%d of %s" % (count, version) for version, count in sorted(found.running[host].items())) or "none"
        why.append("%s should run %d workers of %s, and runs %s" % (host, found.instances, found.target_version, really))
    files = found.files.get(host, [])
    if not files:
        why.append("%s: no config file was compared" % host)
    why += ["%s: %s is not what release %d has" % (host, entry["path"], found.target_release) for entry in files if not entry["same"]]
    return why


def _listed(numbers: list[int], total: int) -> str:
    text = ", ".join(str(number) for number in numbers[:10])
    return text + " and more" if total > 10 else text


def summarise(found: Findings, why: list[str]) -> dict[str, Any]:
    """What ``summary.json`` holds."""
    kept, story = asdict(found.conservation), found.story
    summary: dict[str, Any] = {name: count for name, count in kept.items() if name != "unknown"}
    summary.update(
        time_to_detect_s=story.time_to_detect_s,
        time_to_decide_s=story.time_to_decide_s,
        time_to_revert_s=story.time_to_revert_s,
        verdict="failed" if why else "passed",
        reasons=why,
        trial=found.trial,
        releases=found.releases,
        target_release=found.target_release,
        target_version=found.target_version,
        running=found.running,
        config_same={host: bool(files) and all(entry["same"] for entry in files) for host, files in sorted(found.files.items())},
    )
    return summary


# --- the terminal


def lines(found: Findings, why: list[str], began: float) -> list[str]:
    """The timeline, the times and the conservation table as aligned text.

    :param began: when the drill began, seconds since 1970.
    """
    out = ["Timeline (seconds since the first task)"]
    width = max([len(moment.host) for moment in found.story.moments] + [1])
    for moment in found.story.moments:
        out.append(("  %7.1f  %-*s  %s" % (moment.at - began, width, moment.host, moment.text)).rstrip())
    out += ["", "Times"]
    out += ["  %-8s %7s  %s" % (name.lower(), _seconds(value), meaning) for name, value, meaning in times(found)]
    out += ["", "Conservation"]
    out += ["  %-16s %7s" % (name, f"{count:,}") for name, count, _tone in conservation_table(found.conservation)]
    out += ["", "Hosts"]
    for row in host_table(found):
        config = "config byte for byte" if row["same"] else "config DIFFERS"
        out.append("  %-10s release %-3s %-24s %s" % (row["host"], row["release"], row["running"], config))
    out += ["", "%s: %s" % ("PASSED" if not why else "FAILED", sentence(found, why))]
    out += ["  - " + reason for reason in why]
    return out


def _seconds(value: float | None) -> str:
    return "%.1f s" % value if value is not None else "none"


def times(found: Findings) -> list[tuple[str, float | None, str]]:
    """The three times: name, seconds, what is measured."""
    story = found.story
    if found.trial == "good":
        return [
            ("Canary", story.time_to_canary_s, "from the canary's switch until its gate passes"),
            ("Promote", story.time_to_promote_s, "from the gate until the last host works on release %s" % story.suspect),
        ]
    return [
        ("Detect", story.time_to_detect_s, "from the canary's switch until its gate fails"),
        ("Decide", story.time_to_decide_s, "from the failing gate until the rollback is ordered"),
        ("Revert", story.time_to_revert_s, "from the order until the last touched host works on release %d" % found.target_release),
    ]


def conservation_table(kept: Conservation) -> list[tuple[str, int, str]]:
    """Rows of name, count and tone (``bad`` when the count should be none)."""
    return [
        ("published", kept.published, ""),
        ("completed", kept.completed, ""),
        ("waiting", kept.waiting, "bad" if kept.waiting else ""),
        ("parked", kept.parked, "bad" if kept.parked else ""),
        ("failed by rule", kept.failed_by_rule, "bad" if kept.failed_by_rule else ""),
        ("lost", kept.lost, "bad" if kept.lost else "good"),
        ("run twice", kept.duplicated, "bad" if kept.duplicated else "good"),
    ]


def host_table(found: Findings) -> list[dict[str, Any]]:
    """One row a host: release, running workers by version, config files."""
    table = []
    for host in sorted(found.running):
        files = found.files.get(host, [])
        release = found.releases.get(host)
        versions = found.running[host]
        table.append(
            {
                "host": host,
                "release": "?" if release is None else release,
                "running": ", ".join("%d running %s" % (count, version) for version, count in sorted(versions.items())) or "no worker",
                "agrees": release == found.target_release and versions == {found.target_version: found.instances},
                "files": [dict(entry, name=os.path.basename(entry["path"])) for entry in files],
                "same": bool(files) and all(entry["same"] for entry in files),
            }
        )
    return table


def sentence(found: Findings, why: list[str]) -> str:
    """The verdict in one sentence."""
    kept = found.conservation
    if why:
        return "the drill did not pass, for %s." % ("one reason" if len(why) == 1 else "%d reasons" % len(why))
    counted = f"all {kept.published:,} tasks ran exactly once"
    if found.trial == "good":
        return "release %s is on every host, and %s." % (found.story.suspect, counted)
    return "release %s was caught and rolled back on every host it touched, and %s." % (found.story.suspect, counted)


# --- the page


def page(found: Findings, why: list[str], template: str, made_at: str) -> str:
    """The report as one HTML page that needs nothing but itself.

    :param template: path of the Jinja2 template.
    :param made_at: when the report was made, for the reader.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingLibrary("The report needs Jinja2", next_step="Run the drill with the Python that runs Ansible") from error
    began = start_of(found.samples)
    numbered = _numbered(found.story.moments)
    samples = _told(found, began)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(template)),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    context = {
        "style": STYLE,
        "passed": not why,
        "sentence": sentence(found, why),
        "reasons": why,
        "trial": found.trial,
        "made_at": made_at,
        "times": [(name, None if value is None else "%.1f" % value, meaning) for name, value, meaning in times(found)],
        "timeline": [
            {"t": "%.1f" % (moment.at - began), "host": moment.host, "text": moment.text, "tone": moment.tone, "number": number}
            for moment, number in numbered
        ],
        "conservation": [(name, f"{count:,}", tone) for name, count, tone in conservation_table(found.conservation)],
        "hosts": host_table(found),
        "target_release": found.target_release,
        "charts": _charts(found, samples, began, numbered),
        "peak_failed": max([sample["failed"] for sample in samples] or [0]),
        "peak_queued": max([sample["queued"] for sample in samples] or [0]),
        "length": "%.0f" % (math.ceil(samples[-1]["t"]) if samples else 0),
    }
    return environment.get_template(os.path.basename(template)).render(context)


def start_of(samples: list[dict[str, Any]]) -> float:
    """When the first sample was taken: the drill's second 0, as seconds since 1970."""
    from .measure import seconds

    return seconds(samples[0]["at"]) - float(samples[0]["t"]) if samples else 0.0


def _told(found: Findings, began: float) -> list[dict[str, Any]]:
    """The samples up to a moment after the last thing that happened; an idle lab is no part of the story."""
    last = max([row.at for row in found.rows] + [moment.at for moment in found.story.moments] + [began]) - began + 1.0
    return [sample for sample in found.samples if sample["t"] <= last or sample["queued"] or sample["executing"]]


def _numbered(moments: list[Moment]) -> list[tuple[Moment, int]]:
    """Number the decision points from 1; other moments get 0."""
    numbered, last = [], 0
    for moment in moments:
        if moment.label:
            last += 1
        numbered.append((moment, last if moment.label else 0))
    return numbered


def _charts(found: Findings, samples: list[dict[str, Any]], began: float, numbered: list[tuple[Moment, int]]) -> dict[str, Chart]:
    marks = [(moment.at - began, number, moment.label, moment.tone) for moment, number in numbered if number]
    lanes: dict[str, list[tuple[float, float, str]]] = {host: [] for host in sorted(found.running)}
    for row in sorted(found.rows, key=lambda row: row.at):
        spans = lanes.setdefault(row.host, [])
        t = row.at - began
        if spans and spans[-1][2] == row.version:
            spans[-1] = (spans[-1][0], t, row.version)
        else:
            spans.append((t, t, row.version))
    first = min([row.version for row in found.rows] or [""])
    points = [(float(sample["t"]), int(sample["queued"]), int(sample["executing"]), int(sample["failed"])) for sample in samples]
    return {
        "wide": draw(points, marks, lanes, first, width=1000, labels=True),
        "narrow": draw(points, marks, lanes, first, width=358, labels=False),
    }


def write(found: Findings, why: list[str], drill_dir: str, template: str, made_at: str) -> dict[str, Any]:
    """Write ``summary.json`` and ``report.html`` into ``drill_dir``; return the summary."""
    summary = summarise(found, why)
    write_json(os.path.join(drill_dir, "summary.json"), summary)
    html = page(found, why, template, made_at)
    beside = os.path.join(drill_dir, "report.html.new")
    with open(beside, "w", encoding="utf-8") as handle:
        handle.write(html)
    os.replace(beside, os.path.join(drill_dir, "report.html"))
    return summary
