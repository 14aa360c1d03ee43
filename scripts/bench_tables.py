# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run benchmarks, one after the other, each against its rivals in turn: those of the queue systems, or those of the hosts.

``bench_tables.py queues|hosts [--write] [NAME ...] [-- OPTION ...]`` runs those named (default: all of the kind), with these options, as
``-- --tasks 500``. After each, what there is so far goes to build/bench/<kind>.md, and with ``--write`` into docs/benchmarks.md, between
the two marks of the kind; a run that is cut off leaves it there, and says so. 1: a bar was missed, one of them ended badly, or it was
cut off.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from house import BUILD, ROOT, environment, redis_server

FOLDER = ROOT / "tests" / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"
#: What a benchmark's line begins with that names a bar which was missed; as in tests/benchmarks/common.py.
MISSED = "- Missed: "
#: A benchmark that takes longer (s) is broken off; the others are run.
LIMIT_S = 1500
#: How long (s) one that is broken off may take to stop its servers.
STOP_S = 60


@dataclass(frozen=True)
class Kind:
    """Benchmarks that are run together.

    :ivar patterns: of their files in tests/benchmarks.
    :ivar scripts: what installs the servers that they need.
    """

    name: str
    patterns: tuple[str, ...]
    scripts: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """The benchmarks, by the names of their files."""
        return sorted(path.stem for pattern in self.patterns for path in FOLDER.glob(pattern))

    def marks(self) -> tuple[str, str]:
        """Between these two lines of the page are their tables."""
        return f"<!-- begin: make bench-{self.name} -->", f"<!-- end: make bench-{self.name} -->"


KINDS = {
    kind.name: kind
    for kind in (Kind("queues", ("redrive_*.py", "scale_*.py"), ("servers.sh", "trixie.sh")), Kind("hosts", ("hosts_*.py",)))
}


@dataclass
class Part:
    """One benchmark: what it printed, its exit code (None: it has not ended by itself), and how long it took (s)."""

    name: str
    lines: list[str] = field(default_factory=list)
    code: int | None = None
    seconds: float = 0.0

    def missed(self) -> list[str]:
        """The lines that name the bars which it missed."""
        return [line for line in self.lines if line.startswith(MISSED)]

    def whole(self) -> bool:
        """Whether it measured all that it is to measure."""
        return self.code == 0 or (self.code == 1 and bool(self.missed()))


def measure(part: Part, options: list[str]) -> None:
    """Run one benchmark, show what it prints as it comes, and keep it in ``part``, also when this is interrupted."""
    command = [sys.executable, "-u", "-m", f"tests.benchmarks.{part.name}", *options]
    env = environment(QUEUEOPS_REDIS_SERVER=redis_server(), PYTHONPATH=os.pathsep.join([str(BUILD), str(ROOT)]))
    began = time.monotonic()
    # In a session of its own: it is interrupted by us alone, and once.
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    overdue = threading.Timer(LIMIT_S, stop, [process])
    overdue.start()
    try:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            part.lines.append(line.rstrip("\n"))
        part.code = process.wait()
    finally:
        overdue.cancel()
        stop(process)
        part.seconds = time.monotonic() - began


def stop(process: subprocess.Popen[str]) -> None:
    """See that a benchmark has ended, with its servers."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def state() -> str:
    """Which commit is measured, and whether the tree differs from it."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain", "plugins"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return f"{commit}{' with uncommitted changes' if changed else ''}, {os.cpu_count()} cores"


def told(kind: Kind, at: str, chosen: list[str], parts: list[Part]) -> str:
    """What was measured, for the page, and what of ``chosen`` was not, or not all of it."""
    head = [f"Measured at {at}."]
    whole = [part.name for part in parts if part.whole()]
    cut = [name for name in chosen if name not in whole]
    if cut:
        head.append(f"**This run was cut off**, and of these there is nothing, or not all: {', '.join(cut)}.")
    others = [name for name in kind.names() if name not in chosen]
    if others:
        head.append(f"Not run: {', '.join(others)}.")
    return "\n\n".join([" ".join(head), *("\n".join(part.lines).strip() for part in parts if part.lines)])


def put_in(page: Path, kind: Kind, text: str | None = None) -> None:
    """Replace what stands between the kind's marks in ``page``; without ``text`` only see that they are there."""
    first, last = kind.marks()
    before, begin, rest = page.read_text(encoding="utf-8").partition(first)
    _old, end, after = rest.partition(last)
    if not (begin and end):
        sys.exit(f"{page.name} lacks the lines {first} and {last}")
    if text is not None:
        page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def close(chosen: list[str], parts: list[Part]) -> int:
    """Show how long each took, which bars were missed and what is not whole; the exit code."""
    print("\nTook:")
    for part in parts:
        print(f"  {part.name:24} {part.seconds:5.0f} s")
    print(f"  {'all':24} {sum(part.seconds for part in parts):5.0f} s")
    whole = [part.name for part in parts if part.whole()]
    bad = [f"- Not measured, or not all of it: {name}" for name in chosen if name not in whole]
    problems = [line for part in parts for line in part.missed()] + bad
    print("\n".join(problems) or "Every bar is met.", flush=True)
    return 1 if problems else 0


def main(arguments: list[str]) -> int:
    """Run them, and write down what they print."""
    mark = arguments.index("--") if "--" in arguments else len(arguments)
    words, options = arguments[:mark], arguments[mark + 1 :]
    if not words or words[0] not in KINDS:
        sys.exit(f"Say which kind of benchmarks to run: {' or '.join(KINDS)}")
    kind = KINDS[words[0]]
    chosen = [word for word in words[1:] if word != "--write"] or kind.names()
    unknown = sorted(set(chosen) - set(kind.names()))
    if unknown:
        sys.exit(f"There is no benchmark {', '.join(unknown)}; there are {', '.join(kind.names())}")
    for script in kind.scripts:
        if subprocess.run([str(ROOT / "scripts" / script)], check=False).returncode:
            return 1
    pages = [PAGE] if "--write" in words else []
    for page in pages:
        put_in(page, kind)
    return run(kind, chosen, options, pages)


def run(kind: Kind, chosen: list[str], options: list[str], pages: list[Path]) -> int:
    """Run the benchmarks ``chosen``, and after each write what there is, also into ``pages``; the exit code."""
    at = state() + (f", with {' '.join(options)}" if options else "")
    target = BUILD / "bench" / f"{kind.name}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parts: list[Part] = []
    try:
        for name in chosen:
            print(f"-- {name}", flush=True)
            parts.append(Part(name))
            try:
                measure(parts[-1], options)
            finally:
                text = told(kind, at, chosen, parts)
                target.write_text(text + "\n", encoding="utf-8")
                for page in pages:
                    put_in(page, kind, text)
            print(f"-- {name} took {parts[-1].seconds:.0f} s", flush=True)
    except KeyboardInterrupt:
        print("Cut off.", flush=True)
    return close(chosen, parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
