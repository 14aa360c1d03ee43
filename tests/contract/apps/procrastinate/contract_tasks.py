# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application of the contract tests."""

from __future__ import annotations

import os
import time

import procrastinate

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["QUEUEOPS_URL"]))


def _note(context: procrastinate.JobContext) -> None:
    descriptor = os.open(os.environ["QUEUEOPS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(descriptor, b"%d\n" % (context.job.id or 0))
    os.close(descriptor)


@app.task(name="note", pass_context=True)
def note(context: procrastinate.JobContext, text: str) -> None:
    _note(context)


@app.task(name="hold", pass_context=True)
def hold(context: procrastinate.JobContext, text: str) -> None:
    while not os.path.exists(os.environ["QUEUEOPS_GATE"]):
        time.sleep(0.02)
    _note(context)


@app.task(name="fail")
def fail(text: str) -> None:
    raise ValueError("no good")


@app.task(name="flaky", pass_context=True)
def flaky(context: procrastinate.JobContext, text: str) -> None:
    if os.path.exists(os.environ["QUEUEOPS_BROKEN"]):
        raise ValueError("no good")
    _note(context)
