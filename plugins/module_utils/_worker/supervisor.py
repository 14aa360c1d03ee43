# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""supervisor: the processes of one program group, through supervisord's XML-RPC interface. Needs nothing but the standard library."""

from __future__ import annotations

import base64
import http.client
import re
import signal
import socket
import xmlrpc.client
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.parsers.expat import ExpatError

from .._errors import FleetError, NotFound, Refused, Unavailable
from . import guard
from .api import WorkerManager, WorkerProcess, WorkerSettings
from .process import running_version, started_at
from .waiting import polls

#: Where supervisord listens by Debian's configuration.
DEFAULT_ADDRESS = "unix:///run/supervisor.sock"
#: Seconds after which supervisord, which answers these calls at once, is not answering.
ANSWER_LIMIT = 20.0
#: Seconds in which workers that keep ending and starting have to be caught by a stop.
QUIET_LIMIT = 15.0
#: Seconds, told in whole ones, after which supervisord has surely had a turn; it takes one every second at least.
TURN = 3
#: Source: supervisor/states.py, ProcessStates.
STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL = 0, 10, 20, 30, 40, 100, 200
#: What the name of the group ends with that has the slots of a second version.
BESIDE = "_beside"
STATES = {STOPPED: "stopped", STARTING: "starting", RUNNING: "running", BACKOFF: "starting", STOPPING: "stopping", FATAL: "failed"}
#: Source: supervisor/xmlrpc.py, Faults.
SHUTDOWN_STATE, BAD_NAME, STILL_RUNNING, CANT_REREAD, SUCCESS, ALREADY_STARTED, NOT_RUNNING = 6, 10, 91, 92, 80, 60, 70


class Supervisor(WorkerManager):
    """Workers as the processes of one program group (a `[program:x]` is the group `x`, too)."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        self._server = _connect(settings)
        #: The program groups: of two versions side by side the second has one of its own.
        self._groups = [settings.unit] + ([settings.unit + BESIDE] if settings.side_by_side else [])

    def validate(self) -> None:
        settings = self.settings
        programs = self._programs()
        for group in self._groups:
            if not any(program["group"] == group for program in programs):
                raise self._no_group() if group == settings.unit else self._no_group_beside()
        for program in programs:
            if program["group"] != settings.unit and program["autostart"]:
                raise Refused(
                    f"The program {program['name']} of group {program['group']} has autostart=true, and so would run beside "
                    f"{settings.unit} after a reboot",
                    option="worker.side_by_side",
                    next_step="Set autostart=false in its section and run `supervisorctl update`",
                )
            # supervisord does not tell stopasgroup. It implies killasgroup, so without the one there is not the other.
            if program["killasgroup"] and settings.forks:
                raise Refused(
                    f"The program {program['name']} of group {program['group']} has killasgroup=true, and so may have stopasgroup=true, "
                    "which supervisord does not tell: its stop would send SIGTERM to the processes that execute tasks, too",
                    option="worker.unit",
                    next_step="Remove stopasgroup and killasgroup from its section "
                    "(or set worker.forks to false, if its workers execute in threads)",
                )
            # These are the figures read last, which a group takes over only when it is added anew; a running one's are not told.
            self._check_stop(float(program["stopwaitsecs"]), "stopwaitsecs", int(program["stopsignal"]))
        self._check_health_command()

    def workers(self) -> list[WorkerProcess]:
        rows = self._both_rows()
        return self._rows(*rows) if self.settings.side_by_side else rows[0]

    def _both_rows(self) -> tuple[list[WorkerProcess], list[WorkerProcess]]:
        found = self._processes()
        first = [self._worker(process) for process in found if process["group"] == self.settings.unit]
        return first, [self._worker(process) for process in found if process["group"] != self.settings.unit]

    def _programs(self) -> list[dict[str, Any]]:
        """What supervisord has read of the groups' configuration."""
        return [program for program in self._call("getAllConfigInfo") if program["group"] in self._groups]

    def guarded(self) -> bool:
        return guard.is_installed(self.settings.root) and not self._unchecked()

    def guard(self) -> None:
        guard.install(self.settings.root)
        self.check_guard()

    def check_guard(self) -> None:
        unchecked = self._unchecked()
        if unchecked:
            raise Refused(
                f"supervisor starts {unchecked[0]['name']} of group {unchecked[0]['group']} without the check of the quarantine",
                option="worker.unit",
                next_step=f"Put {guard.check_path(self.settings.root)} before its command (command={guard.check_path(self.settings.root)} "
                f"{unchecked[0]['command']}) and run `supervisorctl update`",
            )

    def _unchecked(self) -> list[dict[str, Any]]:
        """The programs whose command does not begin with the check."""
        check = guard.check_path(self.settings.root)
        return [program for program in self._programs() if not re.match(rf"(/bin/sh\s+)?{re.escape(check)}\s", program["command"])]

    def _signal(self, worker: WorkerProcess, number: signal.Signals) -> None:
        self._call("signalProcess", worker.name, number.name, tolerate=NOT_RUNNING)

    def _begin_stop(self) -> None:
        # A worker that ended by itself just now is not stopped by the call, and supervisord starts it again at its next turn.
        # So one that has ended counts as quiet when it has been so for longer than a turn takes.
        for _look in polls(QUIET_LIMIT, first=0.01, longest=0.2):
            processes = self._processes()
            if any(process["state"] in (STARTING, RUNNING, BACKOFF) for process in processes):
                for group in sorted({process["group"] for process in processes}):
                    self._stop_group(group)
            elif not any(process["state"] == EXITED and process["now"] - process["stop"] < TURN for process in processes):
                return
        raise FleetError(
            f"Workers of {self.settings.unit} start again as often as supervisor stops them",
            next_step="Look what else starts them, such as an event listener",
        )

    def _stop_group(self, group: str) -> None:
        for result in self._call("stopProcessGroup", group, False):
            # One that ended between the look and the stop is quiet as well.
            if result["status"] != SUCCESS and not self._ended(result["name"]):
                raise FleetError(
                    f"supervisor could not stop {group}:{result['name']}: {result['description']}",
                    next_step=f"See `{self.hint(group + ':' + result['name'])}`",
                )

    def reload(self) -> bool:
        [[added, changed, removed]] = self._call("reloadConfig")
        taken_in = [self._take_in(group, added, changed, removed) for group in self._groups]
        return any(taken_in)

    def _take_in(self, group: str, added: list[str], changed: list[str], removed: list[str]) -> bool:
        if group in removed:
            raise NotFound(
                f"The program group {group} is no longer in supervisor's configuration",
                option="worker.unit",
                next_step="Put its section back, or name the group that replaces it",
            )
        if group in changed:
            self._call("removeProcessGroup", group)
        if group in changed or group in added:
            # With autostart=true this starts the workers, too, at supervisord's next turn (measured with 4.3.0).
            self._call("addProcessGroup", group)
            return True
        return False

    def kill_limit(self) -> float:
        limits = [float(program["stopwaitsecs"]) for program in self._programs()]
        return min(limits) if limits else 0.0

    def hint(self, name: str) -> str:
        return f"supervisorctl tail {name} stderr"

    def _begin_start(self) -> None:
        self._started_row = 0
        self._start_group(self.settings.unit)

    def _begin_start_beside(self) -> None:
        self._start_group(self._groups[self._free_row(*self._both_rows())])

    def _start_group(self, group: str) -> None:
        for result in self._call("startProcessGroup", group, False):
            if result["status"] not in (SUCCESS, ALREADY_STARTED):
                name = f"{group}:{result['name']}"
                why = next((process["spawnerr"] for process in self._processes() if process["name"] == result["name"]), "")
                raise FleetError(
                    f"supervisor could not start {name}: {result['description']} {why}".rstrip(), next_step=f"See `{self.hint(name)}`"
                )

    def _processes(self) -> list[dict[str, Any]]:
        found = [process for process in self._call("getAllProcessInfo") if process["group"] in self._groups]
        if not found and not any(program["group"] == self.settings.unit for program in self._call("getAllConfigInfo")):
            raise self._no_group()
        return found

    def _ended(self, name: str) -> bool:
        return all(self._worker(process).ended for process in self._processes() if process["name"] == name)

    def _worker(self, process: dict[str, Any]) -> WorkerProcess:
        pid = int(process["pid"]) or None
        state = STATES.get(process["state"], "failed")
        if process["state"] == EXITED:
            state = "failed" if process["exitstatus"] else "stopped"
        version, unknown = running_version(pid, self.settings.root) if pid else (None, None)
        return WorkerProcess(
            name=f"{process['group']}:{process['name']}",
            pid=pid,
            state=state,
            since=started_at(pid) if pid else None,
            version=version,
            unknown=unknown,
        )

    def _no_group(self) -> NotFound:
        groups = sorted({str(program["group"]) for program in self._call("getAllConfigInfo")})
        return NotFound(
            f"supervisor at {_shown(_address(self.settings))} knows no program group {self.settings.unit!r}; "
            f"there are: {', '.join(groups) or 'none'}",
            option="worker.unit",
            next_step="Name one of these, or add the group and run `supervisorctl reread`",
        )

    def _no_group_beside(self) -> NotFound:
        group = self.settings.unit + BESIDE
        return NotFound(
            f"supervisor at {_shown(_address(self.settings))} knows no program group {group!r}, in which a second version would run",
            option="worker.side_by_side",
            next_step=f"Add a section like that of {self.settings.unit}, with autostart=false, and run `supervisorctl update`; "
            "or leave side_by_side out",
        )

    def _call(self, method: str, *arguments: Any, tolerate: int | None = None) -> Any:
        where = f"supervisor at {_shown(_address(self.settings))}"
        try:
            return getattr(self._server.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == tolerate:
                return None
            raise self._explained(where, method, fault) from None
        except xmlrpc.client.ProtocolError as error:
            if error.errcode in (401, 403):
                raise Refused(
                    f"{where} does not accept the user name and password",
                    option="worker.server_password",
                    next_step="Set worker.server_username and worker.server_password as in supervisord.conf",
                ) from None
            raise Unavailable(f"{where} answered {error.errcode} {error.errmsg}", option="worker.server") from None
        except PermissionError:
            raise Refused(
                f"No permission to open the socket of {where}",
                option="worker.server",
                next_step="Run with become, or as the socket's owner",
            ) from None
        except (OSError, http.client.HTTPException, ExpatError, xmlrpc.client.ResponseError) as error:
            raise Unavailable(
                f"{where} does not answer: {error}", option="worker.server", next_step="Look whether supervisord runs and listens there"
            ) from None

    def _explained(self, where: str, method: str, fault: xmlrpc.client.Fault) -> FleetError:
        group = self.settings.unit
        if fault.faultCode == BAD_NAME:
            return NotFound(f"{where} has no active program group {group!r}", option="worker.unit", next_step="Run `supervisorctl update`")
        if fault.faultCode == STILL_RUNNING:
            return Refused(f"The changed program group {group} still has running workers", next_step="Stop them first")
        if fault.faultCode == CANT_REREAD:
            return Refused(f"{where} cannot read its configuration: {fault.faultString}", next_step="Mend it; see `supervisorctl reread`")
        if fault.faultCode == SHUTDOWN_STATE:
            return Unavailable(f"{where} is shutting down")
        return FleetError(f"{where} refused {method} of {group}: {fault.faultString} ({fault.faultCode})")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_LIMIT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Transport(xmlrpc.client.Transport):
    """XML-RPC that gives up in time, speaks over a unix socket too, and sends the password in a header alone."""

    def __init__(self, path: str | None, username: str | None, password: str | None) -> None:
        super().__init__()
        self._path = path
        self._authorization: str | None = None
        if username:
            both = f"{username}:{password or ''}".encode()
            self._authorization = "Basic " + base64.b64encode(both).decode("ascii")

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        if self._path is not None:
            return _UnixConnection(self._path)
        return http.client.HTTPConnection(str(host), timeout=ANSWER_LIMIT)

    def send_headers(self, connection: http.client.HTTPConnection, headers: list[tuple[str, str]]) -> None:
        super().send_headers(connection, headers)
        if self._authorization:
            connection.putheader("Authorization", self._authorization)


def _address(settings: WorkerSettings) -> str:
    return settings.server or DEFAULT_ADDRESS


def _connect(settings: WorkerSettings) -> Any:
    """A lazy connection; nothing is contacted yet."""
    url = urlsplit(_address(settings))
    username = settings.server_username or (unquote(url.username) if url.username else None)
    if url.password:
        raise Refused(
            "The address of supervisor holds a password, which would be logged",
            option="worker.server",
            next_step="Give it as server_password",
        )
    if url.scheme == "unix" and url.path:
        path = unquote(url.path)
        return xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_Transport(path, username, settings.server_password))
    if url.scheme == "http" and url.hostname:
        address = f"http://{url.netloc.rpartition('@')[2]}/RPC2"
        return xmlrpc.client.ServerProxy(address, transport=_Transport(None, username, settings.server_password))
    raise Refused(
        f"{_shown(_address(settings))!r} is not an address of supervisor",
        option="worker.server",
        next_step="Give unix:///path/to/supervisor.sock or http://user@localhost:9001",
    )


def _shown(server: str) -> str:
    """The address without user name and password."""
    url = urlsplit(server)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
