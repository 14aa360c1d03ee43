# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over the feature gates of a release that are put into Redis as well."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.queueops.fleet.plugins.filter.operation import iso


def release_gates(results: dict[str, dict[str, Any]], dest: str) -> list[dict[str, Any]]:
    """The gates that a release has in a file, as the first host that answers says.

    :param results: host -> what M(queueops.fleet.worker_release) returned for the phase C(prepared).
    :param dest: the file.
    """
    for result in results.values():
        for file in result.get("feature_gates") or []:
            if file["dest"] == dest:
                return list(file["gates"])
    raise AnsibleFilterError("no host said which feature gates the release has in %s" % dest)


def gates_foreseen(looked: dict[str, Any], key: str, when: str) -> list[str]:
    """What the plan says of the gates in Redis; nothing where they stay as they are, or could not be looked at.

    :param looked: what M(queueops.fleet.feature_gates) returned in check mode.
    :param key: the key.
    :param when: when it is done, in words.
    """
    told = _told(looked)
    return ["feature gates in the key %s, %s: %s" % (key, when, told)] if told else []


def gates_unseen(looked: dict[str, Any], key: str) -> list[str]:
    """That the gates in Redis could not be looked at, and why; nothing where they could.

    :param looked: what M(queueops.fleet.feature_gates) returned in check mode.
    :param key: the key.
    """
    failed = looked.get("failed") or looked.get("unreachable")
    return ["the feature gates in the key %s could not be looked at: %s" % (key, _why(looked))] if failed else []


def gates_put(result: dict[str, Any], release: int) -> dict[str, Any]:
    """What became of it: C(events) for the journal, and C(failures), a sentence for the verdict.

    :param result: what M(queueops.fleet.feature_gates) returned.
    :param release: the release whose gates they are.
    """
    if result.get("failed") or result.get("unreachable"):
        failure = "the feature gates in Redis should have become those of release %s: %s" % (release, _why(result))
        return {"events": [{"kind": "feature_gates_failed", "reason": failure.splitlines()[0][:500]}], "failures": [failure]}
    if not result.get("changed"):
        return {"events": [], "failures": []}
    data = {"release": int(release), "where": result["where"], "set": result["set_gates"], "removed": result["removed_gates"]}
    return {"events": [{"kind": "feature_gates_set", "at": iso(result["ended"]), "data": data}], "failures": []}


def gates_astray(looked: dict[str, Any], key: str, release: int) -> list[str]:
    """What is to be said in the verdict where the gates in Redis are not those of the release.

    :param looked: what M(queueops.fleet.feature_gates) returned in check mode.
    """
    told = _told(looked)
    found = "the feature gates in the key %s are not those of release %s (%s)" % (key, release, told)
    return gates_unseen(looked, key) + (["%s: deploy it again, with -e release=%s" % (found, release)] if told else [])


def _told(looked: dict[str, Any]) -> str:
    parts = [("to be set", looked.get("set_gates")), ("to be taken away", looked.get("removed_gates"))]
    return "; ".join("%s: %s" % (what, ", ".join(names)) for what, names in parts if names)


def _why(result: dict[str, Any]) -> str:
    return str(result.get("msg") or "its host was not reached").strip()


class FilterModule:
    """The collection's filters over feature gates in Redis."""

    def filters(self) -> dict[str, Any]:
        return {
            "gates_astray": gates_astray,
            "gates_foreseen": gates_foreseen,
            "gates_put": gates_put,
            "gates_unseen": gates_unseen,
            "release_gates": release_gates,
        }
