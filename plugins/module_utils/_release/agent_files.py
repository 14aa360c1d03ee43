# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a copy of the rooms beside the state, for what waits for the confirm timer: it needs nothing but what is on the host."""

from __future__ import annotations

import os
import sys
from typing import Any

from .._errors import FleetError
from .._files import fsync_dir, make_private_dir, write_atomic, write_json

_ROOT = __package__.rpartition(".")[0]

#: Loaded beside the rooms, but of no use without Ansible.
_NOT_FOR_THE_AGENT = ("_adapter", "_worker_options")

_RUNNER = """\
import os, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from queueops_agent._release.agent import main
sys.exit(main(sys.argv[1:]))
"""


def install_agent(folder: str, settings: dict[str, Any]) -> str:
    """Copy the rooms under ``folder``, write what the agent has to know, and return the path of the script that runs it."""
    home = os.path.join(folder, "agent")
    make_private_dir(home)
    package = os.path.join(home, "queueops_agent")
    for name in _agent_modules():
        module = sys.modules[name]
        target = os.path.join(package, *name[len(_ROOT) :].strip(".").split("."))
        if hasattr(module, "__path__"):
            make_private_dir(target)
            target = os.path.join(target, "__init__")
        _write_if_changed(target + ".py", _source_of(module))
    runner = os.path.join(home, "take_back.py")
    _write_if_changed(runner, _RUNNER)
    # Root only: it may hold the service manager's password.
    write_json(os.path.join(home, "settings.json"), settings)
    fsync_dir(home)
    return runner


def _agent_modules() -> list[str]:
    """The rooms that are loaded now: the transaction has imported all that it needs, and so will the agent."""
    from . import agent  # not at the top: the agent imports the transaction, which imports this file

    if agent.__name__ not in sys.modules:
        raise FleetError("The agent of the confirm timer is not loaded")
    loaded = [name for name in sys.modules if name == _ROOT or name.startswith(_ROOT + "._")]
    return sorted(name for name in loaded if name[len(_ROOT) + 1 :] not in _NOT_FOR_THE_AGENT)


def _source_of(module: Any) -> str:
    loader = module.__spec__.loader
    # A package without code has no source in Ansible's archive.
    return (loader.get_source(module.__name__) if hasattr(loader, "get_source") else "") or ""


def _write_if_changed(path: str, source: str) -> None:
    content = source.encode()
    try:
        with open(path, "rb") as stream:
            if stream.read() == content:
                return
    except FileNotFoundError:
        pass
    write_atomic(path, content)
