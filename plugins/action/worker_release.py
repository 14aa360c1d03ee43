# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renders a release's config files on the controller, and hands them to the module of the same name on the host."""

from __future__ import annotations

import base64
import os
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible.release import __version__ as core_version

#: Before 2.19 a rendered JSON file would come back as a dictionary.
_AS_TEXT = {"convert_data": False} if core_version.startswith("2.18.") else {}


def _beside_inventory(source: str, task_vars: dict[str, Any]) -> str:
    """A relative path is meant from the inventory's folder: the playbooks stand in the collection, where nobody keeps templates."""
    folder = task_vars.get("inventory_dir")
    beside = os.path.join(str(folder), source) if folder else source
    return beside if os.path.exists(beside) else source


class ActionModule(ActionBase):
    """One module call on the host; the controller adds only what it alone knows."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        arguments["host"] = task_vars["inventory_hostname"]
        if isinstance(arguments.get("config"), dict):
            arguments["config"] = dict(arguments["config"])
            arguments["config"]["files"] = self._files(arguments, task_vars)
        result.update(self._execute_module(module_name="queueops.fleet.worker_release", module_args=arguments, task_vars=task_vars))
        return result

    def _files(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> list[dict[str, Any]]:
        """The config files with their content; without content where no new release is prepared."""
        files = [dict(entry) for entry in arguments["config"].get("files") or []]
        version = arguments.get("version")
        if arguments.get("phase") == "prepared" and version:
            for entry in files:
                entry["content"] = base64.b64encode(self._render(entry, str(version), task_vars).encode()).decode()
        return files

    def _render(self, entry: dict[str, Any], version: str, task_vars: dict[str, Any]) -> str:
        source = entry.get("src")
        if not source:
            raise AnsibleActionFail(f"config.files entry for {entry.get('dest')} has no src. Nothing was changed. Name a template for it.")
        source = _beside_inventory(str(source).replace("{version}", version), task_vars)
        lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        try:
            rendered = lookup.run([source], variables=dict(task_vars, queueops_version=version), **_AS_TEXT)
        except Exception as error:
            raise AnsibleActionFail(
                f"The config template {source} (option config.files) could not be rendered for "
                f"{task_vars['inventory_hostname']}: {error}. Nothing was changed. Mend the template, then run again."
            ) from error
        return str(rendered[0])
