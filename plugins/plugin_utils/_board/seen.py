# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A result as the board sees it, alike for every ansible-core. Plain Python: it only reads what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_OURS = "queueops.fleet."


@dataclass
class Seen:
    """A result, alike for every ansible-core.

    :ivar name: our module's name without the collection, empty for a task of another collection.
    :ivar args: the task's arguments, templated.
    """

    host: str
    task: Any
    action: str
    name: str
    data: dict[str, Any]
    args: Mapping[str, Any]

    @classmethod
    def of(cls, result: Any) -> Seen:
        # ansible-core 2.19 made these attributes public; 2.18 only has the private names.
        task = result.task if hasattr(result, "task") else result._task
        host = result.host if hasattr(result, "host") else result._host
        data = result.result if hasattr(result, "result") else result._result
        fields = result.task_fields if hasattr(result, "task_fields") else result._task_fields
        action = str(getattr(task, "resolved_action", None) or task.action)
        args = fields.get("args") if isinstance(fields, Mapping) else None
        return cls(
            host.get_name(),
            task,
            action,
            action[len(_OURS) :] if action.startswith(_OURS) else "",
            data,
            args if isinstance(args, Mapping) else {},
        )

    @property
    def where(self) -> str:
        """The host that the task really ran on."""
        return str(self.task.delegate_to or self.host)

    @property
    def checking(self) -> bool:
        return bool(self.task.check_mode)

    @property
    def hidden(self) -> bool:
        return bool(self.data.get("censored") or self.data.get("_ansible_no_log"))


def part(data: Any, name: str) -> Mapping[str, Any]:
    value = data.get(name) if isinstance(data, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def entries(data: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = data.get(name)
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []
