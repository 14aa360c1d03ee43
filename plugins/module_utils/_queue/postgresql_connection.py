# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connecting to PostgreSQL, and saying in an operator's words why it did not work."""

from __future__ import annotations

import os
import re
import socket
import sys
from contextlib import contextmanager
from typing import Any, Iterator, Mapping

from .._errors import FleetError, MissingLibrary, Refused, Unavailable
from .addresses import masked

SCHEMES = ("postgresql://", "postgres://")


def load_psycopg() -> Any:
    """The client library.

    :raises MissingLibrary: it is not installed for the interpreter that runs this.
    """
    try:
        import psycopg
    except ImportError:
        raise MissingLibrary(
            "Host %s lacks the Python library psycopg (3), with which the database is asked, for the interpreter %s"
            % (socket.gethostname(), sys.executable),
            option="backend",
            next_step="Install it with `apt install python3-psycopg` (Debian, Ubuntu) or `%s -m pip install 'psycopg[binary]'`,"
            " or run this task on a host that has it (delegate_to, ansible_python_interpreter)" % sys.executable,
        ) from None
    return psycopg


_CHECK = "Check url, and that the server is up and reachable from %s" % socket.gethostname()

# SQLSTATE (or its class) and marks in the text, our error, what to say, the option at fault, what to do. The first that fits.
_EXPLAINED: tuple[tuple[tuple[str, ...], tuple[str, ...], type[FleetError], str, str | None, str], ...] = (
    (
        ("28",),
        ("authentication failed", "no password supplied", "no pg_hba.conf entry", 'role "'),
        Refused,
        "the server wants another user name or password (%s)",
        "password",
        "Set username and password to what the server expects",
    ),
    (("3D",), ('database "',), Refused, "there is no such database (%s)", "url", "Check the database's name in url"),
    (("57P03",), ("is starting up",), Unavailable, "the server is still starting", "url", "Wait until it is started and run again"),
    (("25006",), ("read-only transaction",), Refused, "this server takes no writes (%s)", "url", "Give the primary's address in url"),
    (("42501",), ("permission denied",), Refused, "the database's user may not do this (%s)", "username", "Grant it, or use another user"),
    (
        ("42P01", "42704", "42883", "3F000", "42703"),
        (),
        Refused,
        "Procrastinate's tables are not as expected there (%s)",
        "schema",
        "Check url and schema, and apply Procrastinate's migrations",
    ),
    (
        (),
        ("certificate", "SSL"),
        Refused,
        "TLS failed (%s)",
        "tls_ca",
        "Give the CA that signed the server's certificate in tls_ca, and check that this port speaks TLS",
    ),
    (("53",), (), Unavailable, "the server lacks memory, disk or connections (%s)", None, "Free some and run again"),
    (("57014",), (), Unavailable, "the server did not answer in time", "connect_timeout", _CHECK),
    (("22", "08P01"), ("invalid dsn", "invalid connection option", "invalid URI", "missing"), Refused, "%s", "url", "Check url"),
)


class PostgresqlConnection:
    """Connections to one database, and how to speak about it.

    :ivar where: the url without its password.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.psycopg = load_psycopg()
        url = str(settings.get("url") or "")
        self.where = masked(url)
        if not url.startswith(SCHEMES):
            raise Refused(
                "The database's address %s is not understood" % (self.where or "is missing and an empty one"),
                option="url",
                next_step="Give url as postgresql://host:5432/database, several hosts with commas between them",
            )
        self._url = url
        self._schema = settings.get("schema")
        self._timeout = float(settings.get("connect_timeout") or 5.0)
        options: dict[str, Any] = {"connect_timeout": max(1, int(self._timeout)), "application_name": "queueops.fleet"}
        for name, option in (("username", "user"), ("password", "password")):
            if settings.get(name):
                options[option] = settings[name]
        options.update(self._tls(settings))
        self._options = options
        self._kept: Any = None

    def _tls(self, settings: Mapping[str, Any]) -> dict[str, str]:
        ca = settings.get("tls_ca")
        if not ca:
            return {"sslmode": "require"} if settings.get("tls_verify") is False and "sslmode=" not in self._url else {}
        if not os.path.isfile(ca):
            raise Refused(
                "There is no file %s on %s" % (ca, socket.gethostname()),
                option="tls_ca",
                next_step="Name the file with the CA that signed the server's certificate, as it is on that host",
            )
        return {"sslrootcert": str(ca), "sslmode": "require" if settings.get("tls_verify") is False else "verify-full"}

    @contextmanager
    def transaction(self, doing: str, write: bool = False, timeout: float | None = None) -> Iterator[Any]:
        """A cursor in a transaction of its own, with every error turned into one that says what to do.

        :param doing: what is done, for the message.
        :param timeout: seconds after which the server gives up on a statement.
        """
        try:
            connection = self._connection()
            with connection.transaction(), connection.cursor() as cursor:
                if not write:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                if self._schema:
                    cursor.execute("SELECT set_config('search_path', quote_ident(%s), true)", (str(self._schema),))
                if timeout is not None:
                    cursor.execute("SELECT set_config('statement_timeout', %s, true)", ("%dms" % (timeout * 1000),))
                yield cursor
        except self.psycopg.Error as problem:
            if self._kept is not None and self._kept.closed:
                self._kept = None
            raise self.explain(problem, doing) from problem

    def _connection(self) -> Any:
        if self._kept is None:
            # Nothing is prepared on the server, because the next transaction may go to another one (PgBouncer).
            self._kept = self.psycopg.connect(self._url, autocommit=True, prepare_threshold=None, **self._options)
        return self._kept

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def explain(self, problem: Exception, doing: str) -> FleetError:
        """The error of our tree that says what ``problem`` means for the operator."""
        text = masked(re.sub(r"\s+", " ", str(problem)).strip())
        state = str(getattr(problem, "sqlstate", None) or "")
        here = "Could not %s at %s" % (doing, self.where)
        for states, marks, error, what, option, next_step in _EXPLAINED:
            if (state and state.startswith(states)) or any(mark in text for mark in marks):
                return error("%s: %s" % (here, what % text if "%s" in what else what), option=option, next_step=next_step)
        return Unavailable("%s: %s" % (here, text), option="url", next_step=_CHECK)

    def require_writable(self, doing: str) -> None:
        """Refuse before the first change if this server does not take writes."""
        with self.transaction(doing) as cursor:
            cursor.execute("SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')")
            replica, read_only = cursor.fetchone()
        if replica or read_only == "on":
            raise Refused(
                "Could not %s at %s: this is a read-only %s" % (doing, self.where, "replica" if replica else "database"),
                option="url",
                next_step="Give the primary's address in url",
            )
