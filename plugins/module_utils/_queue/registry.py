# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which queue systems there are. A new one is one line here; see ``api.py`` for what it has to do."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Protocol

from .._errors import Refused
from .api import Capabilities, QueueBackend


class Opener(Protocol):
    """A backend's class, or what chooses one by the broker's address."""

    def __call__(self, settings: Mapping[str, Any]) -> QueueBackend: ...

    def capabilities_for(self, url: str) -> Capabilities:
        """What it is able to do on the broker of ``url``. Connects to nothing."""


# Imports stand inside functions so that a system's code is only loaded when it is used; written out, not by name,
# because Ansible reads the import statements to know which files to send to the host.


def _bullmq() -> Opener:
    from .bullmq import BullmqBackend

    return BullmqBackend


def _celery() -> Opener:
    from .celery import open_celery

    return open_celery


def _dramatiq() -> Opener:
    from .dramatiq import open_dramatiq

    return open_dramatiq


def _nats() -> Opener:
    from .nats import NatsBackend

    return NatsBackend


def _rabbitmq() -> Opener:
    from .rabbitmq import RabbitmqBackend

    return RabbitmqBackend


def _rq() -> Opener:
    from .rq import RqBackend

    return RqBackend


def _redis_list() -> Opener:
    from .redis_list import RedisListBackend

    return RedisListBackend


def _redis_stream() -> Opener:
    from .redis_stream import RedisStreamBackend

    return RedisStreamBackend


def _procrastinate() -> Opener:
    from .procrastinate import ProcrastinateBackend

    return ProcrastinateBackend


def _sidekiq() -> Opener:
    from .sidekiq import SidekiqBackend

    return SidekiqBackend


#: Value of the option ``backend`` -> what loads its class.
BACKENDS: dict[str, Callable[[], Opener]] = {
    "bullmq": _bullmq,
    "celery": _celery,
    "dramatiq": _dramatiq,
    "nats": _nats,
    "procrastinate": _procrastinate,
    "rabbitmq": _rabbitmq,
    "redis_list": _redis_list,
    "redis_stream": _redis_stream,
    "rq": _rq,
    "sidekiq": _sidekiq,
}


def open_backend(name: str, settings: Mapping[str, Any]) -> QueueBackend:
    """The backend ``name``, ready to be asked.

    :param settings: the connection options (``url``, ``username``, ``password``, ``tls_ca``, ``tls_verify``, ``connect_timeout``)
        and the backend's own (``key_prefix``; ``processing``, ``failed_list``).
    :raises Refused: there is no such backend, or a setting is wrong.
    :raises MissingLibrary: the client library is not on this host.
    """
    if name not in BACKENDS:
        raise Refused(
            "There is no queue system named %s" % name,
            option="backend",
            next_step="Use one of %s" % ", ".join(sorted(BACKENDS)),
        )
    return BACKENDS[name]()(settings)


def capabilities_of(name: str, url: str = "") -> Capabilities:
    """What the queue system ``name`` declares, without connecting; some systems are able to do more on one broker than on another.

    :param url: the broker's address; only its scheme matters.
    :raises Refused: there is no such backend.
    """
    if name not in BACKENDS:
        raise Refused(
            "There is no queue system named %s" % name,
            option="backend",
            next_step="Use one of %s" % ", ".join(sorted(BACKENDS)),
        )
    return BACKENDS[name]().capabilities_for(url)
