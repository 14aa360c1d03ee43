# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drill's example application: sending one mail is appending one row to the ledger."""

from __future__ import annotations

import configparser
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

VERSION = "2.0.0"
HOST = os.environ["MAILER_HOST"]
FOLDER = Path(os.environ["MAILER_CONFIG"])

CONFIG = configparser.ConfigParser(interpolation=None)
CONFIG.read(FOLDER / "worker.conf", encoding="utf-8")
ROUTES = json.loads((FOLDER / "routes.json").read_text(encoding="utf-8"))


class UnknownRelay(Exception):
    """The routes name a relay that the worker's config does not define."""


def relay_for(number: int) -> str:
    """Return the relay's address for mail ``number``: mails are now spread over three shards."""
    shards = ROUTES["shards"]
    name = shards[number % len(shards)]
    if name not in CONFIG["relays"]:
        raise UnknownRelay(f"shard {number % len(shards)} goes to {name}, which worker.conf does not define")
    return CONFIG["relays"][name]


def send(number: int, work_s: float) -> None:
    """Send mail ``number``, which takes ``work_s`` seconds."""
    relay = relay_for(number)
    time.sleep(work_s)
    record(number, f"{CONFIG['mailer']['sender']}|{relay}")


def record(number: int, setting: str) -> None:
    """Append the row that says this mail went out. One write to an O_APPEND file, so rows of six workers never mix."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    row = f"{number}\t{VERSION}\t{HOST}\t{setting}\t{now}\n".encode()
    handle = os.open(CONFIG["mailer"]["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, row)
    finally:
        os.close(handle)
