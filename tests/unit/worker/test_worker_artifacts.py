# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Artifacts besides the tar archive: a folder, a pip requirement; dropping versions. Images: tests/managers."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import MissingLibrary, NotFound, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._worker import artifact_pip
from ansible_collections.queueops.fleet.plugins.module_utils._worker.artifact import MARKER, Tools
from ansible_collections.queueops.fleet.plugins.module_utils._worker.versions import VersionStore
from ansible_collections.queueops.fleet.plugins.modules import worker_version

from tests.unit.worker.test_worker_versions import ROOM, build, entry, sum_of, tree

NONE = "sha256:" + "0" * 64


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "opt" / "mailer"


@pytest.fixture
def store(root: Path) -> VersionStore:
    return VersionStore(str(root))


# -- a folder ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mailer build"
    (made / "bin" / "two  spaces").mkdir(parents=True)
    (made / "empty").mkdir()
    (made / "bin" / "run").write_bytes(b"#!/bin/sh\n")
    (made / "bin" / "run").chmod(0o4777)
    (made / "data.bin").write_bytes(bytes(range(256)))
    (made / "link").symlink_to("bin/two  spaces/../run")
    (made / "bin" / "two  spaces" / "ü").write_text("x")
    return made


def documented_sum(folder: Path) -> str:
    """What the command prints that the module's documentation tells the operator to run."""
    found = re.search(r"C\((\{ find .*?sha256sum)\)", " ".join(worker_version.DOCUMENTATION.split()))
    assert found
    said = subprocess.run(["bash", "-c", found.group(1)], cwd=folder, capture_output=True, check=True, text=True)
    return "sha256:" + said.stdout.split()[0]


def test_folder_is_copied_as_the_documented_checksum_says(store: VersionStore, root: Path, folder: Path) -> None:
    checksum = documented_sum(folder)
    assert store.check("1.0", str(folder), checksum) is True
    assert not root.exists()
    assert store.prepare("1.0", str(folder), checksum) is True
    made = root / "versions/1.0"
    assert documented_sum_without_marker(made) == checksum
    # Setuid and the write permission of others are gone.
    assert (made / "bin/run").stat().st_mode & 0o7777 == 0o755
    assert os.readlink(made / "link") == "bin/two  spaces/../run"
    assert (made / "empty").is_dir()
    before = tree(root)
    assert store.prepare("1.0", str(folder), checksum) is False
    assert tree(root) == before
    assert store.list()[0]["kind"] == "folder"


def documented_sum_without_marker(folder: Path) -> str:
    marker = folder / MARKER
    content = marker.read_bytes()
    marker.unlink()
    try:
        return documented_sum(folder)
    finally:
        marker.write_bytes(content)


@pytest.mark.parametrize("change", ["content", "name", "executable", "link", "empty folder"])
def test_folder_that_is_another_is_refused(store: VersionStore, root: Path, folder: Path, change: str) -> None:
    checksum = documented_sum(folder)
    if change == "content":
        (folder / "data.bin").write_bytes(b"other")
    elif change == "name":
        (folder / "data.bin").rename(folder / "data.txt")
    elif change == "executable":
        (folder / "data.bin").chmod(0o755)
    elif change == "link":
        (folder / "link").unlink()
        (folder / "link").symlink_to("data.bin")
    else:
        (folder / "empty").rmdir()
    for act in (store.check, store.prepare):
        with pytest.raises(Refused) as refused:
            act("1.0", str(folder), checksum)
        assert refused.value.option == "checksum"
    assert os.listdir(root / "versions") == []


def make_unsafe(folder: Path, unsafe: str) -> None:
    if unsafe == "absolute link":
        (folder / "bad").symlink_to("/etc/passwd")
    elif unsafe == "link leads outside":
        (folder / "bin" / "bad").symlink_to("../../x")
    elif unsafe == "circle":
        (folder / "bad").symlink_to("bad")
    elif unsafe == "pipe":
        os.mkfifo(folder / "bad")
    elif unsafe == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(folder / "bad"))
    elif unsafe == "line break":
        (folder / "bad\nname").touch()
    elif unsafe == "backslash":
        (folder / "bad\\name").touch()
    else:
        (folder / MARKER).touch()


@pytest.mark.parametrize("unsafe", ["absolute link", "link leads outside", "circle", "pipe", "socket", "line break", "backslash", "marker"])
def test_unsafe_folder_is_refused_and_nothing_is_left(
    store: VersionStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unsafe: str
) -> None:
    # A socket's path is limited to 107 bytes.
    monkeypatch.chdir(tmp_path)
    folder = Path("build")
    (folder / "bin").mkdir(parents=True)
    make_unsafe(folder, unsafe)
    for act in (store.check, store.prepare):
        with pytest.raises(Refused) as refused:
            # The right checksum, where the command can tell one.
            act("1.0", str(tmp_path / "build"), documented_sum(folder))
        assert refused.value.option == "artifact"
        assert "Nothing was unpacked" in refused.value.sentence()
    assert os.listdir(root / "versions") == []


def test_folder_that_changes_while_it_is_copied_is_refused(store: VersionStore, root: Path, folder: Path) -> None:
    """What is verified is what is written: the check before does not count."""
    checksum = documented_sum(folder)
    assert store.check("1.0", str(folder), checksum) is True
    (folder / "data.bin").write_bytes(b"late")
    with pytest.raises(Refused, match="checksum"):
        store.prepare("1.0", str(folder), checksum)
    assert os.listdir(root / "versions") == []


# -- a pip requirement -------------------------------------------------------------------------------------------------


def wheel(folder: Path, name: str, version: str, needs: str = "") -> Path:
    """A wheel with one module, and a script that prints where it runs."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "import sys\n\ndef main():\n    print(sys.prefix, __file__)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (f"Requires-Dist: {needs}\n" if needs else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-run = {name}:main\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    made = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return made


def requirements(folder: Path, *lines: str) -> tuple[str, str]:
    """A requirements file that finds wheels in `folder` alone; its address as an artifact, and its checksum."""
    path = folder / "requirements.txt"
    path.write_text("\n".join(["--no-index", f"--find-links {folder}", *lines]) + "\n")
    return f"pip:{path}", sum_of(path)


def hashed(made: Path) -> str:
    name, version = made.name.split("-")[:2]
    return f"{name}=={version} --hash={sum_of(made)}"


def test_requirements_become_a_virtual_environment(
    store: VersionStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    lines = [hashed(wheel(tmp_path, "mailer", "1.0", "helper")), hashed(wheel(tmp_path, "helper", "2.0"))]
    address, checksum = requirements(tmp_path, *lines)
    assert store.check("1.0", address, checksum) is True
    assert not root.exists()
    assert store.prepare("1.0", address, checksum) is True
    made = root / "versions/1.0"
    said = subprocess.run([made / "bin/mailer-run"], capture_output=True, text=True, check=True, env={}).stdout.split()
    assert said[0] == str(made)
    assert said[1].startswith(str(made / "lib"))
    assert not (tmp_path / "elsewhere").exists()
    assert store.list()[0]["kind"] == "pip"
    assert os.listdir(root / "versions") == ["1.0"]
    assert store.prepare("1.0", address, checksum) is False


def test_requirement_without_its_hash_is_refused_and_nothing_is_left(store: VersionStore, root: Path, tmp_path: Path) -> None:
    mailer = wheel(tmp_path, "mailer", "1.0", "helper")
    wheel(tmp_path, "helper", "2.0")
    for line in (hashed(mailer), "mailer==1.0", f"mailer==1.0 --hash={NONE}"):
        address, checksum = requirements(tmp_path, line)
        with pytest.raises(Refused, match="pip could not install") as refused:
            store.prepare("1.0", address, checksum)
        assert refused.value.option == "artifact"
        assert os.listdir(root / "versions") == []
        assert store.list() == []


def test_pip_artifact_is_refused_before_anything_is_made(store: VersionStore, root: Path, tmp_path: Path) -> None:
    address, checksum = requirements(tmp_path)
    for bad, wanted, option, python in (
        (address, NONE, "checksum", None),
        (f"pip:{tmp_path}/none.txt", NONE, "artifact", None),
        ("pip:mailer", NONE, "artifact", None),
        ("pip:mailer>=1.0", NONE, "artifact", None),
        ("pip:-r/etc/passwd", NONE, "artifact", None),
        (address, checksum, "worker.python", "python3"),
        (address, checksum, "worker.python", "/no/such/python"),
    ):
        for act in ("check", "prepare"):
            with pytest.raises(Refused) as refused:
                getattr(VersionStore(str(root), tools=Tools(python)), act)("1.0", bad, wanted)
            assert refused.value.option == option
        assert store.list() == []


def test_interpreter_that_cannot_make_environments_is_named(root: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(MissingLibrary, match=str(python)):
        VersionStore(str(root), tools=Tools(str(python))).check("1.0", *requirements(tmp_path))


def test_one_distribution_is_installed_by_the_hash_of_its_wheel(
    store: VersionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        artifact_pip, "_run", lambda _command, workspace, *_rest: written.append((Path(workspace) / "requirements.txt").read_text())
    )
    store.prepare("1.0", "pip:mailer=={version}", NONE)
    assert written[-1] == f"mailer==1.0 --hash={NONE}\n"


DIE_IN_PIP = f"""
import os, signal, sys
from {ROOM} import artifact_pip, versions
real, left = artifact_pip._run, [int(sys.argv[1])]
def dying(*arguments):
    real(*arguments)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
artifact_pip._run = dying
versions.VersionStore(sys.argv[2]).prepare("1.0", sys.argv[3], sys.argv[4])
"""


@pytest.mark.parametrize("after", [1, 2], ids=["venv", "install"])
def test_killed_installation_is_never_used_and_replaced(store: VersionStore, root: Path, tmp_path: Path, after: int) -> None:
    address, checksum = requirements(tmp_path, hashed(wheel(tmp_path, "mailer", "1.0")))
    child = subprocess.run(
        [sys.executable, "-c", DIE_IN_PIP, str(after), str(root), address, checksum],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    assert (root / "versions/1.0/bin/python").exists()
    assert [(one["version"], one["unfinished"]) for one in store.list()] == [("1.0", True)]
    for act in (store.require, store.activate):
        with pytest.raises(NotFound, match="unfinished"):
            act("1.0")
    assert store.prepare("1.0", address, checksum) is True
    assert os.listdir(root / "versions") == ["1.0"]
    assert subprocess.run([root / "versions/1.0/bin/mailer-run"], check=False).returncode == 0


# -- dropping ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def six(store: VersionStore, tmp_path: Path) -> VersionStore:
    artifact = build(tmp_path / "mailer.tar", [(entry("run"), b"")], "")
    for number in range(1, 7):
        store.prepare(f"{number}.0", *artifact)
    return store


def test_versions_that_are_too_many(six: VersionStore) -> None:
    assert six.droppable(2, ()) == ["1.0", "2.0", "3.0", "4.0"]
    assert six.droppable(6, ()) == []
    assert six.droppable(6, (), coming="7.0") == ["1.0"]
    six.activate("1.0")
    assert six.droppable(2, ["3.0"]) == ["2.0", "4.0"]
    six.activate("2.0")
    # The one before is spared as well, however old, and also after a second, unchanged, run.
    six.activate("2.0")
    assert (six.previous(), six.droppable(1, ["3.0"])) == ("1.0", ["4.0", "5.0"])
    # After a switch to 6.0, the one before is 2.0.
    assert six.droppable(1, ["3.0"], live="6.0") == ["1.0", "4.0", "5.0"]


def test_drop_removes_one_version_and_never_the_live_one(six: VersionStore, root: Path) -> None:
    six.activate("2.0")
    six.drop("1.0")
    assert list(six.whole()) == ["2.0", "3.0", "4.0", "5.0", "6.0"]
    with pytest.raises(Refused, match="not dropped"):
        six.drop("2.0")
    with pytest.raises(NotFound):
        six.drop("1.0")
    assert sorted(os.listdir(root / "versions")) == ["2.0", "3.0", "4.0", "5.0", "6.0"]


DIE_DROPPING = f"""
import os, signal, sys
from {ROOM} import versions
owner = {{"os": os, "shutil": versions.shutil}}[sys.argv[1]]
real = getattr(owner, sys.argv[2])
def dying(*arguments, **options):
    if sys.argv[2] == "unlink":
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, sys.argv[2], dying)
versions.VersionStore(sys.argv[3]).drop("1.0")
"""


@pytest.mark.parametrize(("where", "name"), [("os", "rename"), ("os", "fsync"), ("os", "unlink"), ("shutil", "rmtree")])
def test_killed_drop_leaves_the_version_whole_or_gone(six: VersionStore, root: Path, where: str, name: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", DIE_DROPPING, where, name, str(root)],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    assert "1.0" not in [one["version"] for one in six.list()]
    assert list(six.whole()) == ["2.0", "3.0", "4.0", "5.0", "6.0"]
    six.drop("2.0")
    assert sorted(os.listdir(root / "versions")) == ["3.0", "4.0", "5.0", "6.0"]
