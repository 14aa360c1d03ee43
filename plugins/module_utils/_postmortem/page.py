# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts as one HTML page that needs nothing but itself: no script, nothing fetched."""

from __future__ import annotations

from typing import Sequence

from .._html import Child, Markup, element, joined
from .._page_style import STYLE
from .decisions import Decision
from .facts import Facts
from .hosts import FileDiff, Host, ending, told
from .notes import BLANKS, CONFIG, FILL_IN, NO_CONFIG_DIFF, NO_DECISIONS, NO_PLOT, NO_TASKS, config_words, timeline_words, where
from .plot import plots
from .tasks import Redrive
from .text import NOT_KNOWN, clock, counted, seconds
from .times import Span

_STYLE = """\
main { overflow-wrap: anywhere; }
.neutral .verdict { color: var(--ink); background: var(--rule); }
.times p.value { font-size: 28px; white-space: nowrap; }
.times p.value.unknown { font-size: 22px; line-height: 1.9; color: var(--soft); }
.reason { margin: 12px 0 0; color: var(--soft); }
.stacked th { white-space: nowrap; }
td.seq { color: var(--soft); font-size: 13px; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.clock { width: 5.2em; white-space: nowrap; font-variant-numeric: tabular-nums; color: var(--soft); }
td.where { width: 13em; color: var(--soft); }
tr.key td.clock, tr.key td.seq, tr.key td.where, tr.key .by { font-weight: 400; }
.by { color: var(--soft); font-size: 13px; }
.tasks table { max-width: 460px; } .tasks p { margin: 10px 0 4px; }
.decision { display: grid; grid-template-columns: 30px minmax(0, 1fr); padding: 12px 0; border-top: 1px solid var(--rule); }
.decision:first-of-type { border-top: 0; padding-top: 0; }
.decision h3 { margin: 0; font-size: 15px; font-weight: 600; }
.decision p { margin: 4px 0 0; font-size: 15px; }
.decision dl { display: flex; flex-wrap: wrap; gap: 2px 22px; margin: 6px 0 0; font-size: 14px; }
.decision dl div { display: flex; gap: 6px; min-width: 0; }
.decision dt { color: var(--soft); } .decision dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; min-width: 0; }
.blanks h3 { margin: 14px 0 6px; font-size: 15px; font-weight: 600; }
.blanks p.blank { margin: 0; min-height: 3.2em; padding: 8px 12px; border: 1px dashed var(--soft); border-radius: 8px; color: var(--soft); \
font-size: 14px; }
pre { margin: 8px 0 0; padding: 10px 12px; border-radius: 8px; background: var(--page); white-space: pre-wrap; \
font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre .added { color: var(--good); } pre .gone { color: var(--bad); }
svg .dot.waiting { fill: var(--waiting); } svg .dot.failed { fill: var(--failed); }
svg .limit { stroke: var(--bad); stroke-dasharray: 6 4; } svg .limitname { fill: var(--bad); font-size: 11.5px; paint-order: stroke; \
stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
@media (max-width: 760px) {
  table.stacked, .stacked tbody, .stacked tr, .stacked td { display: block; width: auto; }
  .stacked thead { display: none; }
  .stacked tr { padding: 8px 0; border-top: 1px solid var(--rule); } .stacked tr:first-child { border-top: 0; }
  .stacked td { padding: 1px 0; border: 0; text-align: left; }
  .stacked td:empty { display: none; }
  .timeline td.point, .timeline td.clock, .timeline td.seq, .timeline td.where { display: inline-block; padding-right: 8px; width: auto; }
  .stacked td[data-name]::before { content: attr(data-name) " "; color: var(--soft); font-size: 13px; }
}
"""


def page(facts: Facts) -> str:
    """The page, ending in a newline."""
    title = "Post-mortem of %s, fleet %s" % (facts.operation, facts.fleet)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        # Without it a browser asks the server, or looks on the disk, for an icon.
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup("\n" + STYLE + _STYLE)),
    )
    main = element(
        "main",
        _header(facts),
        element("div", *[_time(span) for span in facts.spans], class_="times"),
        _section("What the queue and the hosts saw", plots(facts) or _note(NO_PLOT), "plotcard"),
        _section("Decision points", joined(*[_decision(one) for one in facts.decisions]) if facts.decisions else _note(NO_DECISIONS)),
        _section("Timeline", _timeline(facts), note=timeline_words(facts)),
        _section("Hosts", _hosts(facts.hosts, facts)),
        _section("Tasks by outcome", joined(*[_redrive(one) for one in facts.redrives]) if facts.redrives else _note(NO_TASKS), "tasks"),
        _section("Config", _config(facts)),
        _section("To fill in by hand", joined(*[_blank(*one) for one in BLANKS]), "blanks", FILL_IN),
        element("footer", _provenance(facts)),
        class_={"good": "passed", "bad": "failed"}.get(facts.tone, "neutral"),
    )
    return "<!DOCTYPE html>\n" + element("html", head, element("body", main), lang="en") + "\n"


def _provenance(facts: Facts) -> str:
    return (
        "Made by queueops.fleet from the fleet's journal alone, up to event %d, whose hash is %s. Made again, it is the same to the byte. "
        "Gates are dated by the controller's clock, hosts by their own." % facts.last
    )


def _header(facts: Facts) -> Markup:
    until = "until %s UTC" % clock(facts.closed_at) if facts.closed_at else "and still open"
    kind = element(
        "p",
        element("span", facts.verdict[:1].upper() + facts.verdict[1:], class_="verdict"),
        "queueops.fleet post-mortem · fleet %s · %s · from %s %s" % (facts.fleet, facts.operation, clock(facts.opened_at), until),
        class_="kind",
    )
    by = "Opened by %s on %s, epoch %d." % (facts.actor, facts.controller, facts.epoch)
    return element("header", kind, element("h1", facts.sentence), element("p", " ".join([by, *_reason(facts)]), class_="reason"))


def _reason(facts: Facts) -> list[str]:
    return ["Reason given: %s" % facts.reason] if facts.reason else []


def _time(span: Span) -> Markup:
    between = "event %s to event %s" % (span.began, span.ended)
    if span.seconds is None:
        return element(
            "div",
            element("h2", span.name),
            element("p", NOT_KNOWN, class_="value unknown"),
            element("p", "%s: %s." % (span.meaning, span.why), class_="meaning"),
            class_="card",
        )
    return element(
        "div",
        element("h2", span.name),
        element("p", seconds(span.seconds), class_="value"),
        element("p", "%s (%s)" % (span.meaning, between), class_="meaning"),
        class_="card",
    )


def _section(title: str, content: Markup, class_: str = "", note: str | None = None) -> Markup:
    told = None if note is None else element("p", note, class_="note")
    return element("section", element("h2", title), told, content, class_=("card " + class_).strip())


def _note(text: str) -> Markup:
    return element("p", text, class_="note")


def _decision(one: Decision) -> Markup:
    measured = [*one.values, *([("limit", one.limit)] if one.limit is not None else [])]
    figures = [element("div", element("dt", name), element("dd", value)) for name, value in measured]
    return element(
        "div",
        element("div", _badge(one.number, one.tone), class_="point"),
        element(
            "div",
            element("h3", one.what),
            element("p", "%s UTC, event %d. Decided by %s." % (clock(one.at), one.seq, one.by), class_="by"),
            element("dl", *figures) if figures else None,
            element("p", one.reason) if one.reason else None,
            element("p", "Alternatives: " + " ".join(one.alternatives)),
        ),
        class_="decision",
    )


def _badge(number: int, tone: str) -> Markup:
    return element("span", str(number), class_=tone or None)


def _timeline(facts: Facts) -> Markup:
    one_day = len({line.at[:10] for line in facts.timeline}) == 1
    rows = []
    for line in facts.timeline:
        moment = clock(line.at)[11:] if one_day else clock(line.at)
        by = None if line.actor == facts.actor else element("span", " by %s" % line.actor, class_="by")
        rows.append(
            element(
                "tr",
                element("td", _badge(line.number, line.tone) if line.number else None, class_="point"),
                element("td", moment, class_="clock"),
                element("td", _seqs(line.seqs), class_="seq"),
                element("td", where(line), class_="where"),
                element("td", element("span", line.text, class_=line.tone or None), by),
                class_="key" if line.number else None,
            )
        )
    return _table(("", "Time", "Event", "Where", "What happened"), rows, "timeline")


def _seqs(seqs: Sequence[int]) -> str:
    if len(seqs) > 2 and list(seqs) == list(range(seqs[0], seqs[-1] + 1)):
        return "%d to %d" % (seqs[0], seqs[-1])
    return ", ".join(str(seq) for seq in seqs)


def _table(titles: Sequence[str], rows: Sequence[Markup], class_: str = "") -> Markup:
    head = element("thead", element("tr", *[element("th", title) for title in titles]))
    return element("table", head, element("tbody", *rows), class_=("stacked " + class_).strip())


def _cell(name: str, *children: Child, tone: str = "") -> Markup:
    return element("td", *children, data_name=name, class_=tone or None)


def _hosts(found: Sequence[Host], facts: Facts) -> Markup:
    rows = []
    for host in found:
        steps: list[Child] = []
        for step in host.steps:
            steps += [element("br") if steps else None, element("span", told(step), class_="bad" if step.bad else None)]
            steps.append(element("span", " event %d" % step.seq, class_="by"))
        rows.append(
            element(
                "tr",
                element("td", element("strong", host.name)),
                _cell("", *(steps or ["not touched"])),
                _cell("Config", CONFIG[host.config]),
                _cell("Found at the end", ending(host, facts.names), tone="" if not host.reported else "good" if host.ok else "bad"),
            )
        )
    return _table(("Host", "What happened there", "Config", "Found at the end"), rows)


def _redrive(one: Redrive) -> Markup:
    title = element("p", element("strong", "Queue %s" % one.queue), element("span", " event %d" % one.seq, class_="by"))
    if one.failure:
        return joined(title, element("p", "The redrive failed: %s" % one.failure, class_="bad"))
    rows = [element("tr", element("td", name), element("td", counted(tasks), class_="number")) for name, tasks in one.outcomes]
    rows += [
        element("tr", element("td", "left out: " + why), element("td", counted(tasks), class_="number")) for why, tasks in one.left_out
    ]
    places = sorted(set(one.before) | set(one.after))
    moved = [
        element(
            "tr",
            element("td", place),
            element("td", counted(one.before.get(place)), class_="number"),
            element("td", counted(one.after.get(place)), class_="number"),
        )
        for place in places
    ]
    census = element(
        "thead", element("tr", element("th", "Tasks"), *[element("th", name, class_="number") for name in ("before", "after")])
    )
    conserved = "Conservation: %s%s." % (one.conservation or NOT_KNOWN, ", " + one.conservation_reason if one.conservation_reason else "")
    return joined(
        title,
        element("table", element("tbody", *rows)),
        element("table", census, element("tbody", *moved)) if moved else None,
        element("p", conserved),
    )


def _config(facts: Facts) -> Markup:
    told = element("p", config_words(facts.hosts))
    if not facts.diffs:
        return joined(told, _note(NO_CONFIG_DIFF))
    return joined(told, *[_diff(one) for one in facts.diffs])


def _diff(one: FileDiff) -> Markup:
    lines: list[Child] = []
    for line in one.lines:
        class_ = {"+": "added", "-": "gone"}.get(line[:1])
        lines += [element("span", line, class_=class_), Markup("\n")]
    title = element(
        "p",
        element("strong", one.path),
        " on %s " % (", ".join(one.hosts) or NOT_KNOWN),
        element("span", "event %d" % one.seq, class_="by"),
    )
    return joined(title, element("pre", *lines))


def _blank(title: str, hint: str) -> Markup:
    return joined(element("h3", title), element("p", hint, class_="blank"))
