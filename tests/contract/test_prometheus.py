# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gates that ask a real Prometheus, which scrapes a real endpoint."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._judge.source import Answer
from ansible_collections.queueops.fleet.plugins.module_utils._judge.sources import open_source

from tests.contract.servers.prometheus import Exporter, Prometheus
from tests.unit.conftest import RedisServer, wait_for
from tests.unit.queue.conftest import Broker
from tests.unit.queue.test_modules import Run, task

#: Of each version: the share that fails, and a latency around this many seconds.
VERSIONS = {"1.9.0": (0.01, 0.1), "2.0.0": (0.2, 0.3), "2.1.0": (0.01, 0.1)}


class App:
    """What the workers tell of themselves: gauges by version; the latency is another at each scrape."""

    def __init__(self) -> None:
        self._random = random.Random(20261127)

    def page(self) -> str:
        lines = []
        for version, (failing, latency) in VERSIONS.items():
            lines.append('app_failed_ratio{version="%s"} %g' % (version, failing))
            lines.append('app_latency_seconds{version="%s"} %g' % (version, self._random.lognormvariate(0.0, 0.3) * latency))
        return "\n".join(lines) + "\n"


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    found = Exporter(App().page)
    yield found
    found.close()


@pytest.fixture
def prometheus(exporter: Exporter, tmp_path: Path) -> Iterator[Prometheus]:
    """A server that has scraped the application."""
    server = Prometheus(tmp_path, exporter)
    server.start()
    try:
        wait_for(lambda: ask(server, "sum(up)").value == 1, limit=60, what="the first scrape")
        yield server
    finally:
        server.kill()


def ask(server: Prometheus, query: str) -> Answer:
    return open_source("prometheus", {"url": server.url, "query": query}, True).ask()


def test_one_number_is_a_measurement_and_nothing_else_is(prometheus: Prometheus) -> None:
    for query, value in (
        ('app_failed_ratio{version="2.0.0"}', 0.2),
        ("scalar(sum(up))", 1.0),
        ("sum(app_failed_ratio) > 5 or vector(7)", 7.0),
    ):
        assert ask(prometheus, query).value == pytest.approx(value), query
    for query, told in (
        ('app_failed_ratio{version="9.9.9"}', "no sample"),
        ("app_failed_ratio", "3 samples"),
        ("vector(0) / 0", "NaN"),
        ("vector(1) / 0", "+Inf"),
        ("scalar(app_failed_ratio)", "NaN"),
        ("app_failed_ratio * on () app_failed_ratio", "could not evaluate"),
    ):
        found = ask(prometheus, query)
        assert (found.value, found.outcome) == (None, None) and told in found.said, (query, found)
    for query in ("app_failed_ratio{", "app_failed_ratio[1m]", '"text"'):
        with pytest.raises(Refused) as caught:
            ask(prometheus, query)
        assert caught.value.option == "prometheus.query", query


def test_gates_by_its_numbers(prometheus: Prometheus, redis_server: RedisServer, tmp_path: Path) -> None:
    def gate(title: str, query: str, **options: Any) -> dict[str, Any]:
        asked = {"url": prometheus.url, "query": query}
        return task(title, "fleet_gate", **{"metric": "prometheus", "prometheus": asked, "bake": 1, "timeout": 90, **options})

    def latency(version: str) -> str:
        return 'app_latency_seconds{version="%s"}' % version

    compare = {"compare": {"query": latency("1.9.0")}, "interval": 0.3, "bake": 12}
    run = Run(
        Broker(redis_server, tmp_path),
        [
            gate("good", 'app_failed_ratio{version="2.1.0"}', limit=0.05),
            gate("bad", 'app_failed_ratio{version="2.0.0"}', limit=0.05),
            gate("unscraped", 'app_failed_ratio{version="9.9.9"}', limit=0.05, timeout=3),
            gate("several", "app_failed_ratio", limit=1000, inconclusive_limit=0),
            gate("divided", "vector(0) / 0", limit=1000, timeout=2),
            gate("wrong", "app_failed_ratio{", limit=0.05),
            gate("as fast", latency("2.1.0"), **compare),
            gate("slower", latency("2.0.0"), **compare),
            gate("alone", latency("2.1.0"), **{**compare, "compare": {"query": latency("9.9.9")}, "bake": 1, "timeout": 3}),
        ],
    )
    found = {name: result.get("verdict") for name, result in run.results.items()}
    assert found == {
        "good": "pass",
        "bad": "fail",
        "unscraped": "inconclusive",
        "several": "inconclusive",
        "divided": "inconclusive",
        "wrong": None,
        "as fast": "pass",
        "slower": "fail",
        "alone": "inconclusive",
    }, run.output
    assert run["bad"]["reason"] == "the query gives 0.2 (limit 0.05)"
    assert (
        run["unscraped"]["reason"].endswith("could not measure: the query gives no sample") and run["unscraped"]["inconclusive_looks"] > 1
    )
    assert "3 samples" in run["several"]["reason"] and run["several"]["looks"] == 1
    assert run["wrong"]["error"]["option"] == "prometheus.query"
    assert run["slower"]["samples"][-1]["value"] > 0 and "larger than the baseline's in" in run["slower"]["reason"]
    assert "for the version to compare with, the query gives no sample" in run["alone"]["reason"]


def test_what_dies_while_a_gate_watches_does_not_pass(
    prometheus: Prometheus, exporter: Exporter, redis_server: RedisServer, tmp_path: Path
) -> None:
    """First the application behind Prometheus, then Prometheus itself; both had given good numbers before."""
    asked = {"url": prometheus.url, "query": 'app_failed_ratio{version="2.1.0"}'}
    options: dict[str, Any] = {"metric": "prometheus", "prometheus": asked, "limit": 0.05, "bake": 20, "interval": 0.3}

    def break_it(current: str, line: str) -> None:
        if "TASK [recovered]" in line:
            exporter.page = App().page
        elif "the query gives 0.01" in line and current == "application":
            exporter.page = lambda: ""
        elif "the query gives 0.01" in line and current == "prometheus":
            prometheus.kill()

    run = Run(
        Broker(redis_server, tmp_path),
        [
            task("application", "fleet_gate", **options, timeout=25, errors_limit=100),
            task("recovered", "fleet_gate", **{**options, "bake": 0, "timeout": 60}),
            task("prometheus", "fleet_gate", **options, timeout=60, errors_limit=3),
        ],
        break_it,
    )
    assert run["application"]["verdict"] == "inconclusive" and "no sample" in run["application"]["reason"], run.output
    assert run["application"]["samples"][0]["value"] == 0.01
    assert run["recovered"]["verdict"] == "pass"
    assert run["prometheus"]["verdict"] == "inconclusive" and run["prometheus"]["errors"] == 3
    assert "could not measure: 3 looks in a row failed" in run["prometheus"]["reason"]
    with pytest.raises(Unavailable):
        ask(prometheus, "up")
