# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder with a file of flags, and the real OpenFeature SDK that reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._flags.change import Plan, Store, set_gate
from ansible_collections.queueops.fleet.plugins.module_utils._flags.file_store import FileStore
from ansible_collections.queueops.fleet.plugins.module_utils._flags.gate import wanted_gate
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext

#: What other people have in their documents, in an order of their own.
FOREIGN: dict[str, Any] = {
    "$schema": "https://flagd.dev/schema/v0/flags.json",
    "metadata": {"team": "payments", "$flagd.selector": "mailer"},
    "zz-unknown": [1, 2.5, None, {"ü": "\\ud83d"}],
    "flags": {
        "theme": {
            "state": "ENABLED",
            "variants": {"light": "#fff", "dark": "#000"},
            "defaultVariant": "light",
            "targeting": {"if": [{"$ref": "staff"}, "dark", None]},
            "metadata": {"owner": "web"},
        },
        "a-flag": {"state": "DISABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"},
        "of-billing": {
            "state": "ENABLED",
            "variants": {"on": True, "off": False},
            "defaultVariant": "off",
            "metadata": {"queueops.fleet": "billing", "queueops.release": 3},
        },
    },
    "$evaluators": {"staff": {"ends_with": [{"var": "email"}, "@example.com"]}},
}


def put(stores: Store | list[Store], name: str = "new-invoice", state: str = "percent", **options: Any) -> list[Plan]:
    """A gate of the fleet mailer set in one store, or in several."""
    dry_run = options.pop("dry_run", False)
    gate = wanted_gate(name, options.pop("fleet", "mailer"), state, **options)
    return set_gate(gate, stores if isinstance(stores, list) else [stores], dry_run)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file of flags is to be; it is not there yet."""
    folder = tmp_path / "flags"
    folder.mkdir()
    return folder / "flags.json"


@pytest.fixture
def file(path: Path) -> FileStore:
    return FileStore(str(path))


@pytest.fixture
def foreign(path: Path) -> Path:
    """The file with other people's flags in it."""
    path.write_text(json.dumps(FOREIGN, indent=4))
    return path


@pytest.fixture
def sdk() -> Iterator[Callable[..., OpenFeatureClient]]:
    """Makes clients of the OpenFeature SDK that read a file in their own process, by flagd's evaluator."""
    providers: list[FlagdProvider] = []

    def client(path: Path, poll_ms: int = 500) -> OpenFeatureClient:
        provider = FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=str(path), deadline_ms=poll_ms)
        providers.append(provider)
        domain = f"reader-{len(providers)}"
        api.set_provider_and_wait(provider, domain)
        return api.get_client(domain)

    yield client
    for provider in providers:
        with suppress(Exception):
            provider.shutdown()
    api.clear_providers()


def on_for(client: OpenFeatureClient, keys: list[str], name: str = "new-invoice", attribute: str | None = None) -> set[str]:
    """The keys for which the SDK says that the gate is on."""
    found = set()
    for key in keys:
        context = EvaluationContext(key) if attribute is None else EvaluationContext("somebody", {attribute: key})
        if client.get_boolean_value(name, False, context):
            found.add(key)
    return found


def write_at_a_time(folder: Path, work: str, *arguments: str) -> None:
    """Run ``work`` in two processes, called ``a`` and ``b`` in ``name``, which begin when both are there."""
    waiting = """
import os, sys, time
name, folder, *arguments = sys.argv[1:]
%s
open(os.path.join(folder, "there-" + name), "w").close()
while len(os.listdir(folder)) < 2:
    time.sleep(0.001)
for number in range(100):
    write(number)
"""
    meeting = folder / "meeting"
    meeting.mkdir()
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    writers = [
        subprocess.Popen([sys.executable, "-c", waiting % work, name, str(meeting), *arguments], env=environment) for name in ("a", "b")
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0]


WRITTEN_AT_A_TIME = {f"gate-{name}-{number}" for name in ("a", "b") for number in range(100)}
