# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that the config modules share, and what they report of the room's objects."""

from __future__ import annotations

from typing import Any, Mapping

from .._errors import Refused
from .diff import FileDiff
from .entries import Entry
from .history import LIVE, ConfigHistory, Snapshot
from .remote import Pushed, Remote, remote_of
from .watch import printable

CONFIG_OPTIONS: dict[str, Any] = {
    "fleet": {"type": "str", "required": True},
    "state_dir": {"type": "path", "default": "/var/lib/queueops"},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "sensitive": {"type": "list", "elements": "str", "default": []},
}


def history_of(params: Mapping[str, Any]) -> ConfigHistory:
    """The history that the options name, checked."""
    history = ConfigHistory.open(params["state_dir"], params["fleet"], params["paths"], params["exclude"], params["sensitive"])
    history.check()
    return history


def record(params: Mapping[str, Any], dry_run: bool) -> tuple[dict[str, Any], bool, list[FileDiff], list[str]]:
    """What config_snapshot does: the result, whether it changed anything, the diff since what was last live, and warnings."""
    history = history_of(params)
    if not history.watch.paths:
        raise Refused(
            f"Nothing is watched for the fleet {params['fleet']} on this host yet (option `paths`)",
            option="paths",
            next_step="Name the files and folders that hold the workers' config in `paths`",
        )
    if params["keep"] is not None and params["keep"] < 1:
        raise Refused("At least one snapshot has to be kept (option `keep`)", option="keep", next_step="Give 1 or more, or leave it out")
    remote = None if params["remote"] is None else remote_of(params["remote"], params["remote_branch"], params["fleet"])
    last = history.last_live()
    snapshot, changed = history.snapshot(params["label"], params["release"], dry_run=dry_run)
    if last is not None and last.id == snapshot.id:
        diffs = []
    else:
        diffs = history.diff(history.nothing() if last is None else last, snapshot if snapshot.id else LIVE)
    coming = 0 if snapshot.id else 1
    warnings = warnings_of(history)
    result: dict[str, Any] = {
        "snapshot": dict(shown(snapshot), changed_files=len(diffs)),
        "recovered": [diff.path for diff in history.recovered],
        "remote": None,
    }
    if remote is not None:
        pushed = history.push(remote, dry_run)
        result["remote"] = dict(pushed._asdict(), branch=remote.branch, behind=pushed.behind + coming)
        if pushed.error is not None:
            warnings.append(_not_pushed(pushed, remote))
    # After the push: what the remote lacks is not dropped. Check mode takes it that the push works.
    gone = [] if params["keep"] is None else history.let_go(params["keep"], None if dry_run else remote, coming, dry_run)
    result["dropped"] = [one.id for one in gone]
    return result, changed or bool(history.recovered) or bool(gone), diffs, warnings


def revert(params: Mapping[str, Any], dry_run: bool) -> tuple[dict[str, Any], bool, list[FileDiff], list[str]]:
    """What config_revert does: the result, whether it changed anything, the diff, and warnings."""
    history = history_of(params)
    target = history.resolve(params["to"])
    diffs = history.apply(target, params["validate"] or None, dry_run=dry_run)
    was = history.was or history.saved
    result = {
        "snapshot": shown(target),
        "was": None if was is None else was.id,
        "files": [diff.path for diff in diffs],
        "recovered": [diff.path for diff in history.recovered],
    }
    return result, bool(diffs) or bool(history.recovered), diffs, warnings_of(history)


def survey(params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What config_info reports, and warnings. Reads only."""
    history = history_of(params)
    live = history.live()
    snapshots = [history.resolve(params["snapshot"], "snapshot")] if params["snapshot"] else history.list()
    rows = [dict(shown(snapshot), live=live is not None and snapshot.id == live.id) for snapshot in snapshots]
    if params["snapshot"]:
        rows[0]["entries"] = [_row(path, entry) for path, entry in history.entries(snapshots[0]).items()]
    result: dict[str, Any] = {
        "snapshots": rows,
        "live": None if live is None else live.id,
        "pending": history.pending(),
        "damaged": history.damaged,
        "watched": {name: [printable(one) for one in each] for name, each in history.watch.to_json().items()},
    }
    if params["from"] is not None:
        sides = [LIVE if params[option] == "live" else history.resolve(params[option], option) for option in ("from", "to")]
        result["diff"] = [diff.as_ansible() for diff in history.diff(*sides)]
    return result, damage_of(history)


def shown(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as the modules report it."""
    return {
        "id": snapshot.id or None,
        "label": snapshot.label,
        "labels": list(snapshot.labels),
        "time": snapshot.time,
        "release": snapshot.release,
        "files": snapshot.files,
        "planned": snapshot.planned,
        "after": snapshot.after,
        "who": snapshot.who,
    }


def warnings_of(history: ConfigHistory) -> list[str]:
    """A warning if a change that was cut short had to be finished or undone first, and one of a damaged history."""
    warnings = damage_of(history)
    if history.recovered:
        paths = ", ".join(diff.path for diff in history.recovered)
        warnings.append(f"A change of the config that was cut short was brought to its end first; it touched {paths}")
    return warnings


def damage_of(history: ConfigHistory) -> list[str]:
    """A warning if snapshots are damaged."""
    damaged = history.damaged
    if not damaged:
        return []
    return [
        f"The config history {history.repo_dir} is damaged: the snapshot(s) {', '.join(one[:12] for one in damaged)} cannot be read. "
        "The others can still be used, and no old one is dropped. "
        f"Put the objects back from a copy of the history, as `git --git-dir {history.repo_dir} fsck` names them"
    ]


def _not_pushed(pushed: Pushed, remote: Remote) -> str:
    return (
        f"The config history could not be pushed to the branch {remote.branch} of {remote.url}: {pushed.error}. "
        f"It lacks {pushed.behind} snapshot(s); the next run tries again"
    )


def _row(path: str, entry: Entry) -> dict[str, Any]:
    return {
        "path": printable(path),
        "type": entry.kind,
        "mode": f"{entry.mode:04o}" if entry.kind != "symlink" else None,
        "owner": entry.owner or str(entry.uid),
        "group": entry.group or str(entry.gid),
        "size": entry.size if entry.kind == "file" else None,
        "target": printable(entry.target) if entry.kind == "symlink" else None,
        "link": printable(entry.link) if entry.link else None,
        "attributes": [name for name, _value in entry.xattrs or ()],
    }
