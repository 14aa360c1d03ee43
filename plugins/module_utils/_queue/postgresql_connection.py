# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connecting to PostgreSQL, and saying in an operator's words why it did not work."""

from __future__ import annotations

import os
import re
import socket
import ssl
import sys
from contextlib import contextmanager
from typing import Any, Iterator, Mapping

from .._errors import FleetError, MissingLibrary, Refused, Unavailable
from .addresses import masked

SCHEMES = ("postgresql://", "postgres://")
#: Where distributions keep the CAs that they trust, beside where Python looks.
SYSTEM_CAS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
#: No file can be there. Where libpq finds a CA's file, it checks the certificate against it even if told not to.
NO_FILE = "/dev/null/none"
#: A server that is gone without a word is noticed after about this long (s), not after hours.
SILENCE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25000}


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

# SQLSTATE (or its class), or for what has none marks in the text; our error, what to say, the option at fault, what to do. The first
# that fits. What repeats a part of the url may repeat a part of the password, and is not shown.
_EXPLAINED: tuple[tuple[tuple[str, ...], tuple[str, ...], type[FleetError], str, str | None, str], ...] = (
    (
        (),
        ("percent-encoded", "invalid integer value", "invalid port number", "Servname not supported"),
        Refused,
        "its address cannot be read",
        "url",
        "Write %, /, @ and : in user name and password as %25, %2F, %40 and %3A, or give them in username and password",
    ),
    (
        ("28",),
        ("authentication failed", "no password supplied", "no pg_hba.conf entry", 'role "'),
        Refused,
        "the server wants another user name or password (%s)",
        "password",
        "Set username and password to what the server expects, and check that it lets this host in, with or without TLS",
    ),
    (("3D",), ('database "',), Refused, "there is no such database (%s)", "url", "Check the database's name in url"),
    (
        ("57P03",),
        ("is starting up", "accepting connections"),
        Unavailable,
        "the server is still starting",
        "url",
        "Wait until it is started and run again",
    ),
    (
        ("25006",),
        ("session is read-only", "session is not read-only"),
        Refused,
        "this server takes no writes (%s)",
        "url",
        "Give the primary's address in url",
    ),
    (("42501",), (), Refused, "the database's user may not do this (%s)", "username", "Grant it, or use another user"),
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
    (("53",), ("too many clients",), Unavailable, "the server lacks memory, disk or connections (%s)", None, "Free some and run again"),
    (
        ("55P03",),
        (),
        Unavailable,
        "somebody else holds a lock (%s)",
        None,
        "Wait for its end (a migration?), see pg_locks, and run again under the same run",
    ),
    (("57014",), (), Unavailable, "the server did not answer in time", "connect_timeout", _CHECK),
    (("22", "08P01"), ("invalid dsn", "invalid connection option", "invalid URI", "missing"), Refused, "%s", "url", "Check url"),
)


class PostgresqlConnection:
    """Connections to one database, and how to speak about it.

    :ivar where: the url without its password.
    :ivar timeout: seconds to wait for a connection, an answer, or somebody else's lock.
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
        self.timeout = float(settings.get("connect_timeout") or 5.0)
        options: dict[str, Any] = {"connect_timeout": max(1, int(self.timeout)), "application_name": "queueops.fleet"}
        for name, option in (("username", "user"), ("password", "password")):
            if settings.get(name):
                options[option] = settings[name]
        options.update({name: value for name, value in SILENCE.items() if name + "=" not in url})
        options.update(self._tls(settings))
        self._options = options
        self._kept: Any = None

    def _tls(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """What libpq is told of TLS. Without a word of it, in options or url, it uses TLS where the server offers it, unchecked."""
        ca = settings.get("tls_ca")
        if ca and not os.path.isfile(ca):
            raise Refused(
                "There is no file %s on %s" % (ca, socket.gethostname()),
                option="tls_ca",
                next_step="Name the file with the CA that signed the server's certificate, as it is on that host",
            )
        asked = re.search(r"[?&]sslmode=([a-z-]+)", self._url)
        mode = asked.group(1) if asked else ""
        if settings.get("tls_verify") is False:
            return {"sslmode": mode if mode in ("disable", "allow", "prefer") else "require", "sslrootcert": NO_FILE}
        if ca:
            return {"sslmode": "verify-full", "sslrootcert": str(ca)}
        if mode in ("require", "verify-ca", "verify-full") and "sslrootcert=" not in self._url:
            return {"sslmode": "verify-full", "sslrootcert": _system_cas()}
        return {}

    @contextmanager
    def transaction(self, doing: str, write: bool = False, timeout: float | None = None) -> Iterator[Any]:
        """A cursor in a transaction of its own, with every error turned into one that says what to do.

        :param doing: what is done, for the message.
        :param timeout: seconds after which the server gives up on a statement.
        """
        # Below the statement's own, so that it is known what was waited for.
        local = {"lock_timeout": "%dms" % (self.timeout * 800)}
        if timeout is not None:
            local["statement_timeout"] = "%dms" % (timeout * 1000)
        try:
            connection = self._connection()
            with connection.transaction(), connection.cursor() as cursor:
                if not write:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                for name, value in local.items():
                    cursor.execute("SELECT set_config(%s, %s, true)", (name, value))
                if self._schema:
                    cursor.execute("SELECT set_config('search_path', quote_ident(%s), true)", (str(self._schema),))
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
        # The details of an error may show a row, and with it a task's arguments.
        told = getattr(getattr(problem, "diag", None), "message_primary", None) or str(problem)
        text = masked(re.sub(r"\s+", " ", told).strip())
        state = str(getattr(problem, "sqlstate", None) or "")
        here = "Could not %s at %s" % (doing, self.where)
        for states, marks, error, what, option, next_step in _EXPLAINED:
            if state.startswith(states) if state and states else not state and any(mark in text for mark in marks):
                return error("%s: %s" % (here, what % text if "%s" in what else what), option=option, next_step=next_step)
        return Unavailable("%s: %s" % (here, text), option="url", next_step=_CHECK)

    def require_writable(self, doing: str) -> None:
        """Refuse before the first change if no server of the url takes writes; of several, the one that does is gone on with."""
        for others in ("," in self._url.partition("?")[0] and "target_session_attrs=" not in self._url, False):
            with self.transaction(doing) as cursor:
                cursor.execute("SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')")
                replica, read_only = cursor.fetchone()
            if not replica and read_only != "on":
                return
            if not others:
                break
            self.close()
            self._options["target_session_attrs"] = "read-write"
        raise Refused(
            "Could not %s at %s: this is a read-only %s" % (doing, self.where, "replica" if replica else "database"),
            option="url",
            next_step="Give the primary's address in url",
        )


def _system_cas() -> str:
    """The file with the CAs that this host trusts."""
    for path in (ssl.get_default_verify_paths().cafile, *SYSTEM_CAS):
        if path and os.path.isfile(path):
            return path
    raise Refused(
        "No file with the CAs that %s trusts was found" % socket.gethostname(),
        option="tls_ca",
        next_step="Name the file with the CA that signed the server's certificate, or set tls_verify=false",
    )
