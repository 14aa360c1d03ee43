# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Adapts the rooms to AnsibleModule: options in, result and errors out. The only room-side file that knows Ansible."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule

from ._errors import FleetError


@dataclass
class Outcome:
    """What a module reports.

    :ivar changed: whether anything was changed (in check mode: would have been).
    :ivar result: the module's own return values.
    :ivar diff: a ``{"before": ..., "after": ...}`` mapping, or a list of them.
    :ivar warnings: sentences that are shown as warnings.
    """

    changed: bool = False
    result: dict[str, Any] = field(default_factory=dict)
    diff: dict[str, Any] | list[dict[str, Any]] | None = None
    warnings: list[str] = field(default_factory=list)


def run_module(body: Callable[[AnsibleModule], Outcome], argument_spec: dict[str, Any], **kwargs: Any) -> None:
    """Build the AnsibleModule, call ``body`` once, and exit with its outcome or with the error it raised."""
    module = AnsibleModule(argument_spec=argument_spec, **kwargs)
    try:
        outcome = body(module)
    except FleetError as error:
        fail(module, error)
    for warning in outcome.warnings:
        module.warn(warning)
    result = dict(outcome.result, changed=outcome.changed)
    if outcome.diff is not None:
        result["diff"] = outcome.diff
    module.exit_json(**result)


def fail(module: AnsibleModule, error: FleetError) -> None:
    """Turn an error into ``fail_json``, with the partial result that it carries."""
    module.fail_json(**failure(error))


def failure(error: FleetError) -> dict[str, Any]:
    """An error as a failed result: ``msg``, ``error``, and the partial result that it carries."""
    explained = {
        "code": error.code,
        "option": error.option,
        "still_true": error.still_true,
        "next_step": error.next_step,
        "retryable": error.retryable,
    }
    return dict(error.details, failed=True, msg=error.sentence(), error=explained)
