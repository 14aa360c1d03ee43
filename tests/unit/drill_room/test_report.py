# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counting by identity, telling the story from a real journal, judging and drawing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._drill import report
from ansible_collections.queueops.fleet.plugins.module_utils._drill.chart import draw
from ansible_collections.queueops.fleet.plugins.module_utils._drill.measure import Conservation, Row, compare_files, conserve, seconds
from ansible_collections.queueops.fleet.plugins.module_utils._drill.moments import Story, tell

from .conftest import TEMPLATE

Events = list[dict[str, Any]]


def published(*numbers: int) -> dict[str, int]:
    return {f"mail-{number:05d}": number for number in numbers}


def test_each_task_is_counted_once_and_by_its_number() -> None:
    kept = conserve(
        published(*range(1, 11)), [1, 2, 2, 2, 3, 99], failed=["mail-00004", "mail-00005"], parked=["mail-00006"], waiting=["mail-00005"]
    )
    assert (kept.published, kept.completed, kept.waiting, kept.parked, kept.failed_by_rule) == (10, 3, 1, 1, 1)
    assert (kept.lost, kept.lost_ids) == (4, [7, 8, 9, 10])
    assert (kept.duplicated, kept.duplicated_ids) == (2, [2])
    assert kept.unknown == 1
    assert kept.published == kept.completed + kept.waiting + kept.parked + kept.failed_by_rule + kept.lost


def test_equal_numbers_do_not_hide_a_loss() -> None:
    """One task lost and one run twice: the rows are as many as the tasks, and it is still a loss."""
    kept = conserve(published(1, 2, 3), [1, 2, 2], [], [], [])
    assert (kept.lost_ids, kept.duplicated_ids) == ([3], [2])


def test_files_are_compared_byte_for_byte(tmp_path: Any) -> None:
    (tmp_path / "a").write_bytes(b"x")
    found = compare_files({str(tmp_path / "a"): "0" * 64, str(tmp_path / "gone"): "0" * 64})
    assert [(entry["same"], entry["sha256"] is None) for entry in found] == [(False, False), (False, True)]


def after(events: Events, kind: str, by: float, nth: int = 0) -> float:
    return seconds([event for event in events if event["kind"] == kind][nth]["at"]) + by


def ledger(events: Events) -> list[Row]:
    """Completions of worker1 as they lie around the events of the journal."""
    return [
        Row(1, "1.0.0", "worker1", "", after(events, "host_switched", 0.1)),
        Row(2, "1.0.0", "worker2", "", after(events, "host_switched", 0.1, 1)),
        Row(3, "1.0.0", "worker3", "", after(events, "host_switched", 0.1, 2)),
        Row(4, "2.0.0", "worker1", "", after(events, "host_switched", -1.5, 3)),
        Row(5, "1.0.0", "worker2", "", after(events, "rollback_ordered", 0.2)),
        Row(6, "1.0.0", "worker1", "", after(events, "host_reverted", -2.25)),
    ]


def test_the_three_times_come_from_the_journal_and_the_ledger(journal: Events) -> None:
    story = tell(journal, ledger(journal), 1)
    verdict = next(event for event in journal if event["kind"] == "gate_verdict" and event["data"]["verdict"] == "fail")
    decided = verdict["data"]["last_sample"]["at"]
    assert story.suspect == 2
    assert story.rolled_back is True
    # The first task under release 2 is earlier than the event of the switch, which is written when the workers are healthy.
    assert story.time_to_detect_s == pytest.approx(decided - after(journal, "host_switched", -1.5, 3), abs=0.01)
    assert story.time_to_decide_s == pytest.approx(after(journal, "rollback_ordered", 0) - decided, abs=0.01)
    # worker2 was not touched: its tasks do not count.
    assert story.time_to_revert_s == pytest.approx(after(journal, "host_reverted", -2.25) - after(journal, "rollback_ordered", 0), abs=0.01)


def test_without_a_task_after_the_return_the_event_dates_it(journal: Events) -> None:
    story = tell(journal, ledger(journal)[:-1], 1)
    assert story.time_to_revert_s == pytest.approx(after(journal, "host_reverted", 0) - after(journal, "rollback_ordered", 0), abs=0.01)


def test_a_touched_host_that_never_came_back_leaves_no_time_to_revert(journal: Events) -> None:
    events = [event for event in journal if event["kind"] != "host_reverted"]
    assert tell(events, ledger(journal)[:-1], 1).time_to_revert_s is None


def test_the_decision_points_stand_in_their_order(journal: Events) -> None:
    story = tell(journal, ledger(journal), 1)
    labels = [moment.label for moment in story.moments if moment.label]
    assert labels == [
        "release 1 on all hosts",
        "release 2 on the canary",
        "gate fails",
        "rollback ordered",
        "all hosts back",
        "failed tasks redriven",
    ]
    assert [moment.at for moment in story.moments] == sorted(moment.at for moment in story.moments)
    confirmed = [moment.host for moment in story.moments if moment.text == "release 1 (version 1.0.0) confirmed"]
    assert confirmed == ["all hosts"]


def test_a_good_release_has_times_of_its_own(journal: Events) -> None:
    story = tell(journal[:14], ledger(journal)[:3], 1)
    assert story.rolled_back is False
    assert story.time_to_detect_s is None
    assert story.time_to_canary_s is not None
    assert story.time_to_promote_s is not None


def findings(journal: Events, **changes: Any) -> report.Findings:
    samples = [
        {"at": journal[0]["at"], "t": 0.0, "queued": 0, "executing": 0, "failed": 0},
        {"at": journal[0]["at"], "t": 60.0, "queued": 40, "executing": 6, "failed": 30},
        {"at": journal[0]["at"], "t": 126.0, "queued": 0, "executing": 0, "failed": 0},
    ]
    hosts = ("worker1", "worker2", "worker3")
    given: dict[str, Any] = {
        "trial": "bad",
        "tasks": 1000,
        "target_release": 1,
        "target_version": "1.0.0",
        "releases": dict.fromkeys(hosts, 1),
        "running": {host: {"1.0.0": 2} for host in hosts},
        "instances": 2,
        "files": {host: [{"path": f"/{host}/etc/<b>.conf", "sha256": "ab" * 32, "expected": "ab" * 32, "same": True}] for host in hosts},
        "conservation": Conservation(published=1214, completed=1214),
        "story": tell(journal, ledger(journal), 1),
        "samples": samples,
        "rows": ledger(journal),
        "problems": [],
    }
    return report.Findings(**{**given, **changes})


def test_a_clean_drill_passes(journal: Events) -> None:
    found = findings(journal)
    assert report.reasons(found) == []
    summary = report.summarise(found, [])
    wanted = "published completed failed_by_rule parked waiting lost duplicated time_to_detect_s time_to_decide_s time_to_revert_s"
    assert {*wanted.split(), "verdict", "releases", "target_release"} <= set(summary)
    assert json.loads(json.dumps(summary))["verdict"] == "passed"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"conservation": Conservation(published=1214, completed=1213, lost=1, lost_ids=[7])}, "lost: 7"),
        ({"conservation": Conservation(published=1214, completed=1214, duplicated=1, duplicated_ids=[8])}, "too many"),
        ({"conservation": Conservation(published=1214, completed=1213, failed_by_rule=1, failed_ids=[9])}, "stand as failed: 9"),
        ({"conservation": Conservation(published=1214, completed=1213, waiting=1)}, "wait"),
        ({"conservation": Conservation(published=1214, completed=1213, parked=1)}, "parked"),
        ({"conservation": Conservation(published=1214, completed=1214, unknown=1)}, "nobody published"),
        ({"conservation": Conservation(published=999, completed=999)}, "999 of 1000"),
        ({"releases": {"worker1": 1, "worker2": 2, "worker3": 1}}, "worker2 is on release 2"),
        ({"releases": {"worker1": 1, "worker2": None, "worker3": 1}}, "worker2 is on release unknown"),
        ({"releases": {"worker1": 1, "worker3": 1}}, "worker2 is on release unknown"),
        ({"running": {"worker1": {"1.0.0": 1, "2.0.0": 1}}}, "1 of 2.0.0"),
        ({"running": {"worker1": {}}}, "runs none"),
        ({"files": {}}, "no config file was compared"),
        ({"story": Story(suspect=2)}, "was not rolled back"),
        ({"trial": "good"}, "good release was rolled back"),
        ({"problems": ["the deploy could not be closed"]}, "could not be closed"),
    ],
)
def test_each_fault_is_a_reason_of_its_own(journal: Events, changes: dict[str, Any], word: str) -> None:
    found = findings(journal, **changes)
    why = report.reasons(found)
    assert any(word in reason for reason in why), why
    assert report.summarise(found, why)["verdict"] == "failed"
    assert report.lines(found, why, 0.0)[-1] == "  - " + why[-1]


def test_the_lines_are_aligned_and_hold_the_counts(journal: Events) -> None:
    out = report.lines(findings(journal), [], report.start_of(findings(journal).samples))
    assert "  published          1,214" in out
    assert "  lost                   0" in out
    assert any(re.match(r"  +\d+\.\d  worker1 +works on release 2", line) for line in out)
    assert out[-1].startswith("PASSED: release 2 was caught")
    assert max(len(line) for line in out) < 140


class Page(HTMLParser):
    """Collects what a page would fetch, and checks that its elements close."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.badges = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self.fetched += [str(names[name]) for name in ("src", "href", "xlink:href") if name in names]
        if tag in ("script", "link", "img", "iframe"):
            self.fetched.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.badges += tag == "circle"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("faulty", [False, True])
def test_the_page_needs_nothing_but_itself(journal: Events, faulty: bool) -> None:
    found = findings(journal, **({"problems": ["<script>alert(1)</script>"]} if faulty else {}))
    html = report.page(found, report.reasons(found), TEMPLATE, "today")
    page = Page()
    page.feed(html)
    assert page.open == []
    assert page.fetched == []
    assert page.badges == 12  # six decision points in the wide and in the narrow plot
    assert "url(" not in html
    assert "@import" not in html
    assert "/etc/<b>" not in html
    assert ("Failed" if faulty else "Passed") in html
    assert "prefers-color-scheme: dark" in html


def test_a_drill_without_any_event_or_sample_still_makes_a_page(journal: Events) -> None:
    found = findings(journal, story=Story(), samples=[], rows=[])
    why = report.reasons(found)
    Page().feed(report.page(found, why, TEMPLATE, "today"))
    assert why == ["the bad release was not rolled back"]


@pytest.mark.parametrize(("width", "labels"), [(1000, True), (358, False)])
def test_no_label_touches_another_and_none_leaves_the_plot(width: int, labels: bool) -> None:
    texts = ["release 1 on all hosts", "release 2 on the canary", "gate fails", "rollback ordered", "all hosts back", "tasks redriven"]
    marks = [(float(t), number, text, "") for number, (t, text) in enumerate(zip((3, 57, 58, 58.2, 59.9, 60), texts, strict=True), start=1)]
    chart = draw([(0.0, 0, 0, 0), (60.0, 5, 1, 0)], marks, {"worker1": [(1.0, 59.0, "1.0.0")]}, "1.0.0", width, labels)
    boxes = []
    for mark in chart.marks:
        long = len(mark["label"]) * 6.3 + 14 if labels else 9
        begin, end = (mark["x"] - 9, mark["x"] + long) if mark["side"] == "right" else (mark["x"] - long, mark["x"] + 9)
        assert end <= width and begin >= 0
        boxes.append((mark["y"], begin, end))
    for index, (y, begin, end) in enumerate(boxes):
        for other_y, other_begin, other_end in boxes[index + 1 :]:
            assert y != other_y or end < other_begin or begin > other_end
