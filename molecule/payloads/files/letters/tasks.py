# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The RQ application: a task appends one row to the ledger. Version 2 brings a task, and the class of its argument."""

from __future__ import annotations

import os
from dataclasses import dataclass

VERSION = "2.0.0"


def note(number: int) -> None:
    """Append one row, in one write."""
    handle = os.open("/var/lib/mailer/letters.tsv", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{number}\t{VERSION}\n".encode())
    finally:
        os.close(handle)


if VERSION != "1.0.0":

    @dataclass(frozen=True)
    class Sheet:
        number: int

    def sheet(new: Sheet) -> None:
        note(new.number)
