# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run every benchmark of the queue systems, one after the other, each against its rival in turn on one server.

``bench_queues.py [NAME ...]`` runs those named (default: all), as ``redrive_rq scale``. What they print goes to
build/bench/queues.md, and with ``--write`` into docs/benchmarks.md, between its two marks. 1: one of them ended badly or missed its bar.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from house import BUILD, ROOT, environment, redis_server

FOLDER = ROOT / "tests" / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- begin: scripts/bench_queues.py -->", "<!-- end: scripts/bench_queues.py -->"


def names() -> list[str]:
    """The benchmarks of the queue systems, by the names of their files."""
    return sorted(path.stem for pattern in ("redrive_*.py", "scale.py") for path in FOLDER.glob(pattern))


def measure(name: str) -> tuple[str, int]:
    """What the benchmark ``name`` prints, shown as it comes, and its exit code."""
    command = [sys.executable, "-u", "-m", f"tests.benchmarks.{name}"]
    env = environment(QUEUEOPS_REDIS_SERVER=redis_server(), PYTHONPATH=os.pathsep.join([str(BUILD), str(ROOT)]))
    lines = []
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    return "".join(lines).strip(), process.returncode


def state() -> str:
    """Which commit was measured, and whether the tree differed from it."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain", "plugins"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return f"{commit}{' with uncommitted changes' if changed else ''}, {os.cpu_count()} cores"


def put_in(page: Path, text: str) -> None:
    """Replace what stands between the marks of ``page``."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{page.relative_to(ROOT)} lacks the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Run them, and write down what they print."""
    for script in ("servers.sh", "trixie.sh"):
        if subprocess.run([str(ROOT / "scripts" / script)], check=False).returncode:
            return 1
    chosen = [word for word in arguments if word != "--write"] or names()
    unknown = sorted(set(chosen) - set(names()))
    if unknown:
        sys.exit(f"There is no benchmark {', '.join(unknown)}; there are {', '.join(names())}")
    parts, failed = [f"Measured at {state()}."], []
    for name in chosen:
        print(f"-- {name}", flush=True)
        text, code = measure(name)
        parts.append(text)
        if code:
            failed.append(name)
    target = BUILD / "bench" / "queues.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    told = "\n\n".join(part for part in parts if part)
    target.write_text(told + "\n", encoding="utf-8")
    if "--write" in arguments:
        put_in(PAGE, told)
    if failed:
        print(f"Ended badly, or missed the bar: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
