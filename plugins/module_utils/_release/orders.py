# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a phase of the transaction is told, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .._config.history import DesiredFile, FileDiff


@dataclass
class HostSettings:
    """What does not change between orders.

    :ivar host: the inventory name, for messages and events.
    :ivar worker: the fleet specification's ``worker``.
    :ivar config: the fleet specification's ``config`` without ``files``.
    """

    host: str
    fleet: str
    state_dir: str
    worker: dict[str, Any]
    config: dict[str, Any]


@dataclass
class Order:
    """Which operation wants this change, and how new it is."""

    operation: str | None = None
    epoch: int | None = None


@dataclass
class Wanted:
    """A release to prepare: the version, where its artifact is, and the config files in their final form."""

    number: int
    version: str
    artifact: str
    checksum: str
    files: list[DesiredFile] = field(default_factory=list)


@dataclass
class Result:
    """What a phase did.

    :ivar changed: whether anything live, or anything prepared, was changed (or would be, in check mode).
    :ivar release: the release that the phase was about.
    :ivar differs: whether a release of this number was live here before, made of something else: it needs a new number.
    :ivar pending: whether the host has to be switched in order to be on that release.
    :ivar diffs: config differences between live and the release.
    :ivar before: the live version, for the diff. ``after``: the release's.
    :ivar timings: seconds per step.
    :ivar confirm_until: when the host takes itself back, unix time.
    :ivar in_hand: the workers that are still executing when the drain's time is up.
    :ivar killed: the workers that were killed for the operation.
    """

    changed: bool
    release: dict[str, Any] | None = None
    differs: bool = False
    pending: bool = False
    diffs: list[FileDiff] = field(default_factory=list)
    before: str = ""
    after: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    confirm_until: float | None = None
    in_hand: list[dict[str, Any]] = field(default_factory=list)
    killed: list[dict[str, Any]] = field(default_factory=list)
