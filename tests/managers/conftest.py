# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract test runs over the service managers that `--manager` names; by default over those that need no init of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.managers.bench import Bench
from tests.managers.benches import BENCHES


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--manager", action="append", choices=sorted(BENCHES), help="a service manager to run the contract over")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "manager_name" in metafunc.fixturenames:
        metafunc.parametrize("manager_name", metafunc.config.getoption("--manager") or ["supervisor", "docker"])


@pytest.fixture
def bench(manager_name: str) -> Iterator[Bench]:
    """A worker host with one real service manager."""
    made = BENCHES[manager_name]()
    try:
        made.open()
        yield made
    finally:
        made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
