# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The colour of each tone, as Ansible's own configuration has it."""

from __future__ import annotations

import ansible.constants as settings

COLORS: dict[str, str | None] = {
    "plain": None,
    "good": settings.COLOR_OK,
    "change": settings.COLOR_CHANGED,
    "warn": settings.COLOR_WARN,
    "bad": settings.COLOR_ERROR,
    "lost": settings.COLOR_UNREACHABLE,
    "dim": settings.COLOR_SKIP,
    "head": settings.COLOR_HIGHLIGHT,
}
