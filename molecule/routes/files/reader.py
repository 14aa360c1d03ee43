# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker that reads a feature gate: by the OpenFeature SDK, from the file on its host, over and over again.

``reader.py FLAGS RESULT``: RESULT holds for which of 500 customers the feature is on, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext


def main(flags: str, result: str) -> int:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    api.set_provider_and_wait(FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=flags))
    client = api.get_client()
    while not stop.wait(0.2):
        customers = [f"customer-{number}" for number in range(500)]
        found = [customer for customer in customers if client.get_boolean_value("new-invoice", False, EvaluationContext(customer))]
        Path(result + ".new").write_text(json.dumps(found), encoding="ascii")
        os.replace(result + ".new", result)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
