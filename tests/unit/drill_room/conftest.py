# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real lab in a folder of its own, and what an operator would do to its hosts by hand."""

from __future__ import annotations

import json
import os
import sys
import tarfile
import xmlrpc.client
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
import redis
from ansible_collections.queueops.fleet.plugins.module_utils._drill import lab as room
from supervisor.xmlrpc import SupervisorTransport

ROLE = Path(__file__).resolve().parents[3] / "roles" / "drill"
TEMPLATE = str(ROLE / "templates" / "report.html.j2")
HOSTS = ["worker1", "worker2"]


class RunningLab:
    """A lab that is up."""

    def __init__(self, settings: room.Lab, state: dict[str, Any]) -> None:
        self.settings = settings
        self.state = state
        self.folder = Path(settings.drill_dir)
        self.redis = redis.Redis.from_url(state["redis_url"])

    def supervisor(self, host: str) -> Any:
        transport = SupervisorTransport(None, None, self.state["hosts"][host]["server"])
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def activate(self, host: str, version: str) -> None:
        """Put ``version`` and its config on ``host`` and start its workers, as simply as a person would."""
        root = Path(self.state["hosts"][host]["root"])
        store = root / "opt" / "mailer" / "versions" / version
        if not store.exists():
            store.mkdir(parents=True)
            with tarfile.open(self.folder / "artifacts" / f"mailer-{version}.tar.gz") as archive:
                archive.extractall(store, filter="data")
        supervisor = self.supervisor(host)
        supervisor.stopProcessGroup("mailer")
        for name, content in rendered(version, host, self.settings.drill_dir, self.state).items():
            (root / "etc" / "mailer" / name).write_bytes(content)
        link = root / "opt" / "mailer" / "current"
        link.unlink(missing_ok=True)
        link.symlink_to(f"versions/{version}")
        supervisor.startProcessGroup("mailer")


def rendered(version: str, host: str, drill_dir: str, state: dict[str, Any]) -> dict[str, bytes]:
    """The config files of ``version``."""
    found = {}
    for path in sorted((ROLE / "templates" / "mailer" / version).glob("*.j2")):
        template = jinja2.Template(path.read_text(), keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
        text = template.render(inventory_hostname=host, drill_dir=drill_dir, drill_lab=state)
        found[path.name[: -len(".j2")]] = text.encode()
    return found


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> room.Lab:
    from tests.unit.conftest import find_redis_server

    return room.Lab(
        drill_dir=os.path.realpath(tmp_path / "drill"),
        hosts=HOSTS,
        sources=str(ROLE / "files" / "mailer"),
        versions={"1.0.0": "1.0.0", "2.0.0": "2.0.0-bad"},
        group="mailer",
        queue="mail",
        instances=1,
        tasks=60,
        rate=20.0,
        python=sys.executable,
        redis_server=find_redis_server(),
        owner_pid=0,
        ready_limit=30.0,
    )


@pytest.fixture
def bring_up(settings: room.Lab) -> Iterator[Callable[..., RunningLab]]:
    """Bring a lab up, with some settings replaced; whatever happens, it is taken down."""
    made: list[room.Lab] = []

    def up(**changes: Any) -> RunningLab:
        changed = replace(settings, **changes)
        made.append(changed)
        return RunningLab(changed, room.up(changed))

    yield up
    for one in made:
        room.down(one.drill_dir)


@pytest.fixture(scope="session")
def journal() -> list[dict[str, Any]]:
    """The fleet's journal of a real drill: release 1 deployed, release 2 failing on the canary, rolled back."""
    found: list[dict[str, Any]] = json.loads((Path(__file__).parent / "journal.json").read_text())
    return found
