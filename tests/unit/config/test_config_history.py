# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recording, finding and comparing snapshots."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._config import repository as room
from ansible_collections.queueops.fleet.plugins.module_utils._config.history import LIVE, ConfigHistory, DesiredFile
from ansible_collections.queueops.fleet.plugins.module_utils._config.options import history_of
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict, MissingLibrary, NotFound, Refused, Unavailable

from tests.unit.config.conftest import Picture, Place
from tests.unit.conftest import wait_for


def test_unchanged_is_not_recorded_again(place: Place) -> None:
    place.write("a.conf", "one\n")
    history = place.history()
    first, recorded = history.snapshot("first", 0)
    assert recorded
    assert (first.label, first.release, first.files) == ("first", 0, 1)
    assert len(first.id) == 40
    before = place.git("for-each-ref")
    again, recorded = history.snapshot("first", 0)
    assert not recorded
    assert again == first
    assert place.git("for-each-ref") == before
    os.utime(place.etc / "a.conf")
    assert place.history().snapshot() == (first, False)


@pytest.mark.parametrize("edit", ["content", "mode", "owner", "link", "empty folder", "gone"])
def test_every_sort_of_edit_is_a_new_snapshot(place: Place, edit: str) -> None:
    path = place.write("a.conf", "one\n")
    (place.etc / "link").symlink_to("a.conf")
    history = place.history()
    first = history.snapshot()[0]
    if edit == "content":
        path.write_text("two\n")
    elif edit == "mode":
        path.chmod(0o600)
    elif edit == "owner":
        os.chown(path, 12345, -1)
    elif edit == "link":
        (place.etc / "link").unlink()
        (place.etc / "link").symlink_to("elsewhere")
    elif edit == "empty folder":
        (place.etc / "empty").mkdir()
    else:
        path.unlink()
    second, recorded = history.snapshot()
    assert recorded
    assert second.id != first.id
    assert second.after == first.id
    assert [one.id for one in history.list()] == [first.id, second.id]
    assert len(history.diff(first, second)) == 1
    assert history.diff(first, LIVE) == history.diff(first, second)
    assert history.diff(second, LIVE) == []


def test_awkward_names_are_recorded_and_git_is_content(place: Place) -> None:
    names = [
        b"a b",
        b"new\nline",
        b'"quoted" \\ back',
        b"\xff\xfe",
        "ümlaut".encode(),
        b"tab\tret\r",
        b"%2Egit",
        b".GIT",
        b"git~1",
        b"-rf",
        b"x\\.git",
    ]
    names.append(".g\u200cit".encode())
    os.mkdir(place.etc / ".git")
    (place.etc / ".git" / "config").write_text("not ours\n")
    (place.etc / ".gitmodules").symlink_to("/nowhere")
    (place.etc / ".gitattributes").write_text("* text eol=crlf\n")
    for number, name in enumerate(names):
        with open(os.fsencode(place.etc) + b"/" + name, "wb") as stream:
            stream.write(b"%d\r\n" % number)
    history = place.history()
    snapshot = history.snapshot()[0]
    before = place.picture()
    for name in names:
        os.unlink(os.fsencode(place.etc) + b"/" + name)
    assert len(history.apply(snapshot)) == len(names)
    assert place.picture() == before
    assert place.git("fsck", "--strict", "--full") == ""
    json.loads(json.dumps([diff.as_ansible() for diff in history.diff(history.nothing(), snapshot)]))


def test_people_can_read_it_with_git(place: Place) -> None:
    place.write("sub/a.conf", "one\n")
    place.history().snapshot("first")
    place.write("sub/a.conf", "two\n")
    place.history().snapshot("second")
    assert place.git("show", f"HEAD~1:files{place.etc}/sub/a.conf") == "one\n"
    assert place.git("log", "--format=%s").split() == ["second", "first"]
    assert "+two" in place.git("diff", "HEAD~1", "HEAD")
    assert place.git("show", "labels/first:manifest.json") == place.git("show", "HEAD~1:manifest.json")


def test_the_history_is_private_and_apart(place: Place) -> None:
    place.write("a.conf", "one\n")
    before = place.picture(ctime=True)
    place.history().snapshot()
    assert place.picture(ctime=True) == before
    for folder, folders, files in os.walk(place.state):
        for name in [*folders, *files, "."]:
            assert stat.S_IMODE(os.lstat(os.path.join(folder, name)).st_mode) & 0o077 == 0, os.path.join(folder, name)


def test_the_hosts_git_settings_do_not_matter(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = b"a\r\nb\n$Id$\n"
    place.write("a.conf", content)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[core]\n\tautocrlf = true\n\tattributesFile = /nonexistent\n[init]\n\tdefaultObjectFormat = sha256\n[broken\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", "/nonexistent/index")
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", "/nonexistent")
    history = place.history()
    snapshot = history.snapshot()[0]
    (place.etc / "a.conf").write_bytes(b"other")
    history.apply(snapshot)
    assert (place.etc / "a.conf").read_bytes() == content
    assert not (tmp_path / "elsewhere").exists()


def test_no_git_is_a_missing_library(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingLibrary, match="git") as caught:
        place.history().check()
    assert "Install" in (caught.value.next_step or "")


def test_absence_exclusion_and_special_files(place: Place) -> None:
    place.write("a.conf", "one\n")
    place.write("x.pid", "1\n")
    place.write("cache/big", "x")
    os.mkfifo(place.etc / "pipe")
    extra = str(place.root / "extra.conf")
    history = place.history(str(place.etc), extra, exclude=["*.pid", "cache"])
    snapshot = history.snapshot()[0]
    assert sorted(history.entries(snapshot)) == [str(place.etc), str(place.etc / "a.conf")]
    place.write("x.pid", "2\n")
    assert history.snapshot() == (snapshot, False)
    Path(extra).write_text("came\n")
    (difference,) = history.apply(snapshot)
    assert difference.after_header == f"{extra} (absent)"
    assert not os.path.exists(extra)
    assert (place.etc / "x.pid").read_text() == "2\n"


def test_an_overlay_is_recorded_without_touching_anything(place: Place) -> None:
    place.write("a.conf", "one\n", 0o640)
    place.write("keep.conf", "kept\n")
    history = place.history()
    found = history.snapshot("as-found", 0)[0]
    before = place.picture(ctime=True)
    files = [
        DesiredFile(str(place.etc / "a.conf"), b"two\n"),
        DesiredFile(str(place.etc / "deep/er/b.conf"), b"new\n", 0o600, "daemon", "daemon"),
    ]
    foreseen, tree = history.diff(LIVE, files), history.tree_of(files)
    planned, recorded = history.snapshot("release-1", 1, overlay=files)
    assert (recorded, planned.tree, planned.planned) == (True, tree, True)
    assert history.snapshot("release-1", 1, overlay=files) == (planned, False)
    assert history.snapshot("as-found", 0) == (found, False)
    assert place.picture(ctime=True) == before
    assert history.holds(planned, files)
    assert not history.holds(found, files)
    assert history.apply(planned) == foreseen
    assert (place.etc / "a.conf").read_text() == "two\n"
    assert stat.S_IMODE((place.etc / "a.conf").stat().st_mode) == 0o640
    made = (place.etc / "deep/er/b.conf").stat()
    assert (stat.S_IMODE(made.st_mode), made.st_uid) == (0o600, 1)
    assert history.tree_of(files) == planned.tree
    assert history.snapshot() == (planned, False)
    assert history.resolve("previous").id == found.id


@pytest.mark.parametrize(
    ("dest", "owner", "says"),
    [
        ("/etc/passwd", None, "not within the watched paths"),
        ("{etc}/x.pid", None, "not within the watched paths"),
        ("{etc}/sub", None, "is a directory"),
        ("{etc}/a.conf/b", None, "is a file"),
        ("{etc}/b.conf", "nobody-of-that-name", "no user 'nobody-of-that-name'"),
    ],
)
def test_overlays_that_are_refused(place: Place, dest: str, owner: str | None, says: str) -> None:
    place.write("a.conf", "one\n")
    (place.etc / "sub").mkdir()
    with pytest.raises(Refused, match=says):
        place.history(exclude=["*.pid"]).snapshot(overlay=[DesiredFile(dest.format(etc=place.etc), b"", owner=owner)])
    assert place.history().list() == []


@pytest.mark.parametrize("size", [100, 200_000])
def test_a_file_that_keeps_changing_is_never_recorded(place: Place, size: int) -> None:
    """Of the large one git itself sees that it changes while it is read, of the small one it does not."""
    path = place.write("busy.conf", b"0" * size)
    stop = threading.Event()

    def keep_writing() -> None:
        turn = 0
        with open(path, "r+b", buffering=0) as stream:
            while not stop.is_set():
                turn += 1
                stream.seek(0)
                stream.write(b"%d" % (turn % 10) * size)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    stood_still = 0

    def refused() -> bool:
        """Whether a snapshot was refused; on a busy machine the writer may for once stand still during a whole one."""
        nonlocal stood_still
        before = len(place.history().list())
        try:
            place.history().snapshot()
        except Unavailable as error:
            assert "busy.conf" in str(error)
            assert len(place.history().list()) == before
            return True
        stood_still += 1
        return False

    try:
        wait_for(refused, what="a snapshot during which the file changed")
    finally:
        stop.set()
        writer.join()
    assert len(place.history().list()) <= stood_still
    assert place.history().snapshot()[0].files == 1


def test_labels(place: Place) -> None:
    path = place.write("a.conf", "one\n")
    history = place.history()
    first = history.snapshot("nightly")[0]
    same, changed = history.snapshot("by hand: 50%/ü")
    assert changed
    assert same.id == first.id
    assert history.resolve("by hand: 50%/ü").id == first.id
    path.write_text("two\n")
    second = history.snapshot("nightly")[0]
    assert history.resolve("nightly").id == second.id
    assert history.list()[0].labels == ("by hand: 50%/ü",)
    for label in ("previous", "live", "", " x", "a\nb", "ü" * 200):
        with pytest.raises(Refused) as caught:
            history.snapshot(label)
        assert caught.value.option == "label"
    assert len(history.list()) == 2


def test_finding_snapshots(place: Place) -> None:
    path = place.write("a.conf", "one\n")
    history = place.history()
    with pytest.raises(NotFound) as none_yet:
        history.resolve("first")
    assert "No snapshot was recorded yet" in none_yet.value.sentence()
    first = history.snapshot("first")[0]
    path.write_text("two\n")
    second = history.snapshot(first.id[:6])[0]
    assert history.resolve(first.id).id == first.id
    assert history.resolve(second.id[:8]).id == second.id
    assert history.resolve(first.id[:6]).id == second.id, "a label goes before an id"
    for ref in (first.id[:3], "no such", "0" * 40, "HEAD", "main", "../x"):
        with pytest.raises(NotFound) as caught:
            history.resolve(ref)
        assert caught.value.option == "to"
        assert first.id[:12] in caught.value.sentence()
        assert len(caught.value.details["known"]) == 2


def test_previous_walks_back_and_never_to_and_fro(place: Place) -> None:
    path = place.write("a.conf", "one\n")
    history = place.history()
    snapshots = [history.snapshot()[0]]
    for text in ("two\n", "three\n"):
        path.write_text(text)
        snapshots.append(history.snapshot()[0])
    for expected in ("two\n", "one\n"):
        history.apply(history.resolve("previous"))
        assert path.read_text() == expected
    with pytest.raises(NotFound, match="before the one that is live"):
        history.resolve("previous")
    path.write_text("four, from one\n")
    assert history.resolve("previous").id == snapshots[0].id, "edits that were not recorded: back to what was last live"
    fourth = history.snapshot()[0]
    assert fourth.after == snapshots[0].id
    assert history.resolve("previous").id == snapshots[0].id
    history.apply(snapshots[2])
    assert history.resolve("previous").id == snapshots[1].id
    history.apply(fourth)
    assert history.resolve("previous").id == snapshots[2].id, "forward: what was live before"


def test_what_was_live_at_a_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """By when it became live, not by when it was recorded."""
    path = place.write("a.conf", "one\n")
    noon = 1796040000  # 2026-11-30T12:00:00Z

    def at(hours: float) -> None:
        monkeypatch.setattr(time, "time", lambda: noon + hours * 3600)

    at(0)
    first = place.history().snapshot("first")[0]
    assert first.time == "2026-11-30T12:00:00Z"
    at(1)
    planned = place.history().snapshot("planned", overlay=[DesiredFile(str(path), b"two\n")])[0]
    at(2)
    place.history().apply(planned)
    at(3)
    place.history().apply(first)
    at(4)
    for ref, expected in [
        ("2026-11-30T12:00:00Z", first),
        ("2026-11-30T13:30Z", first),
        ("2026-11-30T14:00:00Z", planned),
        ("2026-11-30 15:59:59+01:00", planned),
        ("2026-11-30T15:00:00Z", first),
        ("90m ago", planned),
        ("3h ago", first),
        ("1h59m59s ago", planned),
        ("1s ago", first),
    ]:
        assert place.history().resolve(ref).id == expected.id, ref
    for ref in ("2026-11-30T11:59:59Z", "1d ago", "1w 2d 3h ago"):
        with pytest.raises(NotFound, match="Nothing was recorded yet") as caught:
            place.history().resolve(ref)
        assert first.id[:12] in caught.value.sentence()
    for ref, says in (("2026-11-30T12:00:00", "no time zone"), ("2026-13-30T12:00:00Z", "does not exist")):
        with pytest.raises(Refused, match=says):
            place.history().resolve(ref)
    for ref in ("ago", " ago", "yesterday", "5x ago"):
        with pytest.raises(NotFound, match="no snapshot"):
            place.history().resolve(ref)


def test_sensitive_content_is_in_no_diff(place: Place) -> None:
    place.write("secret.key", "hunter2\n")
    (place.etc / "secret.link").symlink_to("hunter2")
    history = place.history(sensitive=["*/secret*"])
    first = history.snapshot()[0]
    place.write("secret.key", "hunter3\n", 0o600)
    (place.etc / "secret.new").write_bytes(b"hunter4\0")
    # The next caller forgot the option: what was sensitive when it was recorded stays so.
    for one in (history, place.history()):
        text = json.dumps([diff.as_ansible() for diff in one.diff(first, LIVE) + one.diff(one.nothing(), first)])
        assert "sensitive: content not shown" in text
        assert "hunter" not in text
        assert "sha256" not in text
        assert "mode 0600" in text


def test_what_diffs_look_like(place: Place) -> None:
    place.write("text", "one\n")
    place.write("binary", b"\0\1")
    place.write("latin", b"\xe4\n")
    place.write("long", "x" * 200_000)
    place.write("mode", "same\n")
    history = place.history()
    first = history.snapshot()[0]
    place.write("text", "two\n")
    place.write("binary", b"\0\2")
    place.write("latin", b"\xf6\n")
    place.write("long", "y" * 200_000)
    place.write("mode", "same\n", 0o600)
    diffs = {Path(diff.path).name: diff for diff in history.diff(first, LIVE)}
    assert (diffs["text"].before, diffs["text"].after) == ("one\n", "two\n")
    assert diffs["text"].before_header == diffs["text"].after_header == str(place.etc / "text")
    assert diffs["binary"].before.startswith("binary, 2 bytes, sha256 b413f47d13ee2fe6")
    assert diffs["latin"].after.startswith("binary, 2 bytes, sha256 ")
    assert diffs["long"].after.startswith("text too long to show, 200000 bytes, sha256 ")
    assert diffs["mode"].before == "file, mode 0644, owner root, group root\n"
    assert diffs["mode"].after == "file, mode 0600, owner root, group root\n"


def test_check_mode_changes_nothing(place: Place, picture_of: Callable[..., Picture]) -> None:
    path = place.write("a.conf", "one\n")
    history = place.history()
    files = [DesiredFile(str(place.etc / "a.conf"), b"two\n")]

    def look_at_everything() -> None:
        history.snapshot("x", dry_run=True)
        history.snapshot("x", overlay=files, dry_run=True)
        history.tree_of(files)
        history.diff(LIVE, files)
        history.list()
        history.live()
        history.pending()
        history.recover()

    before = picture_of(place.root, ctime=True)
    look_at_everything()
    assert picture_of(place.root, ctime=True) == before
    assert not place.state.exists()
    assert history.snapshot("x", dry_run=True)[1] is True
    first = history.snapshot("x")[0]
    path.write_text("three\n")
    before = picture_of(place.root, ctime=True)
    look_at_everything()
    foreseen = history.apply(first, dry_run=True)
    history.diff(first, LIVE)
    assert picture_of(place.root, ctime=True) == before
    assert history.apply(first) == foreseen
    assert history.snapshot("x", dry_run=True) == (first, False) or history.snapshot("x", dry_run=True)[0].id == first.id


def test_by_fleet_name_and_recorded_paths(place: Place) -> None:
    place.write("a.conf", "one\n")
    ConfigHistory.open(str(place.state), "mailer", [str(place.etc)], ["*.pid"], ["*.key"]).snapshot("first")
    history = ConfigHistory.open(str(place.state), "mailer", exclude=["*.swp"])
    assert history.repo_dir == place.repo
    assert history.watch.to_json() == {"paths": [str(place.etc)], "exclude": ["*.pid", "*.swp"], "sensitive": ["*.key"]}
    for fleet, state_dir, option in (("../x", "/var", "fleet"), ("Mailer", "/var", "fleet"), ("mailer", "var", "state_dir")):
        with pytest.raises(Refused) as caught:
            ConfigHistory.open(state_dir, fleet)
        assert caught.value.option == option
    params = {"state_dir": str(place.state), "fleet": "mailer", "paths": ["relative"], "exclude": [], "sensitive": []}
    with pytest.raises(Refused, match="relative"):
        history_of(params)


def test_a_damaged_object_is_named_and_the_others_still_work(place: Place) -> None:
    path = place.write("a.conf", "one\n")
    history = place.history()
    first = history.snapshot()[0]
    path.write_text("two\n")
    second = history.snapshot()[0]
    path.write_text("three\n")
    history.snapshot()
    blob = history.entries(first)[str(path)].blob
    stored = Path(place.repo, "objects", blob[:2], blob[2:])
    good = stored.read_bytes()
    other = history.entries(second)[str(path)].blob
    # Rubbish, cut short, whole but of another file, and gone.
    for damage in (b"rubbish", good[:-4], Path(place.repo, "objects", other[:2], other[2:]).read_bytes(), None):
        stored.chmod(0o600)
        stored.write_bytes(damage) if damage is not None else stored.unlink()
        before = place.picture()
        with pytest.raises((Refused, Unavailable), match=blob):
            place.history().apply(first)
        assert place.picture() == before
    place.history().apply(second)
    assert path.read_text() == "two\n"


def test_a_held_history_is_a_conflict_and_stale_locks_are_not(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place.write("a.conf", "one\n")
    history = place.history()
    history.snapshot("first")
    for name in ("refs/heads/main.lock", "HEAD.lock", "refs/labels/first.lock", "queueops/index.tmp.lock"):
        Path(place.repo, name).touch()
    path.write_text("two\n")
    assert history.snapshot("first")[1]
    monkeypatch.setattr(room, "LOCK_SECONDS", 0.1)
    with open(Path(place.repo, "queueops", "lock"), "rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="Another process"):
            history.snapshot()
    assert not history.snapshot()[1]


def test_two_processes_record_one_snapshot(place: Place) -> None:
    place.write("a.conf", "one\n")
    code = (
        "import sys\n"
        "from ansible_collections.queueops.fleet.plugins.module_utils._config.history import ConfigHistory\n"
        "from ansible_collections.queueops.fleet.plugins.module_utils._config.watch import Watch\n"
        "print(ConfigHistory(sys.argv[1], Watch([sys.argv[2]])).snapshot()[1])\n"
    )
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    command = [sys.executable, "-c", code, place.repo, str(place.etc)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, env=env) for _run in range(4)]
    said = sorted(run.communicate()[0].decode().strip() for run in runs)
    assert said == ["False", "False", "False", "True"]
    assert len(place.history().list()) == 1
