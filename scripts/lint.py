# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run every linter over the checkout. Each has to run: one that is missing or had nothing to look at fails."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from house import BUILD, COLLECTION, ROOT, Record, environment

FLEET = "ansible_collections.queueops.fleet"
# Sanity tests that look at nothing here, and why. Any other test that ran on nothing fails.
NOT_APPLICABLE = {"pslint": "no PowerShell in the collection", "empty-init": "no __init__.py where it has to be empty"}


def files(*patterns: str) -> list[str]:
    """Return the checkout's own files (tracked or not yet, but not ignored) that match any pattern, relative to the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    # A file may be tracked and already removed from the work tree.
    return sorted({name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()})


def run(record: Record, name: str, command: list[str], count: int, what: str = "files", cwd: Path = ROOT, **extra: str) -> None:
    """Run one linter over ``count`` things; show its output only when it objects."""
    began = time.monotonic()
    if not count:
        record.add(False, f"{name}: found nothing to look at")
        return
    done = subprocess.run(command, cwd=cwd, env=environment(**extra), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        print(done.stdout + done.stderr)
    record.add(not done.returncode, f"{name}: {count} {what}, {time.monotonic() - began:.0f} s")


def suppressions(record: Record) -> None:
    """Find every comment or marker that would silence a linter or leave out a test: there is to be none."""
    # In halves, so that this file does not find itself.
    words = ["no" + "qa", "type:" + " ignore", "pylint:" + " disable", "shellcheck" + " disable", "yamllint" + " disable", "no" + "sec"]
    words += [
        "fmt:" + " (off|skip)",
        "pragma:" + " no",
        "mark" + r"\.(skip|xfail)",
        "pytest" + r"\.(skip|xfail|importorskip)",
        "skip_ansible" + "_lint",
    ]
    pattern = re.compile("|".join(words))
    found = []
    looked = files("*.py", "*.yml", "*.yaml", "*.sh", "*.toml", ".ci/run", "Makefile")
    for name in looked:
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{name}:{number}: {line.strip()}")
    found += files("tests/sanity/*", ".ansible-lint-ignore")
    if found:
        print("\n".join(found))
    record.add(not found, f"nothing is silenced: {len(looked)} files, {len(found)} suppressions")


def bootstrap_script() -> str:
    """Return a script that gives a fresh venv its pip without the network; ansible-test would download one."""
    return (
        "import ensurepip, os, subprocess, sys\n"
        # Copied first: ensurepip turns pip's settings off for the whole process.
        "env = {name: value for name, value in os.environ.items() if name != 'GET_PIP'}\n"
        "ensurepip.bootstrap(default_pip=True)\n"
        "wanted = [word for word in sys.argv[1:] if word not in ('--no-setuptools', '--no-wheel')]\n"
        "sys.exit(subprocess.call([sys.executable, '-m', 'pip', 'install', *wanted], env=env))\n"
    )


def pip_settings() -> str:
    """Return the pip settings in force, from files and environment alike, as one pip.conf: ansible-test passes no environment on."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], env=environment(), capture_output=True, text=True, check=True)
    settings: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        key, value = line.split("=", 1)
        name = key.rpartition(".")[2]
        settings[name] = value.strip("'\"").replace("\\n", "\n    ")
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())


def sanity(record: Record) -> None:
    """Run every sanity test of ansible-test on a real copy of the collection (it does not follow links)."""
    began = time.monotonic()
    copy = BUILD / "sanity" / "ansible_collections" / "queueops" / "fleet"
    shutil.rmtree(copy, ignore_errors=True)
    for name in files():
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    subprocess.run(["git", "init", "-q", "."], cwd=copy, env=environment(), check=True)

    home = ROOT / ".venv" / "sanity"
    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (home / ".config" / "pip").mkdir(parents=True, exist_ok=True)
    (home / ".config" / "pip" / "pip.conf").write_text(pip_settings(), encoding="utf-8")
    spec = importlib.util.find_spec("ansible_test")
    internals = Path(spec.origin).parent if spec and spec.origin else Path()
    pins = (internals / "_internal" / "python_requirements.py").read_text(encoding="utf-8")
    for version in re.findall(r"\bpip='([0-9.]+)'", pins):
        (cache / f"get_pip_{version.replace('.', '_')}.py").write_text(bootstrap_script(), encoding="utf-8")

    env = environment(HOME=str(home))
    # Interpreters that pyenv keeps are as good as those on PATH.
    pyenv = sorted(str(path) for path in (Path.home() / ".pyenv" / "versions").glob("3.*/bin"))
    env["PATH"] = ":".join([env["PATH"].split(":")[0], *pyenv, env["PATH"]])
    wanted = set(
        subprocess.run(
            ["ansible-test", "sanity", "--list-tests"], cwd=copy, env=env, capture_output=True, text=True, check=True
        ).stdout.split()
    )
    command = ["ansible-test", "sanity", "--venv", "--color", "no", "--junit"]
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        print(
            "\n".join(line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("ERROR", "FATAL: The", "FATAL: Test")))
        )

    ran: dict[str, set[str]] = {}
    skipped: dict[str, str] = {}
    for report in sorted((copy / "tests" / "output" / "junit").glob("ansible-test-sanity-*.xml")):
        for case in ET.parse(report).getroot().iter("testcase"):
            test, *versions = case.get("name", "").split("-python-")
            version = versions[0] if versions else ""
            reason = case.find("skipped")
            if reason is None:
                ran.setdefault(test, set()).add(version)
            else:
                skipped[test + (f" on Python {version}" if version else "")] = (reason.text or reason.get("message") or "").strip()
    missing = sorted({key.rpartition(" ")[2] for key, reason in skipped.items() if "could not be found" in reason})
    # A test is missing if it ran on no Python at all and is not known to have nothing to look at.
    absent = sorted(wanted - set(ran) - set(NOT_APPLICABLE))
    odd = sorted(
        key
        for key in skipped
        if key.split(" ")[0] not in NOT_APPLICABLE and "could not be found" not in skipped[key] and key.split(" ")[0] not in ran
    )
    pythons = sorted(
        {version for test in ("import", "compile") for version in ran.get(test, set())},
        key=lambda text: [int(part) for part in text.split(".")],
    )
    total = sum(len(versions) for versions in ran.values())
    record.add(
        not done.returncode and not absent and total > 0,
        f"ansible-test sanity: {len(ran)} of {len(wanted)} tests, on Python {' '.join(pythons)}, {time.monotonic() - began:.0f} s",
    )
    for name in absent:
        print(f"     did not run: {name} ({next((skipped[key] for key in odd if key.startswith(name)), 'no result')})")
    for name in sorted(set(NOT_APPLICABLE) & wanted - set(ran)):
        record.note(f"does not apply: sanity test {name} ({NOT_APPLICABLE[name]})")
    if missing:
        record.note(
            f"not here: Python {' '.join(missing)}, so no sanity import and compile on it (ruff and vermin hold the hosts' Python 3.8)"
        )


def main() -> int:
    """Run them all, cheap ones first, and go on after a failure."""
    record = Record("lint")
    python = files("*.py")
    yaml = files("*.yml", "*.yaml", ".yamllint", ".ansible-lint")
    rooms = files("plugins/module_utils/*.py")
    hosts = files("plugins/module_utils/*.py", "plugins/modules/*.py")
    shell = [*files("*.sh"), ".ci/run"]
    run(record, "ruff check", ["ruff", "check", "--output-format", "concise", "."], len(python))
    run(
        record,
        "ruff check (the rooms: docstrings, no print)",
        ["ruff", "check", "--output-format", "concise", "--select", "D101,D102,D103,T20", "plugins/module_utils"],
        len(rooms),
    )
    run(record, "ruff format", ["ruff", "format", "--check", "."], len(python))
    # The drill's own room runs where the drill runs, on the controller.
    hosts = [name for name in hosts if "/_drill/" not in name]
    run(
        record,
        "vermin (hosts' Python is 3.8)",
        ["vermin", "-q", "--no-tips", "--violations", "-t=3.8-", "--no-parse-comments", *hosts],
        len(hosts),
    )
    run(record, "docs/queues.md says what the backends declare", [sys.executable, "scripts/capabilities.py", "--check"], 1, "page")
    run(record, "yamllint", ["yamllint", "--strict", *yaml], len(yaml))
    run(record, "shellcheck", ["shellcheck", *shell], len(shell))
    run(
        record,
        "antsibull-changelog",
        ["antsibull-changelog", "lint"],
        len(files("changelogs/fragments/*")) or 1,
        "fragments",
        cwd=COLLECTION,
    )
    # One run each: they do not import each other, and two of them have a conftest.
    run(record, "mypy (plugins)", ["mypy", "-p", f"{FLEET}.plugins"], len(files("plugins/*.py")), PYTHONPATH="")
    for where in ("scripts", "tests", *sorted({str(Path(name).parents[-4]) for name in files("molecule/*/tests/*.py")})):
        found = files(f"{where}/*.py")
        run(record, f"mypy ({where})", ["mypy", *found], len(found), PYTHONPATH="", MYPYPATH=where if where.startswith("molecule") else "")
    imports = ["lint-imports", "--no-logo", "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    run(record, "import-linter", imports, len(files("plugins/*.py")), cwd=BUILD)
    run(record, "ansible-lint (profile production)", ["ansible-lint", "--offline", "--strict"], len(yaml), "YAML files")
    suppressions(record)
    sanity(record)
    return record.close()


if __name__ == "__main__":
    sys.exit(main())
