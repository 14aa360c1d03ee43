# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brokers' addresses, as they may be shown."""

from __future__ import annotations

import re


def masked(url: str) -> str:
    """``url`` without its password."""
    url = re.sub(r"//\S*@", "//***@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", url)
