# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks of the contract tests, as RQ's workers run them. Folders come by environment."""

from __future__ import annotations

import os
import time


def note(task: str) -> None:
    descriptor = os.open(os.environ["QUEUEOPS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, ("%s\n" % task).encode())
    os.close(descriptor)


def hold(task: str) -> None:
    while not os.path.exists(os.environ["QUEUEOPS_GATE"]):
        time.sleep(0.02)
    note(task)


def fail(task: str) -> None:
    raise ValueError("no good")


def flaky(task: str) -> None:
    if os.path.exists(os.environ["QUEUEOPS_BROKEN"]):
        fail(task)
    note(task)
