# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two pages: nothing hostile becomes markup, nothing is fetched, and made again they are the same to the byte."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._html import element, joined
from ansible_collections.queueops.fleet.plugins.module_utils._postmortem import facts as room
from ansible_collections.queueops.fleet.plugins.module_utils._postmortem.markdown import escaped, markdown
from ansible_collections.queueops.fleet.plugins.module_utils._postmortem.page import page

from tests.unit.postmortem.conftest import Fleet


class Seen(HTMLParser):
    """The elements of a page, what it would fetch, and its text; every element has to close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")]
        self.handlers += [name for name, _value in attrs if name.startswith("on")]
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_whatever_is_no_element_is_text() -> None:
    made = element("p", "a < b", element("br"), None, class_='x" onclick="y', data_name="<", id=None)
    assert made == '<p class="x&quot; onclick=&quot;y" data-name="&lt;">a &lt; b<br></p>'
    assert joined(made, "&") == made + "&amp;"


def test_the_page_needs_nothing_but_itself(rolled_back: Fleet) -> None:
    html = page(rolled_back.facts())
    seen = Seen(html)
    assert seen.open == []
    assert (seen.fetched, seen.handlers) == (["data:,"], [])
    assert "script" not in seen.elements
    assert "url(" not in html and "@import" not in html
    assert "svg" in seen.elements


def test_both_pages_say_the_same(rolled_back: Fleet) -> None:
    facts = rolled_back.facts()
    seen, told = Seen(page(facts)).text, markdown(facts)
    for words in (
        "Detect",
        "12.5 s",
        "limit",
        "5.0 %",
        "38.1 %",
        "+pool=8",
        "the payload is gone",
        "differs on 3 hosts",
        "Stay on release 1",
    ):
        assert words in seen
        assert words in told
    for blank in ("Summary", "Impact", "Root cause", "What went well", "Actions"):
        assert blank in seen
        assert "### " + blank in told
    detect = facts.spans[0]
    assert "event %s to event %s" % (detect.began, detect.ended) in seen
    assert "| Detect | 12.5 s | %s | %s |" % (detect.began, detect.ended) in told


def test_what_is_not_in_the_journal_is_said_not_to_be(fleet: Fleet) -> None:
    fleet.open("deploy", (), version="1.0.0")
    facts = fleet.facts()
    seen = Seen(page(facts)).text
    for told in (seen, markdown(facts)):
        assert "Not in the journal: no redrive was recorded" in told
        assert "not known" in told
        assert "The lines that differ are not in the journal" in told
        assert "still open" in told
    assert "no look at the queue" in seen
    assert re.search(r"\b0\.0 s", seen) is None


def test_hostile_texts_are_shown_and_are_no_markup(hostile: Fleet) -> None:
    facts = hostile.facts("op-0002-deploy")
    html = page(facts)
    seen = Seen(html)
    assert seen.open == []
    assert not seen.elements & {"script", "b", "a", "img", "iframe", "object", "form"}
    assert (seen.fetched, seen.handlers) == (["data:,"], [])
    assert '<script>alert("1")</script> | a b' in seen.text
    assert "{{ 7 * 7 }}" in seen.text
    for shown in (html, markdown(facts)):
        assert not set(shown) & set("\u202e\x1b\ud800")
        assert "\\u202e" in shown
        shown.encode()


def test_hostile_texts_are_no_markup_in_markdown_either(hostile: Fleet) -> None:
    told = markdown(hostile.facts("op-0002-deploy"))
    # Outside of the indented lines of a diff.
    running = [line for line in told.splitlines() if not line.startswith("    ")]
    text = "\n".join(running)
    assert re.search(r"(?<!\\)<", text) is None
    assert re.search(r"(?<!\\)\[|(?<!\\)\]\(|https?://", text) is None
    # A row of a table has as many cells as its head.
    widths: list[int] = []
    for line in [*running, ""]:
        if line.startswith("|"):
            widths.append(len(re.findall(r"(?<!\\)\|", line)))
        else:
            assert len(set(widths)) <= 1, line
            widths = []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("op-0002-deploy rolled_back 38.1 %", "op-0002-deploy rolled_back 38.1 %"),
        ("_so_ and __init__", r"\_so\_ and \_\_init\_\_"),
        ("a|b <b> `c` # & ~ \\ *", r"a\|b \<b\> \`c\` \# \& \~ \\ \*"),
        ("http://x.example www.x.example", r"http:\/\/x.example www\.x.example"),
    ],
)
def test_only_what_would_be_markup_is_escaped(text: str, wanted: str) -> None:
    assert escaped(text) == wanted


AGAIN = """\
import sys
from ansible_collections.queueops.fleet.plugins.module_utils._journal.journal import Journal
from ansible_collections.queueops.fleet.plugins.module_utils._postmortem.facts import choose, gather
from ansible_collections.queueops.fleet.plugins.module_utils._postmortem.markdown import markdown
from ansible_collections.queueops.fleet.plugins.module_utils._postmortem.page import page
events = Journal(sys.argv[1]).read()
facts = gather(events, "mailer", sys.argv[2])
sys.stdout.buffer.write((page(facts) + markdown(facts)).encode())
"""


@pytest.mark.parametrize(("seed", "zone", "locale"), [("1", "Asia/Tokyo", "C"), ("4711", "America/St_Johns", "de_DE.UTF-8")])
def test_made_again_elsewhere_and_later_they_are_the_same_to_the_byte(rolled_back: Fleet, seed: str, zone: str, locale: str) -> None:
    facts = rolled_back.facts("op-0002-deploy")
    here = (page(facts) + markdown(facts)).encode()
    # What happens to the fleet later does not matter.
    rolled_back.deployed("3.0.0")
    root = Path(room.__file__).parents[6]
    again = subprocess.run(
        [sys.executable, "-c", AGAIN, rolled_back.journal.path, "op-0002-deploy"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(root), "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": locale},
        capture_output=True,
        check=True,
    ).stdout
    assert again == here
