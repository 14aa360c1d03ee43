# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A version as a part of a queue's name. By itself, so that what asks for a name alone loads no broker's client."""

from __future__ import annotations


def named(version: str, backend: str) -> str:
    """What stands for the version in the name of its queue on that queue system."""
    # Neither streams nor consumers of NATS may have a dot in their name.
    return version.replace(".", "_") if backend == "nats" else version
