# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""500 tasks that only version 2 can read among 5,000, with real RQ workers: told before, not seen by version 1, and run once in the end."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import os
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import rq

from tests.unit.conftest import RedisServer, wait_for
from tests.unit.playbooks.conftest import Fleet, must, new_fleet
from tests.unit.queue.conftest import Broker

NOTES, LETTERS = 4500, 500

TASKS = """
import os

def note(ledger, number):
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, ("%s\\n" % number).encode())
    os.close(descriptor)
"""

# What version 2 brings: a task, and the class of its argument.
TASKS_2 = """
def letter(ledger, sheet):
    note(ledger, "letter-%s" % sheet.number)
"""
LETTERS_2 = """
class Sheet:
    def __init__(self, number):
        self.number = number
"""

# Version 2 is stuck as long as the host is held: it takes no task, which is why it is rolled back.
WORKER = """
import os, signal, sys, time
import redis, rq
import tasks
stuck = []
signal.signal(signal.SIGTERM, lambda *_: stuck.append(1))
while %(version)r == "2.0.0" and os.path.exists(os.environ["HOLD"]):
    if stuck:
        sys.exit(0)
    time.sleep(0.02)
connection = redis.Redis.from_url(%(url)r)
name = "mailer@%(version)s:%%s:%%d" %% (os.path.basename(os.path.dirname(os.environ["HOLD"])), os.getpid())
rq.SimpleWorker([rq.Queue("mail", connection=connection)], name=name, connection=connection).work(logging_level="ERROR")
"""


def archive(path: Path, files: dict[str, str]) -> str:
    """Pack a version; returns its checksum."""
    with gzip.GzipFile(path, "wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as made:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            made.addfile(entry, io.BytesIO(text.encode()))
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    """Real RQ workers of two versions; those of the second are stuck."""
    with new_fleet(redis_server) as made:
        versions = {"1.0.0": {"tasks.py": TASKS}, "2.0.0": {"tasks.py": TASKS + TASKS_2, "letters.py": LETTERS_2}}
        for version, files in versions.items():
            worker = WORKER % {"version": version, "url": redis_server.url}
            for host in made.hosts.values():
                packed = {"worker.py": worker, "VERSION": version, **files}
                made.specification["artifact"]["checksums"][version] = archive(host.artifacts / f"mailer-{version}.tar.gz", packed)
        made.specification["rules"] = [{"name": "letters", "match": {"task": "tasks.letter"}, "unreadable_by": ["1.*"]}]
        for host in made.hosts.values():
            (host.folder / "hold").touch()
        try:
            yield made
        finally:
            for host in made.hosts.values():
                (host.folder / "hold").unlink(missing_ok=True)


@pytest.fixture
def published(fleet: Fleet, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """A broker with whom letters can be published, as a producer does that knows version 2."""
    (tmp_path / "letters.py").write_text(LETTERS_2)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "letters", raising=False)
    return Broker(redis_server, tmp_path)


def publish(broker: Broker, notes: int, letters: int) -> None:
    """Mixed, so that every tenth task is a letter."""
    sheet = importlib.import_module("letters").Sheet
    tasks = [rq.Queue.prepare_data("tasks.note", args=(broker.ledger, f"note-{number}")) for number in range(notes)]
    for number in range(letters):
        data = rq.Queue.prepare_data("tasks.letter", args=(broker.ledger, sheet(number)))
        tasks.insert(number * (notes // letters + 1) if letters else 0, data)
    broker.queue().enqueue_many(tasks)


def done(broker: Broker, kind: str) -> Counter[str]:
    return Counter(line for line in broker.noted() if line.startswith(kind))


@pytest.mark.sampled
def test_what_version_1_cannot_read_waits_for_version_2(fleet: Fleet, published: Broker) -> None:
    broker = published
    must(fleet.run("deploy", version="1.0.0"))
    must(fleet.run("deploy", version="2.0.0"))
    publish(broker, NOTES, LETTERS)
    assert broker.queue().count == NOTES + LETTERS

    plan = fleet.run("plan")
    assert plan.returncode == 2, plan.stdout
    assert "mail: 500 of its 5000 queued tasks cannot be read by version 1.0.0: parked by rule letters" in " ".join(plan.stdout.split())

    must(fleet.run("rollback"))
    wait_for(lambda: sum(done(broker, "note").values()) >= NOTES, limit=60, what="the end of all notes")
    assert set(done(broker, "note").values()) == {1} and len(done(broker, "note")) == NOTES
    assert broker.queue().failed_job_registry.count == 0, "no decoding error"
    assert (broker.queue().count, broker.client.zcard("queueops:parked:rq:mail")) == (0, LETTERS)
    assert not done(broker, "letter")

    for host in fleet.hosts.values():
        os.unlink(host.folder / "hold")
    must(fleet.run("deploy", version="2.0.0"))
    wait_for(lambda: sum(done(broker, "letter").values()) >= LETTERS, limit=60, what="the end of all letters")
    must(fleet.run("deploy", version="2.0.0"))
    assert set(done(broker, "letter").values()) == {1} and len(done(broker, "letter")) == LETTERS
    assert (broker.queue().count, broker.client.zcard("queueops:parked:rq:mail"), broker.queue().failed_job_registry.count) == (0, 0, 0)


def test_without_a_rule_version_1_fails_at_them(fleet: Fleet, published: Broker) -> None:
    """What the rule is for: else the test above would show nothing."""
    must(fleet.run("deploy", version="1.0.0"))
    publish(published, 9, 1)
    wait_for(lambda: published.queue().failed_job_registry.count, what="the error of version 1")
    wait_for(lambda: len(done(published, "note")) == 9, what="the end of the others")
