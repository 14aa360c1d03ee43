# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The config history against git, etckeeper and rsync, in turn on one tree: ``python -m tests.benchmarks.hosts_config_history``.

Three things are measured: the first record of the tree, another one when nothing has changed, and taking back changes of some files
that were recorded, too.
What comes back is compared with what was there. The time of git, etckeeper and rsync is that of their commands, the time of the
config history that of the call in a running process with nothing cached in memory.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from ansible_collections.queueops.fleet.plugins.module_utils._config.history import ConfigHistory
from ansible_collections.queueops.fleet.plugins.module_utils._config.watch import Watch

from tests.benchmarks.common import ended, interruptible, show, spread

IDENTITY = {"GIT_AUTHOR_NAME": "x", "GIT_AUTHOR_EMAIL": "x", "GIT_COMMITTER_NAME": "x", "GIT_COMMITTER_EMAIL": "x"}

#: What is measured, and how many times git's time ours may take at most.
STEPS = {"first": ("first record", 1.3), "unchanged": ("nothing changed", 3.0), "revert": ("changes taken back", 2.0)}


def run(*command: object, ok: tuple[int, ...] = (0,)) -> None:
    env = dict(os.environ, **IDENTITY)
    done = subprocess.run([os.fspath(str(word)) for word in command], capture_output=True, env=env, check=False)
    if done.returncode not in ok:
        raise SystemExit(f"{command}: {done.stdout.decode()}{done.stderr.decode()}")


class Side(ABC):
    """One way to keep a tree, in a folder of its own with a copy of the tree."""

    name = ""

    def __init__(self, folder: Path, tree: Path) -> None:
        self.folder = folder / type(self).__name__.lower()
        self.tree = self.folder / "tree"
        self.folder.mkdir()
        run("cp", "-a", tree, self.tree)

    @abstractmethod
    def first(self) -> None:
        """Record the tree for the first time."""

    @abstractmethod
    def unchanged(self) -> None:
        """See that nothing has changed."""

    @abstractmethod
    def record_changes(self) -> None:
        """Record the changed tree; not measured."""

    @abstractmethod
    def revert(self) -> None:
        """Take the changes back."""


class Ours(Side):
    name = "config history"

    def _history(self) -> ConfigHistory:
        return ConfigHistory(str(self.folder / "state" / "mailer" / "config.git"), Watch([str(self.tree)]))

    def first(self) -> None:
        if not self._history().snapshot("first")[1]:
            raise SystemExit("the first snapshot was not recorded")

    def unchanged(self) -> None:
        if self._history().snapshot()[1]:
            raise SystemExit("an unchanged tree was recorded again")

    def record_changes(self) -> None:
        self._history().snapshot()

    def revert(self) -> None:
        self._history().apply("first")


class Git(Side):
    name = "git"

    def _git(self, *words: object) -> None:
        run("git", "--git-dir", self.folder / "git", "--work-tree", self.tree, *words)

    def first(self) -> None:
        self._git("init", "--quiet")
        self._git("add", "-A")
        self._git("commit", "--quiet", "-m", "first")
        self._git("tag", "first")

    def unchanged(self) -> None:
        self._git("status", "--porcelain")

    def record_changes(self) -> None:
        self._git("add", "-A")
        self._git("commit", "--quiet", "--allow-empty", "-m", "changed")

    def revert(self) -> None:
        self._git("checkout", "--quiet", "first", "--", ".")


class Etckeeper(Side):
    name = "etckeeper"

    def first(self) -> None:
        run("etckeeper", "init", "-d", self.tree)
        run("etckeeper", "commit", "-d", self.tree, "first")
        run("git", "-C", self.tree, "tag", "first")

    def unchanged(self) -> None:
        run("etckeeper", "commit", "-d", self.tree, "again", ok=(0, 1))

    def record_changes(self) -> None:
        self.unchanged()

    def revert(self) -> None:
        run("git", "-C", self.tree, "checkout", "--quiet", "first", "--", ".")
        run("etckeeper", "init", "-d", self.tree)


class Rsync(Side):
    name = "rsync"

    def first(self) -> None:
        run("rsync", "-aHAX", "--delete", f"{self.tree}/", f"{self.folder / 'copy'}/")

    def unchanged(self) -> None:
        self.first()

    def record_changes(self) -> None:
        """It keeps one copy, which is to stay the first."""

    def revert(self) -> None:
        run("rsync", "-aHAX", "--delete", f"{self.folder / 'copy'}/", f"{self.tree}/")


PEERS: list[tuple[type[Side], str]] = [(Git, "git"), (Etckeeper, "etckeeper"), (Rsync, "rsync")]


def build(tree: Path, files: int, size: int) -> None:
    """Text files of ``size`` bytes, twenty a folder."""
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _word in range(3000)]
    for number in range(files):
        path = tree / f"{number // 200:03d}" / f"{number % 10}" / f"{number:05d}.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = ""
        while len(text) < size:
            text += " ".join(chance.choices(words, k=9)) + "\n"
        path.write_text(text[:size])


def timed(work: Callable[[], None]) -> float:
    os.sync()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rotated(sides: list[Side], by: int) -> list[Side]:
    """The sides in turn, each as often after each other one: what the one before leaves in the caches is not to count."""
    return sides[by % len(sides) :] + sides[: by % len(sides)]


def one_round(tree: Path, sides: list[type[Side]], changes: int, repeats: int) -> dict[tuple[str, str], list[float]]:
    """All steps on each side, the sides in turn within a step."""
    took: dict[tuple[str, str], list[float]] = {}
    folder = Path(tempfile.mkdtemp(prefix="qo-", dir=tree.parent))
    try:
        made = [side(folder, tree) for side in sides]
        for side in made:
            took.setdefault((side.name, "first"), []).append(timed(side.first))
        for repeat in range(repeats):
            for side in rotated(made, repeat):
                took.setdefault((side.name, "unchanged"), []).append(timed(side.unchanged))
        for repeat in range(repeats):
            for side in rotated(made, repeat):
                files = sorted(side.tree.rglob("*.conf"))
                changed = files[:: max(1, len(files) // changes)][:changes]
                before = [path.read_bytes() for path in changed]
                for path in changed:
                    path.write_text("changed\n")
                side.record_changes()
                took.setdefault((side.name, "revert"), []).append(timed(side.revert))
                if [path.read_bytes() for path in changed] != before:
                    raise SystemExit(f"{side.name} did not bring everything back")
    finally:
        shutil.rmtree(folder)
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5, help="how often the two quick steps are measured in a round")
    parser.add_argument("--files", type=int, default=10000)
    parser.add_argument("--size", type=int, default=20000, help="bytes of a file")
    parser.add_argument("--changes", type=int, default=100, help="files that are changed and taken back")
    parser.add_argument("--without", nargs="*", default=[], choices=["etckeeper", "rsync"], help="leave these out")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work, on the file system to measure")
    chosen = parser.parse_args()
    interruptible()
    there: list[type[Side]] = [side for side, program in PEERS if shutil.which(program) and program not in chosen.without]
    for _side, program in PEERS:
        if not shutil.which(program):
            print(f"not on this machine: {program}")
    folder = Path(tempfile.mkdtemp(prefix="qo-", dir=chosen.folder))
    took: dict[tuple[str, str], list[float]] = {}
    try:
        build(folder / "tree", chosen.files, chosen.size)
        for number in range(chosen.rounds):
            sides: list[type[Side]] = [Ours, *there]
            for key, seconds in one_round(
                folder / "tree", sides if number % 2 == 0 else sides[::-1], chosen.changes, chosen.repeats
            ).items():
                took.setdefault(key, []).extend(seconds)
    finally:
        shutil.rmtree(folder)
    megabytes = chosen.files * chosen.size / 1e6
    print(
        f"{chosen.files} files, {megabytes:.0f} MB, {chosen.changes} changed; {chosen.rounds} rounds, quick steps {chosen.repeats} times\n"
    )
    show("step", "side", "s: median (range)", "times that of git, pair by pair", "bar")
    show(*["---"] * 5)
    missed = []
    everybody: list[type[Side]] = [Ours, *there]
    for step, (told, most) in STEPS.items():
        for side in everybody:
            seconds, base = took[side.name, step], took[Git.name, step]
            ratios = [mine / theirs for mine, theirs in zip(seconds, base, strict=True)]
            reached = statistics.median(ratios) <= most
            asked = f"at most {most:g}: {'met' if reached else 'missed'}" if side is Ours else ""
            show(told, side.name, spread(seconds, "%.3f"), spread(ratios, "%.2f"), asked)
            if side is Ours and not reached:
                missed.append(
                    f"{told}: the config history takes {statistics.median(ratios):.2f} times as long as git, and may take {most:g}"
                )
    return ended(missed)


if __name__ == "__main__":
    sys.exit(main())
