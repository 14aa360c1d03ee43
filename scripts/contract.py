# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the queue systems' contract tests. None ran, one was skipped, or a system of the sample was left out: that fails.

``contract.py --sample`` is for every day: every system on the one version of its server that the distribution has, with the looks of the
contract and its own tests, and the whole contract for one system of each broker. Without it, every system runs on every version, and
dies at every step.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from house import BUILD, ROOT, Record, environment, redis_server

#: The servers that Debian 12 has, and NATS from a wheel; those whose tests take longest first.
SAMPLE = ("rabbitmq3", "redis7", "nats", "postgresql15")
#: Those of Debian 13 as well.
EVERY = ("rabbitmq3", "rabbitmq4", "redis7", "redis8", "valkey8", "nats", "postgresql15", "postgresql17")
#: What every system has to show there, and what is special to one, are two parts: RabbitMQ's statistics make each of its tests wait.
HALVED = ("rabbitmq3",)
#: In the names of tests that are left to the whole contract.
LONG = ("hundred_thousand", "every_source", "two_vhosts", "another_vhost", "two_prefixes", "goes_on_gives")
#: They mostly wait for workers, and for RabbitMQ's statistics.
AT_A_TIME = 2 * (os.cpu_count() or 1)
#: Where the tests of each server leave what pytest said.
FOLDER = BUILD / "contract"


def main(arguments: list[str]) -> int:
    """Run pytest over tests/contract, one process for each part, some at a time; or over what ``arguments`` name, in one process."""
    sample = "--sample" in arguments
    for script in ["servers.sh"] if sample else ["servers.sh", "trixie.sh"]:
        if subprocess.run([str(ROOT / "scripts" / script)], check=False).returncode:
            return 1
    record = Record("contract-sample" if sample else "contract")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for left in FOLDER.glob(f"{record.stage}-*"):
        left.unlink()
    given = [word for word in arguments if word != "--sample"]
    if given:
        run(record, sample, "given", given)
    else:
        servers = SAMPLE if sample else EVERY
        parts = [part for server in servers for part in ([server + "/systems", server + "/own"] if server in HALVED else [server])]
        with ThreadPoolExecutor(max_workers=AT_A_TIME) as pool:
            for said in pool.map(lambda part: run(record, sample, part), parts):
                print(said, flush=True)
    count(record, sorted(FOLDER.glob(f"{record.stage}-*.xml")))
    return record.close()


def run(record: Record, sample: bool, part: str, given: Iterable[str] = ()) -> str:
    """Run the tests of one part; what its log shows of it in the end. Those ``given`` are shown while they run."""
    name = f"{record.stage}-{part.replace('/', '-')}"
    report = FOLDER / f"{name}.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:testinfra", "-o", "cache_dir=build/pytest", f"--junit-xml={report}"]
    extra = {"QUEUEOPS_REDIS_SERVER": redis_server(), "HYPOTHESIS_STORAGE_DIRECTORY": str(BUILD / "hypothesis")}
    if sample:
        command += ["-k", " and ".join(f"not {name}" for name in LONG)]
        extra.update(QUEUEOPS_SYSTEMS=",".join("@" + server for server in SAMPLE), QUEUEOPS_SAMPLE="1")
    else:
        extra["QUEUEOPS_EVERY_STEP"] = "1"
    if given:
        code = subprocess.run([*command, *given], cwd=ROOT, env=environment(**extra), check=False).returncode
        told = ""
    else:
        began = time.monotonic()
        log = FOLDER / f"{name}.log"
        with open(log, "wb") as out:
            command += ["--durations=15", "tests/contract"]
            code = subprocess.run(
                command, cwd=ROOT, env=environment(**extra, QUEUEOPS_PART=part), stdout=out, stderr=out, check=False
            ).returncode
        text = log.read_text(encoding="utf-8", errors="replace")
        told = text if code else text.rstrip().rpartition("\n")[2]
        record.note(f"{part}: {time.monotonic() - began:.0f} s")
    if code not in (0, 1) or not report.exists():
        record.add(False, f"pytest: the tests of {part} did not run to their end, exit code {code}")
    return told


def count(record: Record, reports: list[Path]) -> None:
    """Note what ran, from pytest's own reports."""
    ran = broken = skipped = 0
    systems: dict[str, int] = {}
    for suite in (suite for report in reports for suite in ET.parse(report).getroot().iter("testsuite")):
        ran += int(suite.get("tests", 0))
        broken += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
        for case in suite.iter("testcase"):
            found = re.search(r"\[(\w+@\w+)", case.get("name", ""))
            if found:
                systems[found.group(1)] = systems.get(found.group(1), 0) + 1
    if ran - broken - skipped > 0:
        record.add(True, f"pytest: {ran - broken - skipped} tests passed", ran - broken - skipped)
    record.note("systems: " + ", ".join(f"{system} {tests}" for system, tests in sorted(systems.items())))
    if broken:
        record.add(False, f"pytest: {broken} tests failed", broken)
    if skipped:
        record.add(False, f"pytest: {skipped} tests were skipped, and none may be", skipped)
    if not ran:
        record.add(False, "pytest: no test ran")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
