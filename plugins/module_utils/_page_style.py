# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How every page of the collection looks: light and dark, wide and narrow, on paper; nothing is fetched."""

from __future__ import annotations

STYLE = """\
:root {
  --page: #f6f6f4; --card: #ffffff; --ink: #1d2329; --soft: #59636e; --rule: #e1e4e6; --grid: #eceef0;
  --good: #1f7a4d; --good-wash: #e5f3eb; --bad: #b3322c; --bad-wash: #fae9e7;
  --waiting: #2f6db3; --executing: #c98a11; --failed: #c0392b; --first: #cfdbe8; --first-ink: #27425f; --second: #e58b3a; \
--second-ink: #2b1600;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181c; --card: #1c2126; --ink: #e6e9ec; --soft: #9aa5b0; --rule: #323a42; --grid: #282f36;
    --good: #5cc48d; --good-wash: #16322a; --bad: #f08178; --bad-wash: #3a201f;
    --waiting: #6ba5e7; --executing: #e0aa3e; --failed: #f0766b; --first: #34485d; --first-ink: #cfe0f2; --second: #d27b2c; \
--second-ink: #1c0f00;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); \
font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 64px; }
header p.kind { margin: 0 0 10px; color: var(--soft); font-size: 14px; }
.verdict { display: inline-block; margin-right: 10px; padding: 2px 10px; border-radius: 99px; font-weight: 600; color: var(--bad); \
background: var(--bad-wash); }
.passed .verdict { color: var(--good); background: var(--good-wash); }
h1 { margin: 0; font-size: clamp(23px, 3.4vw, 34px); line-height: 1.22; font-weight: 650; letter-spacing: -0.01em; text-wrap: balance; \
max-width: 30em; }
h1::first-letter { text-transform: uppercase; }
.reasons { margin: 16px 0 0; padding: 14px 18px 14px 34px; border-radius: 10px; background: var(--bad-wash); color: var(--bad); }
.times { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 14px; margin: 28px 0; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 18px 20px; min-width: 0; }
.times h2 { margin: 0; font-size: 14px; font-weight: 600; color: var(--soft); }
.times p.value { margin: 2px 0 4px; font-size: 36px; line-height: 1.15; font-weight: 650; font-variant-numeric: tabular-nums; \
letter-spacing: -0.02em; }
.times .value small { margin-left: 4px; font-size: 18px; font-weight: 500; color: var(--soft); }
.times p { margin: 0; }
.times .meaning { font-size: 14px; line-height: 1.4; color: var(--soft); }
section { margin-top: 14px; }
section > h2 { margin: 0 0 10px; font-size: 18px; font-weight: 650; }
section > p.note { margin: -6px 0 12px; font-size: 14px; color: var(--soft); }
.columns { display: grid; grid-template-columns: minmax(0, 1.65fr) minmax(0, 1fr); gap: 14px; align-items: start; margin-top: 14px; }
.columns section { margin-top: 0; }
.columns .side { display: grid; gap: 14px; }
table { width: 100%; border-collapse: collapse; font-size: 15px; }
th, td { padding: 7px 10px 7px 0; text-align: left; vertical-align: top; border-top: 1px solid var(--rule); overflow-wrap: anywhere; }
tr:first-child > td, thead th { border-top: 0; }
th { font-weight: 600; color: var(--soft); font-size: 13px; }
td:last-child, th:last-child { padding-right: 0; }
.number, td.t { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.t { width: 3.2em; color: var(--soft); }
td.at { width: 5.5em; color: var(--soft); }
td.point { width: 30px; }
.point span { display: inline-block; width: 20px; height: 20px; border-radius: 50%; background: var(--ink); color: var(--card); \
font-size: 12px; font-weight: 600; line-height: 20px; text-align: center; }
.point .good { background: var(--good); } .point .bad { background: var(--bad); }
tr.key td { font-weight: 600; } tr.key td.t, tr.key td.at { font-weight: 400; }
.good { color: var(--good); } .bad { color: var(--bad); }
.point .good, .point .bad { color: var(--card); }
.conservation tr.sum td { border-top: 0; font-weight: 600; }
.conservation td { padding-top: 6px; padding-bottom: 6px; }
.conservation tr.indent td:first-child { padding-left: 14px; }
.digest { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; color: var(--soft); }
.hosts td { line-height: 1.45; }
footer { margin-top: 28px; font-size: 13px; color: var(--soft); }
svg.plot { display: block; width: 100%; height: auto; overflow: visible; }
svg.narrow { display: none; }
svg text { font-family: inherit; fill: var(--ink); font-size: 12px; }
svg .tick { fill: var(--soft); }
svg .tick { font-variant-numeric: tabular-nums; }
svg .title { font-size: 13px; font-weight: 600; }
svg .label { font-weight: 500; }
svg .label, svg .title { paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
svg .grid { stroke: var(--grid); } svg .base { stroke: var(--soft); stroke-opacity: 0.55; }
svg .lead { stroke: var(--soft); stroke-opacity: 0.6; stroke-dasharray: 2 3; }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .area { stroke: none; fill-opacity: 0.13; }
svg .line.waiting { stroke: var(--waiting); } svg .area.waiting { fill: var(--waiting); }
svg .line.executing { stroke: var(--executing); } svg .area.executing { fill: var(--executing); }
svg .line.failed { stroke: var(--failed); } svg .area.failed { fill: var(--failed); }
svg .span.first { fill: var(--first); } svg .span.second { fill: var(--second); }
svg .inside { font-size: 12px; } svg .inside.first { fill: var(--first-ink); } svg .inside.second { fill: var(--second-ink); \
font-weight: 600; }
svg .mark circle { fill: var(--ink); stroke: var(--card); stroke-width: 2; }
svg .mark text { fill: var(--card); font-size: 11.5px; font-weight: 600; }
svg .mark.good circle { fill: var(--good); } svg .mark.bad circle { fill: var(--bad); }
@media (max-width: 760px) {
  main { padding: 24px 12px 40px; }
  .card { padding: 16px 14px; }
  .columns { grid-template-columns: minmax(0, 1fr); }
  .times { grid-template-columns: 1fr; gap: 10px; margin: 20px 0; }
  .times .card { display: grid; grid-template-columns: 1fr auto; column-gap: 12px; align-items: baseline; }
  .times h2 { font-size: 16px; color: var(--ink); } .times p.value { font-size: 26px; margin: 0; \
} .times p.meaning { grid-column: 1 / -1; }
  svg.wide { display: none; } svg.narrow { display: block; }
  .plotcard { padding: 14px 6px; } .plotcard h2, .plotcard p.note { padding: 0 8px; }
}
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""
