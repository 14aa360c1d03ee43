# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module run as an operator runs it by hand: as an ad-hoc task on this host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def ad_hoc(name: str, options: dict[str, Any], check: bool = False) -> dict[str, Any]:
    """What the module returned; of a failure at least its ``msg``."""
    command = ["ansible", "localhost", "-c", "local", "-m", "queueops.fleet." + name, "-a", json.dumps(options)]
    environment = dict(
        os.environ,
        ANSIBLE_COLLECTIONS_PATH=os.environ["PYTHONPATH"].split(os.pathsep)[0],
        ANSIBLE_PYTHON_INTERPRETER=sys.executable,
        ANSIBLE_DEPRECATION_WARNINGS="False",
        PATH=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]),
    )
    command += ["--check"] if check else []
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    told: dict[str, Any] = json.loads(done.stdout.partition("=> ")[2])
    return told
