# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which queue systems there are. A new one is one line here; see ``api.py`` for what it has to do."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from .._errors import Refused
from .api import QueueBackend

# Imports stand inside functions so that a system's code is only loaded when it is used; written out, not by name,
# because Ansible reads the import statements to know which files to send to the host.


def _rq() -> Callable[[Mapping[str, Any]], QueueBackend]:
    from .rq import RqBackend

    return RqBackend


def _redis_list() -> Callable[[Mapping[str, Any]], QueueBackend]:
    from .redis_list import RedisListBackend

    return RedisListBackend


#: Value of the option ``backend`` -> what loads its class.
BACKENDS: dict[str, Callable[[], Callable[[Mapping[str, Any]], QueueBackend]]] = {
    "redis_list": _redis_list,
    "rq": _rq,
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
