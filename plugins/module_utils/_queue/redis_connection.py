# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connecting to Redis or Valkey, and saying in an operator's words why it did not work."""

from __future__ import annotations

import os
import re
import socket
import sys
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Mapping, Sequence
from urllib.parse import unquote

from .._errors import FleetError, MissingLibrary, Refused, Unavailable
from .addresses import masked

SCHEMES = ("redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://")

#: The default port of Redis Sentinel.
SENTINEL_PORT = 26379

#: Share of its memory from which a server that evicts keys is not redriven on.
FULL = 0.9


def load_redis() -> Any:
    """The client library.

    :raises MissingLibrary: it is not installed for the interpreter that runs this.
    """
    try:
        import redis
    except ImportError:
        raise MissingLibrary(
            "Host %s lacks the Python library redis (4.3 or newer), with which Redis is asked, for the interpreter %s"
            % (socket.gethostname(), sys.executable),
            option="backend",
            next_step="Install it with `apt install python3-redis` (Debian, Ubuntu) or `%s -m pip install redis`,"
            " or run this task on a host that has it (delegate_to, ansible_python_interpreter)" % sys.executable,
        ) from None
    return redis


_CHECK = "Check url, and that the broker is up and reachable from %s" % socket.gethostname()

# The client's exceptions, marks in the server's text, our error, what to say, the option at fault, what to do. The first that fits.
_EXPLAINED: tuple[tuple[tuple[str, ...], tuple[str, ...], type[FleetError], str, str | None, str], ...] = (
    (("BusyLoadingError",), ("LOADING",), Unavailable, "Redis is still loading its data", "url", "Wait until it is loaded and run again"),
    (
        ("AuthenticationError", "AuthenticationWrongNumberOfArgsError"),
        ("WRONGPASS", "NOAUTH", "invalid username", "invalid password"),
        Refused,
        "the broker wants another user name or password (%s)",
        "password",
        "Set username and password to what the broker expects",
    ),
    (("ReadOnlyError",), ("READONLY",), Refused, "this is a read-only replica", "url", "Give the primary's address in url"),
    (
        (),
        ("No master found",),
        Unavailable,
        "the sentinels know no primary of that name that is up (%s)",
        "url",
        "Check the name and the sentinels in url, and that a primary is up",
    ),
    (
        ("MovedError", "AskError", "ClusterDownError", "ClusterCrossSlotError"),
        ("CROSSSLOT", "CLUSTERDOWN", "MOVED "),
        Refused,
        "this is a Redis Cluster, and the keys of one queue are spread over its servers",
        "url",
        "Use a single Redis or Valkey, or one behind Redis Sentinel (redis+sentinel://)",
    ),
    ((), ("NOREPLICAS",), Unavailable, "too few replicas are connected for a write", None, "Mend the replicas and run again"),
    (
        (),
        ("user executing the script", "ACL failure in script"),
        Refused,
        "the broker's user may not do all of this, and of the batch that broke off some tasks may be in both places (%s)",
        "username",
        "Grant it, or use another user, and run again",
    ),
    (("NoPermissionError",), ("NOPERM",), Refused, "the broker's user may not do this (%s)", "username", "Grant it, or use another user"),
    (
        (),
        ("certificate", "SSL"),
        Refused,
        "TLS failed (%s)",
        "tls_ca",
        "Give the CA that signed the broker's certificate in tls_ca, and check that this port speaks TLS",
    ),
    (("TimeoutError",), (), Unavailable, "no answer in time", "url", _CHECK),
    (("ConnectionError",), (), Unavailable, "%s", "url", _CHECK),
    (
        (),
        ("WRONGTYPE",),
        Refused,
        "a key is not of the kind that this queue system uses",
        "backend",
        "Check backend, url and the database number",
    ),
    (
        (),
        ("OOM ", "'maxmemory'", "MISCONF"),
        Unavailable,
        "Redis refuses writes (%s)",
        None,
        "Free memory or disk on the broker and run again",
    ),
    ((), ("DB index is out of range",), Refused, "there is no such database number", "url", "Check the database number in url"),
)


class RedisConnection:
    """One connection and how to speak about it.

    :ivar client: the redis-py client. It never retries: a command that may have been done must not be done twice.
    :ivar where: the url without its password.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.redis = load_redis()
        self._scripts: dict[str, Any] = {}
        url = str(settings.get("url") or "")
        self.where = masked(url)
        if not url.startswith(SCHEMES):
            raise Refused(
                "The broker's address %s is not understood" % (self.where or "is missing and an empty one"),
                option="url",
                next_step="Give url as redis://host:6379/0, rediss://host:6380/0, unix:///path/to.sock?db=0"
                " or redis+sentinel://host1:26379,host2:26379/primary/0",
            )
        timeout = float(settings.get("connect_timeout") or 5.0)
        options: dict[str, Any] = {"socket_timeout": timeout, "retry": self.redis.retry.Retry(self.redis.backoff.NoBackoff(), 0)}
        if not url.startswith("unix://"):
            options["socket_connect_timeout"] = timeout
        for name in ("username", "password"):
            if settings.get(name):
                options[name] = settings[name]
        options.update(self._tls(url, settings))
        try:
            self.client = (
                self._behind_sentinels(url, options, settings) if "+sentinel://" in url else self.redis.Redis.from_url(url, **options)
            )
        except (ValueError, TypeError, self.redis.exceptions.RedisError) as problem:
            raise Refused("The broker's address %s is not understood: %s" % (self.where, problem), option="url") from problem

    def _behind_sentinels(self, url: str, options: dict[str, Any], settings: Mapping[str, Any]) -> Any:
        """A client of whatever server the sentinels name as the primary at the moment.

        :raises ValueError: ``url`` is not ``redis+sentinel://[user[:password]@]host[:port],.../primary[/database]``.
        """
        place, _slash, path = url.partition("://")[2].partition("?")[0].partition("/")
        login, _at, hosts = place.rpartition("@")
        user, _colon, password = login.partition(":")
        for name, value in (("username", user), ("password", password)):
            if value:
                options.setdefault(name, unquote(value))
        primary, _slash, database = path.partition("/")
        if not primary:
            raise ValueError("it does not name the primary, as in redis+sentinel://host:26379/primary/0")
        addresses = []
        for host in hosts.split(","):
            found = re.match(r"^(\[[^]]+\]|[^:\[\]]+)(?::(\d+))?$", host.strip())
            if not found:
                raise ValueError("%r is not the address of a sentinel" % host)
            addresses.append((found.group(1).strip("[]"), int(found.group(2) or SENTINEL_PORT)))
        if url.startswith("rediss"):
            options["ssl"] = True
        own = {name: value for name, value in options.items() if name not in ("username", "password")}
        for name in ("username", "password"):
            if settings.get("sentinel_" + name):
                own[name] = settings["sentinel_" + name]
        return self.redis.sentinel.Sentinel(addresses, sentinel_kwargs=own, **options).master_for(unquote(primary), db=int(database or 0))

    def _tls(self, url: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        ca = settings.get("tls_ca")
        if not url.startswith("rediss"):
            if ca:
                raise Refused(
                    "tls_ca is given, but %s does not use TLS" % self.where,
                    option="tls_ca",
                    next_step="Write url with rediss://, or leave tls_ca out",
                )
            return {}
        if ca and not os.path.isfile(ca):
            raise Refused(
                "There is no file %s on %s" % (ca, socket.gethostname()),
                option="tls_ca",
                next_step="Name the file with the CA that signed the broker's certificate, as it is on that host",
            )
        options: dict[str, Any] = {"ssl_ca_certs": ca} if ca else {}
        options["ssl_check_hostname"] = settings.get("tls_verify") is not False
        if not options["ssl_check_hostname"]:
            options["ssl_cert_reqs"] = "none"
        return options

    @contextmanager
    def asking(self, doing: str) -> Iterator[Any]:
        """The client, with every Redis error turned into one that says what to do. ``doing`` is what was asked, for the message."""
        try:
            yield self.client
        except self.redis.exceptions.RedisError as problem:
            raise self.explain(problem, doing) from problem
        except OSError as problem:
            # What the library does not turn into its own error, such as a CA file that holds no certificate.
            option = "tls_ca" if self.where.startswith("rediss") else "url"
            raise Refused("Could not %s at %s: %s" % (doing, self.where, problem), option=option, next_step=_CHECK) from problem

    def explain(self, problem: Exception, doing: str) -> FleetError:
        """The error of our tree that says what ``problem`` means for the operator."""
        text = masked(" ".join(str(problem).split()))
        here = "Could not %s at %s" % (doing, self.where)
        for kinds, marks, error, what, option, next_step in _EXPLAINED:
            known = isinstance(problem, tuple(getattr(self.redis.exceptions, kind) for kind in kinds))
            if known or any(mark in text for mark in marks):
                return error("%s: %s" % (here, what % text if "%s" in what else what), option=option, next_step=next_step)
        return Unavailable("%s: %s" % (here, text), option="url", next_step=_CHECK)

    def run(self, doing: str, script: str, keys: Sequence[str] = (), arguments: Sequence[Any] = ()) -> Any:
        """What a script answers that runs inside the server. ``doing`` as in :meth:`asking`."""
        with self.asking(doing) as client:
            if script not in self._scripts:
                self._scripts[script] = client.register_script(script)
            return self._scripts[script](keys=keys, args=arguments)

    def neighbours(self) -> list[dict[str, Any]]:
        """The broker's connections that use this database; who uses another one may bear the same names.

        :raises redis.exceptions.ResponseError: they may not be listed.
        """
        database = str(self.client.connection_pool.connection_kwargs.get("db") or 0)
        return [entry for entry in self.client.client_list() if str(entry.get("db")) == database]

    def together(self, client: Any, ask: Callable[[Any], None]) -> list[Any]:
        """The answers to what ``ask`` queues on a pipeline, in one transaction, so that they belong to one moment.

        A server that is out of memory refuses transactions, even to read: then without, for that is when one most needs to look.
        """
        for transaction in (True, False):
            pipe = client.pipeline(transaction=transaction)
            ask(pipe)
            if not len(pipe):
                break
            try:
                return list(pipe.execute())
            except self.redis.exceptions.ResponseError as problem:
                if not transaction or not any(mark in str(problem) for mark in ("OOM", "maxmemory", "EXECABORT")):
                    raise
        return []

    def require_writable(self, doing: str, expiring: bool = False) -> list[str]:
        """Refuse before the first change if this server does not take writes, is a cluster, or is about to evict what is written.

        :param expiring: the tasks' keys expire, so that a server which evicts only such keys may evict them.
        :returns: what the operator should know, one sentence each.
        """
        with self.asking(doing) as client:
            try:
                told = client.info()
            except self.redis.exceptions.NoPermissionError:
                return []  # Not allowed to ask: the first write will tell.
        here = "Could not %s at %s" % (doing, self.where)
        if told.get("role") == "slave":
            raise Refused("%s: this is a read-only replica" % here, option="url", next_step="Give the primary's address in url")
        if told.get("cluster_enabled"):
            raise self.explain(self.redis.exceptions.ResponseError("CROSSSLOT"), doing)
        policy, most = str(told.get("maxmemory_policy")), int(told.get("maxmemory") or 0)
        which = {"allkeys": "any key", "volatile": "keys that expire" if expiring else None}.get(policy.partition("-")[0])
        if which is None or not most:
            return []
        evicts = "the server evicts %s when its memory is full (maxmemory-policy %s)" % (which, policy)
        used = int(told.get("used_memory") or 0)
        if used >= FULL * most:
            raise Refused(
                "%s: %s, and %d of %d bytes are used" % (here, evicts, used, most),
                option="url",
                next_step="Set maxmemory-policy to noeviction, or free memory, and run again",
            )
        return ["%s%s: tasks can be lost at any time; set it to noeviction" % (evicts[0].upper(), evicts[1:])]
