# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which sources there are besides the queue. A new one is one file with a :class:`.source.Source`, and a line in :data:`SOURCES`."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from .source import Source

#: Opens a source by the module's option of its name; with True its number is held against a limit, else it judges by itself.
Opener = Callable[[Mapping[str, Any], bool], Source]


def _prometheus() -> Opener:
    from .source_prometheus import open_source

    return open_source


def _http() -> Opener:
    from .source_http import open_source

    return open_source


def _command() -> Opener:
    from .source_command import open_source

    return open_source


#: Each metric that is not the queue's. The imports are written out: Ansible reads them to know which files to send to a host.
SOURCES: dict[str, Callable[[], Opener]] = {"prometheus": _prometheus, "http": _http, "command": _command}


def open_source(kind: str, options: Mapping[str, Any], wants_number: bool) -> Source:
    """The source of a metric; see :data:`Opener`.

    :param kind: one of :data:`SOURCES`.
    :raises Refused: an option is wrong.
    """
    return SOURCES[kind]()(options, wants_number)
