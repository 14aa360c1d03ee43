# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of a gate, and what they mean: for the module, which looks, and for its action plugin, which judges the looks."""

from __future__ import annotations

from typing import Any, Mapping

from ._errors import Refused
from ._judge.compared import ComparedRatio, ComparedValues, Comparison
from ._judge.meters import WORDS, FailedRatio, Judged, Limit, Meter, Number, Throughput
from ._judge.sources import SOURCES
from ._judge.verdict import Rule
from ._queue_options import QUEUE_SPEC

#: The metrics that the queue's own look gives.
OF_QUEUE = ("failed_ratio", "depth", "oldest_age", "throughput")

_WEB: dict[str, Any] = {
    "url": {"type": "str", "required": True},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "token": {"type": "str", "no_log": True},
    "headers": {"type": "dict"},
    "tls_ca": {"type": "path"},
    "tls_verify": {"type": "bool", "default": True},
    "timeout": {"type": "float", "default": 10.0},
}

GATE_SPEC: dict[str, Any] = dict(
    QUEUE_SPEC,
    backend={"type": "str", "choices": QUEUE_SPEC["backend"]["choices"]},
    url={"type": "str"},
    queue={"type": "str"},
    version={"type": "str"},
    name={"type": "str"},
    metric={"type": "str", "choices": [*OF_QUEUE, *SOURCES], "default": "failed_ratio"},
    limit={"type": "float"},
    fail_when={"type": "str", "choices": ["above", "below"]},
    min_tasks={"type": "int", "default": 20},
    bake={"type": "float", "default": 10.0},
    timeout={"type": "float", "default": 60.0},
    interval={"type": "float"},
    since={"type": "float"},
    fail_limit={"type": "int", "default": 0},
    inconclusive_limit={"type": "int"},
    errors_limit={"type": "int", "default": 5},
    dry_run={"type": "bool", "default": False},
    compare={
        "type": "dict",
        "options": {
            "baseline_version": {"type": "str"},
            "baseline_queue": {"type": "str"},
            "query": {"type": "str"},
            "alpha": {"type": "float", "default": 0.02},
            "tolerance": {"type": "float", "default": 0.01},
            "superiority": {"type": "float", "default": 0.64},
        },
    },
    prometheus={"type": "dict", "options": dict(_WEB, query={"type": "str", "required": True})},
    http={"type": "dict", "options": dict(_WEB, status={"type": "int", "default": 200}, field={"type": "str"})},
    command={
        "type": "dict",
        "options": {
            "argv": {"type": "list", "elements": "str", "required": True},
            "chdir": {"type": "path"},
            "timeout": {"type": "float", "default": 10.0},
        },
    },
)

#: Of fleet_approval: for the action that runs, and for the module that documents it.
APPROVAL_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "question": {"type": "str", "default": "Shall the deploy go on?"},
    "approved": {"type": "list", "elements": "str", "default": []},
    "actor": {"type": "str", "default": "unknown"},
    "timeout": {"type": "int", "default": 300},
}

#: What each metric needs; checked here, for Ansible's own required_if takes an option that is null for given.
_NEEDS: dict[str, tuple[str, ...]] = {
    "failed_ratio": ("backend", "url", "queue", "version"),
    "depth": ("backend", "url", "queue", "limit"),
    "oldest_age": ("backend", "url", "queue", "limit"),
    "throughput": ("backend", "url", "queue", "version", "limit"),
    "prometheus": ("prometheus",),
    "http": ("http",),
    "command": ("command",),
}


def rule_of(params: Mapping[str, Any]) -> Rule:
    """How long to watch, and how many bad looks to bear.

    :raises Refused: it cannot be met.
    """
    names = ("bake", "timeout", "fail_limit", "inconclusive_limit", "errors_limit")
    rule = Rule(**{name: params[name] for name in names})
    rule.check()
    if params["interval"] is not None and params["interval"] <= 0:
        raise Refused("interval is a number of seconds above 0", option="interval")
    return rule


def limit_of(params: Mapping[str, Any]) -> float | None:
    """The limit that holds; None where there is none, because two versions are compared or the source judges by itself."""
    if params["limit"] is None and params["metric"] == "failed_ratio" and params["compare"] is None:
        return 0.05
    limit: float | None = params["limit"]
    return limit


def meter_of(params: Mapping[str, Any]) -> Meter:
    """What the gate makes of its readings.

    :raises Refused: the options contradict each other.
    """
    metric, value = params["metric"], limit_of(params)
    for name in _NEEDS[metric]:
        # What compares has no limit, and says by itself that it cannot.
        if params[name] is None and not (name == "limit" and params["compare"] is not None):
            raise Refused("The metric %s needs the option %s" % (metric, name), option=name)
    if params["limit"] is not None and params["compare"] is not None:
        raise Refused(
            "A gate holds a figure against a limit or against another version, not both", option="limit", next_step="Make two gates of it"
        )
    fail_when = params["fail_when"] or ("below" if metric == "throughput" else "above")
    if params["compare"] is not None:
        return _compared(params, fail_when)
    if value is None:
        if metric == "prometheus":
            raise Refused(
                "A query gives a number, and there is nothing to hold it against", option="limit", next_step="Give limit, or compare"
            )
        return Judged()
    limit = Limit(value, fail_when)
    if metric == "failed_ratio":
        return FailedRatio(limit, params["min_tasks"], params["since"])
    if metric == "throughput":
        return Throughput(limit, params["bake"])
    return Number(limit, WORDS[metric])


def _compared(params: Mapping[str, Any], fail_when: str) -> Meter:
    metric, given = params["metric"], params["compare"]
    numbers = {name: given[name] for name in ("alpha", "tolerance", "superiority")}
    rule = Comparison(bake=params["bake"], min_tasks=params["min_tasks"], **numbers)
    if metric == "failed_ratio":
        if not given["baseline_version"]:
            raise Refused("There is no version to compare with", option="compare.baseline_version")
        if given["baseline_version"] == params["version"]:
            raise Refused("Version %s would be compared with itself" % params["version"], option="compare.baseline_version")
        return ComparedRatio(rule)
    if metric != "prometheus":
        raise Refused(
            "The metric %s cannot be compared between versions" % metric, option="compare", next_step="Give limit instead of compare"
        )
    if not given["query"]:
        raise Refused("There is no query for the version to compare with", option="compare.query")
    if params["interval"] is None:
        raise Refused(
            "Looks close together see the same data, which then counts many times over",
            option="interval",
            next_step="Give interval, at least as long as the time that the query looks back",
        )
    return ComparedValues(rule, fail_when)
