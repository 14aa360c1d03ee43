# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a redrive, a pause or a drain in a child process that kills itself (SIGKILL) before or after its n-th call to the broker.

``count_steps`` tells how many calls an undisturbed run makes, so that a test can kill it at each::

    for step in range(1, count_steps(system, job) + 1):
        ...fresh tasks...
        run_killed(system, job, step, "before")
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.queueops.fleet.plugins.module_utils._queue import drain, redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import PauseRequest, RedriveRequest

from tests.contract.system import System

#: A child that takes longer is killed, and the test fails (s).
LIMIT_S = 120

#: The channel on which tasks are taken and published on RabbitMQ: it writes the frames itself.
_LINK = "ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_link:Link."

#: Where a run may die: calls that change something outside of the process, or wait for it. Those that are not installed are left out.
STEPS = (
    "redis.client:Redis.execute_command",
    "redis.client:Pipeline.execute",
    _LINK + "consume",
    _LINK + "cancel",
    _LINK + "receive",
    _LINK + "commit",
    "amqp.channel:Channel.queue_declare",
    "amqp.channel:Channel.basic_get",
    "amqp.channel:Channel.basic_reject",
    "amqp.channel:Channel.basic_publish",
    "nats.aio.client:Client.publish",
    "nats.aio.client:Client.request",
    "nats.aio.client:Client.flush",
    "psycopg:Cursor.execute",
    "psycopg:Transaction.__exit__",
    "os:fsync",
)


@dataclass
class Job:
    """What the child does: ``redrive`` by ``request``, ``pause`` or ``resume`` or ``drain`` of its queue.

    :ivar batch: tasks in one act on the server, so that a few tasks make several.
    :ivar settings: options of the backend beside those of the system.
    """

    request: RedriveRequest
    what: str = "redrive"
    batch: int | None = None
    settings: dict[str, Any] | None = None


@dataclass
class Done:
    """How the child ended: killed, or with the number of its calls, what it returned, and the error's sentence and details."""

    killed: bool
    calls: int = 0
    result: Any = None
    error: str | None = None
    next_step: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


def count_steps(system: System, job: Job) -> int:
    """How many calls an undisturbed run makes. It does what ``job`` says."""
    done = run(system, job)
    assert done.error is None, done.error
    return done.calls


def run_killed(system: System, job: Job, step: int, when: str = "before") -> None:
    """Run ``job`` and kill it ``before`` or ``after`` the call number ``step`` (from 1).

    One that asks again until somebody has answered may come to its end with fewer calls this time.
    """
    done = run(system, job, step, when)
    assert done.killed or (done.error is None and done.calls < step), "it ended by itself after %d calls, at step %d" % (done.calls, step)


def run(system: System, job: Job, step: int = 0, when: str = "before", meanwhile: Callable[[int], None] | None = None) -> Done:
    """Run ``job`` in a child; step 0: undisturbed. Its result is a report as a dict. ``meanwhile`` is called here with its pid.

    The child is forked, for a fresh interpreter would take longer than all that it has to do.
    """
    source, sink = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(source)
            told = _do(system, job, Counter(step, when))
            with open(sink, "w") as answer:
                json.dump(told, answer)
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            # Nothing of the parent's is closed or written twice.
            os._exit(status)
    os.close(sink)
    with open(source) as answer:
        late = threading.Timer(LIMIT_S, os.kill, (pid, signal.SIGKILL))
        late.start()
        try:
            if meanwhile is not None:
                meanwhile(pid)
            text = answer.read()
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        finally:
            _pid, status = os.waitpid(pid, 0)
            in_time = late.is_alive()
            late.cancel()
    assert in_time, "the child did not end within %d s" % LIMIT_S
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Done(killed=True)
    assert status == 0, "the child failed, see its error output"
    return Done(killed=False, **json.loads(text))


class Counter:
    """Wraps the steps; kills this process at the chosen call."""

    def __init__(self, step: int, when: str) -> None:
        self.calls = 0
        self._step = step
        self._when = when
        self._depth = 0

    def _at(self, when: str, call: int) -> None:
        if call == self._step and when == self._when:
            os.kill(os.getpid(), signal.SIGKILL)

    def begin(self) -> int:
        """The number of this call; 0 for one made within another, as a pipeline's own."""
        self._depth += 1
        if self._depth > 1:
            return 0
        self.calls += 1
        self._at("before", self.calls)
        return self.calls

    def wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def later(*arguments: Any, **options: Any) -> Any:
                call = self.begin()
                self._depth -= 1  # Other calls run while this one waits.
                try:
                    return await original(*arguments, **options)
                finally:
                    self._at("after", call)

            return later

        @functools.wraps(original)
        def counted(*arguments: Any, **options: Any) -> Any:
            call = self.begin()
            try:
                return original(*arguments, **options)
            finally:
                # Also after one that the broker answers by an error, as for a script that it does not have yet.
                self._depth -= 1
                self._at("after", call)

        return counted

    def install(self, steps: tuple[str, ...]) -> None:
        for step in steps:
            module_name, _colon, path = step.partition(":")
            try:
                owner: Any = importlib.import_module(module_name)
            except ImportError:
                continue
            *parents, name = path.split(".")
            for parent in parents:
                owner = getattr(owner, parent)
            setattr(owner, name, self.wrap(getattr(owner, name)))


def _do(system: System, job: Job, counter: Counter) -> dict[str, Any]:
    backend = system.open(**(job.settings or {}))
    counter.install(STEPS)
    if job.batch:
        small_batches(backend, job.batch)
    queue = job.request.queue
    result: Any = None
    try:
        if job.what == "redrive":
            result = asdict(redrive.redrive(backend, job.request))
        elif job.what == "pause":
            result = asdict(backend.pause([queue], PauseRequest("tests", "killed")))
        elif job.what == "resume":
            result = asdict(backend.resume([queue], "tests"))
        else:
            result = drain.watch(backend, [queue], False, 2.0).as_dict()
    except FleetError as problem:
        return {"calls": counter.calls, "error": problem.sentence(), "next_step": problem.next_step, "details": problem.details}
    return {"calls": counter.calls, "result": result}


def small_batches(backend: Any, batch: int) -> None:
    """Let every store of ``backend`` act on at most ``batch`` tasks at once."""
    original = backend.open_store

    def opened(*arguments: Any, **options: Any) -> Any:
        store = original(*arguments, **options)
        store.batch = batch
        return store

    backend.open_store = opened
