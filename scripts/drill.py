# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the drill playbook on this machine, and leave no process behind however it ends."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from house import BUILD, ROOT, environment, redis_server

# Every process of a drill inherits this variable, so those that are left can be told from everybody else's.
MARK = "QUEUEOPS_DRILL_RUN"
# Seconds: the lab takes itself down when its owner is gone; only then is it helped.
PATIENCE = 20.0


def marked(run: str) -> list[int]:
    """Return the processes that belong to this run."""
    wanted = f"{MARK}={run}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # A zombie has an empty environment, so it does not count.
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def gone_within(limit: float, what: Callable[[], object]) -> bool:
    """Wait until ``what`` is empty; return whether it was within ``limit`` seconds."""
    end = time.monotonic() + limit
    pause = 0.02
    while what():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)
    return True


def clear(run: str) -> int:
    """Wait for the run's processes to end by themselves; end those that do not. Return how many had to be ended."""
    if gone_within(PATIENCE, lambda: marked(run)):
        return 0
    left = marked(run)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in marked(run):
            try:
                os.kill(pid, sign)
            except OSError:
                continue
        if gone_within(5.0, lambda: marked(run)):
            break
    return len(left)


def main() -> int:
    """Run ``ansible-playbook`` with one interrupt passed on to it, then wait for the drill's processes to be gone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", choices=["bad", "good"], default="bad", help="which release 2 is rolled out")
    parser.add_argument("extra", nargs="*", help="more arguments for ansible-playbook")
    options = parser.parse_args()

    run = uuid.uuid4().hex
    env = environment(
        ANSIBLE_STDOUT_CALLBACK="queueops.fleet.board",
        ANSIBLE_LOCALHOST_WARNING="False",
        ANSIBLE_PYTHON_INTERPRETER=sys.executable,
        QUEUEOPS_REDIS_SERVER=redis_server(),
        **{MARK: run},
    )
    (BUILD / "ansible").mkdir(parents=True, exist_ok=True)
    command = [str(Path(sys.prefix) / "bin" / "ansible-playbook"), "-i", "playbooks/drill_inventory", "queueops.fleet.drill"]
    command += ["-e", f"drill_release={options.release}", *options.extra]
    # A group of its own, so that a Ctrl-C reaches it once, through here, and not twice.
    play = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, process_group=0)
    interrupted: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        interrupted.append(number)
        if play.poll() is None:
            # The second time the operator means it.
            os.killpg(play.pid, signal.SIGINT if len(interrupted) == 1 else signal.SIGKILL)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    code = play.wait()
    ended = clear(run)
    if ended:
        print(f"Processes of the drill that did not end by themselves, and were ended: {ended}", file=sys.stderr)
    if interrupted:
        print("The drill was interrupted; nothing of it is running any more.", file=sys.stderr)
        return 128 + interrupted[0]
    return code or (1 if ended else 0)


if __name__ == "__main__":
    sys.exit(main())
