# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page in a real browser: it loads nothing, complains of nothing, and can be read on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._postmortem.page import page

from tests.unit.postmortem.browser import Browser
from tests.unit.postmortem.conftest import Fleet

#: Every element whose box reaches beyond the page, and every text that is smaller than can be read.
BEYOND = """
(() => {
  const width = document.documentElement.clientWidth, found = [];
  for (const one of document.body.querySelectorAll("*")) {
    const box = one.getBoundingClientRect();
    if (box.width && (box.right > width + 0.5 || box.left < -0.5)) found.push(one.tagName + " " + one.textContent.slice(0, 40));
  }
  return found;
})()
"""
SMALLEST = """
Math.min(...[...document.body.querySelectorAll("*")].filter(
  one => one.getBoundingClientRect().width && [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())
).map(one => parseFloat(getComputedStyle(one).fontSize) * (one.ownerSVGElement ? one.getScreenCTM().a : 1)))
"""
#: Every cell with a text of some length that is squeezed into a narrow column.
SQUEEZED = """
[...document.querySelectorAll("td")].filter(one => one.textContent.length > 30 && one.getBoundingClientRect().width < 160)
  .map(one => one.textContent.slice(0, 40))
"""
PLOTS = "[...document.querySelectorAll('svg.plot')].filter(one => one.getBoundingClientRect().width).map(one => one.getAttribute('class'))"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    one = Browser(tmp_path / "profile")
    yield one
    one.close()


@pytest.mark.parametrize("story", ["rolled_back", "hostile"])
def test_it_reads_at_both_widths_without_an_error_or_a_request(story: str, request: pytest.FixtureRequest, browser: Browser) -> None:
    fleet: Fleet = request.getfixturevalue(story)
    path = fleet.folder / "page.html"
    path.write_text(page(fleet.facts("op-0002-deploy")), encoding="utf-8")
    for width, plot in ((1280, "plot wide"), (390, "plot narrow")):
        browser.show(path.as_uri(), width, 900)
        assert browser.evaluate("innerWidth") == width
        assert browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert browser.evaluate(BEYOND) == []
        assert browser.evaluate(SQUEEZED) == []
        assert browser.evaluate(SMALLEST) >= 10.5
        assert browser.evaluate(PLOTS) == [plot]
        assert browser.evaluate("document.scripts.length") == 0
        assert [sent["request"]["url"] for sent in browser.of("Network.requestWillBeSent")] == [path.as_uri()]
        assert browser.of("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown") == []


def test_the_tests_would_see_a_request_an_error_and_an_overflow(fleet: Fleet, browser: Browser) -> None:
    path = fleet.folder / "page.html"
    path.write_text(
        '<!DOCTYPE html><meta charset="utf-8"><body><img src="other.png"><script>console.error("x")</script>'
        '<div style="width: 3000px">x</div>'
    )
    browser.show(path.as_uri(), 1280, 900)
    assert browser.evaluate("document.documentElement.scrollWidth") > 1280
    assert len(browser.evaluate(BEYOND)) == 1
    assert [Path(sent["request"]["url"]).name for sent in browser.of("Network.requestWillBeSent")] == ["page.html", "other.png"]
    assert browser.of("Runtime.consoleAPICalled") != []
