# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that say where flags are kept, documented in the fragment ``flags``, and the stores that they name."""

from __future__ import annotations

from typing import Any, Mapping

from ._errors import MissingLibrary, Refused
from ._flags.change import Store
from ._flags.file_store import FileStore
from ._flags.redis_store import RedisStore
from ._queue.redis_connection import RedisConnection

FLAGS_SPEC: dict[str, Any] = {
    "fleet": {"type": "str", "required": True},
    "path": {"type": "path"},
    "redis_key": {"type": "str", "no_log": False},
    "url": {"type": "str"},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "tls_ca": {"type": "path"},
    "tls_verify": {"type": "bool", "default": True},
    "connect_timeout": {"type": "float", "default": 5.0},
    "sentinel_username": {"type": "str"},
    "sentinel_password": {"type": "str", "no_log": True},
}


def stores_of(params: Mapping[str, Any]) -> list[Store]:
    """The stores that a module's options name: the key, then the file.

    :raises Refused: none is named, an option is wrong, or the client library is missing.
    """
    if params["path"] is None and params["redis_key"] is None:
        raise Refused("It is not said where the flags are", option="path", next_step="Give path, redis_key or both")
    if (params["redis_key"] is None) != (params["url"] is None):
        raise Refused(
            "redis_key and url go together", option="url" if params["url"] is None else "redis_key", next_step="Give both or none"
        )
    stores: list[Store] = []
    if params["redis_key"] is not None:
        stores.append(RedisStore(_connection(params), params["redis_key"]))
    if params["path"] is not None:
        stores.append(FileStore(params["path"], params.get("owner"), params.get("group"), params.get("mode")))
    return stores


def _connection(params: Mapping[str, Any]) -> RedisConnection:
    try:
        return RedisConnection(params)
    except MissingLibrary as missing:
        # The queue modules' option is none of these modules'.
        missing.option = "redis_key"
        raise
