# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the contract tests need of a queue system: a real server, real workers, and what the system's own API says of itself."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import QueueBackend
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend


class Server(ABC):
    """One real server of one version, private to this test run (own folder, own port or socket on loopback)."""

    #: As in the ids of the tests: redis7, redis8, valkey8, rabbitmq3, rabbitmq4, nats, postgresql15, postgresql17.
    kind: str
    #: What a client connects to.
    url: str
    #: States in which it takes no orders (starting, read_only, replica, out_of_memory), and what an operator is told of each.
    troubles: Mapping[str, str] = {}

    def in_trouble(self, name: str) -> AbstractContextManager[None]:
        """Bring it into one of :attr:`troubles`, and out of it again; its data stays."""
        raise NotImplementedError  # a server with troubles has to override this

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it in order; its data stays, for :meth:`start`."""

    def persist(self) -> None:
        """See that what it holds, and what it acknowledges from now on, outlives :meth:`kill`. Default: it always does."""
        return

    def kill(self) -> None:
        """SIGKILL it with all that belongs to it, for :meth:`start`."""
        raise NotImplementedError  # a server that is killed in a test has to override this

    def settle(self, count: int) -> None:
        """Wait until it has read what it had written, which is at least ``count`` tasks. Default: it has when it answers."""
        return

    @abstractmethod
    def clear(self) -> None:
        """Make it as empty as it was at first, quickly: before each test."""


class Worker(ABC):
    """One real worker process of the system."""

    pid: int

    @abstractmethod
    def stop(self) -> None:
        """Stop it in order (finish what it has) and wait."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL it with everything that it forked, and wait."""


class System(ABC):
    """A queue system under test. Task ids are text, as the backend reports them.

    Tasks come in four kinds: ``note`` writes its id as one line to :attr:`ledger` (O_APPEND); ``hold`` does so once
    the file :attr:`gate` exists (until then it is executing); ``fail`` always raises ``ValueError("no good")``; ``flaky`` fails
    while the file :attr:`broken` exists, and else is a ``note``.
    """

    #: As in the option ``backend``.
    backend: str
    #: Which servers it is run against.
    servers: tuple[str, ...]
    #: Whether it can tell a queue that does not exist from an empty one.
    tells_missing = True
    #: Queue names as an application may choose them; narrow it where the system itself refuses some.
    odd_names: tuple[str, ...] = ("grüße 邮件", "two words", "a*b", "a/b")
    #: Options of the backend with which it finds what :meth:`put` makes abandoned.
    abandoned_settings: Mapping[str, Any] = {}
    #: Abilities of the backend that it lacks with queues such as these.
    lacks: frozenset[str] = frozenset()
    #: What the recorded error of a task of kind ``fail`` matches.
    error = "no good"
    #: How many tasks the tests under load use: fewer in the sample.
    many = 1000 if os.environ.get("QUEUEOPS_EVERY_STEP") else 300

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.ledger = folder / "ledger"
        self.gate = folder / "gate"
        self.broken = folder / "broken"

    def settings(self) -> dict[str, Any]:
        """The connection options for our modules."""
        return {"url": self.server.url}

    def wrong_login(self) -> dict[str, Any]:
        """Connection options that the broker refuses; the password is ``wrong-pw-9``."""
        return dict(self.settings(), username="nobody", password="wrong-pw-9")

    def open(self, **more: Any) -> QueueBackend:
        """The backend under test."""
        return open_backend(self.backend, dict(self.settings(), **more))

    @abstractmethod
    def declare(self, queue: str) -> None:
        """Make the queue known, empty (with what it needs for its failed tasks), as an application would."""

    @abstractmethod
    def publish(self, queue: str, count: int, kind: str = "note") -> list[str]:
        """Publish by the system's own producer; the ids, in order."""

    @abstractmethod
    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        """Tasks that have failed for good, put there as the system's worker would (its own code where possible); the ids, oldest first."""

    def fail_many(self, queue: str, count: int) -> list[str]:
        """As :meth:`fail`, and quick for 100,000: one fails by the system's own code, and what it left is copied under other ids."""
        return self.fail(queue, count)

    @abstractmethod
    def record(self, queue: str, task: str) -> Any:
        """All that the broker holds of a failed task, its id written as ``ID`` and without its times: to compare a copy with a real one."""

    def put(self, source: str, queue: str, count: int) -> list[str]:
        """Tasks in one of the backend's sources from which tasks move; none: that source is another name of ``failed``."""
        if source == "dead_lettered":
            return []
        raise NotImplementedError("it has the source %s, and the tests cannot fill it" % source)

    @abstractmethod
    def plant(self, queue: str, data: bytes) -> bytes:
        """A failed task with this payload, or with it in a text where payloads are JSON; the bytes as the broker holds them."""

    @abstractmethod
    def holding(self, queue: str, data: bytes) -> int:
        """In how many tasks of the queue, wherever they are, the broker holds these bytes."""

    def arrived(self, queue: str) -> int:
        """How many tasks are queued at this moment, told by the broker in one quick call."""
        return self.native(queue)["queued"]

    @abstractmethod
    def start_worker(self, queue: str, version: str = "1.0.0") -> Worker:
        """A real worker process that takes from ``queue``, one task at a time; returns when it is known to the broker."""

    @abstractmethod
    def native(self, queue: str) -> dict[str, int]:
        """What the system's own API says: ``queued``, ``executing``, ``failed``, as far as it can tell (absent otherwise)."""

    @abstractmethod
    def identities(self, queue: str) -> list[str]:
        """The ids of all tasks that are queued, failed, parked or executing for ``queue``, duplicates kept, read for the test alone."""

    @abstractmethod
    def dump(self) -> Any:
        """Everything on the server that a look must not change, comparable with ``==``."""

    def done(self) -> list[str]:
        """The ids of the completed tasks, in order, duplicates kept."""
        return self.ledger.read_text().split("\n")[:-1] if self.ledger.exists() else []

    @abstractmethod
    def close(self) -> None:
        """Kill every worker that is left. Called after each test."""
