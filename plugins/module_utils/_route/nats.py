# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes on NATS: subject mappings of the server, of which a file of this module's own is included in the server's configuration.

Producers publish to ``orders.<slot>.<whatever>``, where the slot, from 0 to 99, is a hash of the task's key: the weights of NATS are
thrown anew for each message, and what its own hash (``partition``) makes of a subject is not mapped again. Each slot is mapped to the
subjects of one version's stream, as ``orders.7.>`` to ``orders-2_0_0.7.>``. The server takes all of a changed file at once (reload).
What it routes is asked of its monitoring port, so that a file which it has not taken is seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any, Mapping
from urllib.parse import quote

from ansible.module_utils.urls import open_url

from .._errors import FleetError, HalfDone, MissingLibrary, Refused, Unavailable
from .._files import write_atomic
from .._queue.nats_connection import NatsConnection
from .._queue.nats_message import filters_of
from .route import Apart, Change, Route, Router
from .slots import SLOTS
from .version_names import named

_MADE = "# Made by queueops.fleet.queue_route, which refuses it when it is changed by hand. "
_TAKES_S = 10.0
_KEY = "subject"


class NatsRouter(Router):
    """The routes of the server on this host.

    :param settings: the options of the fragment ``queue``, for the streams.
    :param server: ``mappings``, ``config`` and ``pid_file`` (paths), ``monitor`` (url), ``account``, ``program``.
    """

    def __init__(self, settings: Mapping[str, Any], server: Mapping[str, Any]) -> None:
        self._settings = settings
        self._path, self._config = str(server["mappings"]), str(server["config"])
        self._pid_file, self._program = str(server["pid_file"]), str(server["program"])
        self._monitor, self._account = str(server["monitor"]).rstrip("/"), str(server["account"])

    # Looking

    def look(self, name: str) -> Route | None:
        told, live = self._file(name), self._live(name)
        if told is None or not live:
            if live:
                raise Refused(
                    "NATS maps %s already, and not by the file %s" % (_source(name, 0), self._path),
                    option="nats.mappings",
                    next_step="Take these mappings out of the server's configuration, or name the file in which this module made them",
                )
            return None
        version_of = {prefix: version for version, prefix in told["prefixes"].items()}
        owners = []
        for number in range(SLOTS):
            target = live.get(_source(name, number), "")
            version = version_of.get(target[: -len(".%d.>" % number)])
            if version is None:
                raise Refused(
                    "NATS maps %s to %s, which is no version's of route %s" % (_source(name, number), target or "nothing", name),
                    option="route",
                    next_step="Reload the server, so that it takes %s, and take out other mappings of these subjects" % self._path,
                )
            owners.append(version)
        return Route(name, _KEY, told["queues"], tuple(owners), told["rest"])

    def _file(self, name: str) -> dict[str, Any] | None:
        """What stands in our own file of this route; None: it is empty."""
        try:
            with open(self._path, encoding="utf-8") as stream:
                text = stream.read()
        except FileNotFoundError:
            raise Refused(
                "There is no file %s on this host" % self._path,
                option="nats.mappings",
                next_step="Make it, empty, and include it in the block mappings of the server's configuration",
            ) from None
        except (OSError, UnicodeDecodeError) as problem:
            raise Refused("%s cannot be read: %s" % (self._path, problem), option="nats.mappings") from problem
        if not text.strip():
            return None
        try:
            told: dict[str, Any] = json.loads(text.partition("\n")[0][len(_MADE) :])
            mine = told["route"] == name and text == _content(told)
        except (ValueError, KeyError, TypeError, IndexError):
            mine = False
        if not mine:
            raise Refused(
                "The file %s does not hold route %s as this module writes it" % (self._path, name),
                option="nats.mappings",
                next_step="Name another file, one for each route, or empty it",
            )
        return told

    def _live(self, name: str) -> dict[str, str]:
        """What the server maps of the route's subjects: source to target."""
        url = "%s/accountz?acc=%s" % (self._monitor, quote(self._account))
        try:
            found = json.loads(open_url(url, timeout=5.0, use_proxy=False).read())["account_detail"].get("mappings") or {}
        except (OSError, ValueError, KeyError, AttributeError) as problem:
            raise Unavailable(
                "NATS does not tell its mappings at %s: %s" % (url, getattr(problem, "reason", problem)),
                option="nats.monitor",
                next_step="Set http (its monitoring port) in the server's configuration, and its url and account in nats",
            ) from problem
        ours = {_source(name, number) for number in range(SLOTS)}
        return {source: str(targets[0]["subject"]) if targets else "" for source, targets in found.items() if source in ours}

    # Changing

    def preflight(self, name: str, key: str, change: Change) -> list[str]:
        if key != _KEY:
            raise Refused("NATS routes by the subject, not by %s" % key, option="key", next_step="Leave key out")
        self._prefixes(name, change)
        if change.removed:
            self._refuse_stranded(change)
        self._valid("Nothing was changed")
        with open(self._config, encoding="utf-8", errors="replace") as stream:
            if os.path.basename(self._path) not in stream.read():
                raise Refused(
                    "The server's configuration %s does not include %s" % (self._config, self._path),
                    option="nats.mappings",
                    next_step='Write mappings = { include "%s" } into it, in the account where the streams are, and reload it'
                    % os.path.relpath(self._path, os.path.dirname(self._config)),
                )
        return []

    def apply(self, name: str, key: str, change: Change) -> None:
        prefixes = self._prefixes(name, change)
        kept = dict(change.before.queues if change.before else {}, **change.added)
        for version in change.removed:
            del kept[version]
        told = {
            "route": name,
            "rest": change.rest or (change.before.rest if change.before else None),
            "queues": kept,
            "prefixes": {version: prefixes[version] for version in kept},
            "owners": list(change.owners),
        }
        with open(self._path, "rb") as stream:
            before = stream.read()
        write_atomic(self._path, _content(told).encode(), 0o644)
        try:
            self._valid("The file is as it was, and the server was not reloaded")
        except FleetError:
            write_atomic(self._path, before, 0o644)
            raise
        self._run("--signal", "reload=%s" % self._pid_file)
        wanted = {_source(name, number): _target(told, number) for number in range(SLOTS)}
        end = time.monotonic() + _TAKES_S
        while self._live(name) != wanted:
            if time.monotonic() > end:
                raise HalfDone(
                    "NATS was reloaded and does not route as %s says" % self._path,
                    option="nats.mappings",
                    still_true="Every task goes to one version, as before",
                    next_step="Look into the server's log, and see that the file is included in the mappings of account %s" % self._account,
                )
            time.sleep(0.05)

    def isolate(self, name: str, apart: Apart) -> None:
        raise _no_types(name)

    def join(self, name: str, apart: Apart) -> None:
        raise _no_types(name)

    def _valid(self, still_true: str) -> None:
        done = self._run("-t", "-c", self._config)
        if done.returncode:
            raise Refused(
                "The server's configuration %s is not valid: %s" % (self._config, (done.stderr or done.stdout).strip().split("\n")[-1]),
                option="nats.config",
                still_true=still_true,
            )

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run([self._program, *arguments], capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise MissingLibrary(
                "%s cannot be run on this host: %s" % (self._program, problem),
                option="nats.program",
                next_step="Run this on the host of the server, and name its program",
            ) from problem

    def _prefixes(self, name: str, change: Change) -> dict[str, str]:
        """The fixed part of each version's subjects.

        :raises Refused: there is no such stream or consumer, or it does not take exactly ``<prefix>.>``.
        """
        told = self._file(name) or {"prefixes": {}}
        found = dict(told["prefixes"])
        with NatsConnection(self._settings).session("look at the streams of the versions") as session:
            for version, queue in sorted(change.added.items()):
                stream, _slash, consumer = queue.partition("/")
                info = session.api_or_none("STREAM.INFO.%s" % stream)
                taken = session.api_or_none("CONSUMER.INFO.%s.%s" % (stream, consumer)) if info and consumer else None
                if info is None or taken is None:
                    raise Refused(
                        "Version %s is not known: NATS has no stream %s with a consumer %s" % (version, stream, consumer or "(none named)"),
                        option="weights",
                        next_step="Make both before its workers start; the option queue names them as <stream>/<consumer>",
                    )
                subjects = [one for one in filters_of(taken["config"]) if one != ">"] or list(info["config"].get("subjects") or ())
                if len(subjects) != 1 or not subjects[0].endswith(".>") or subjects[0] in (name + ".>", ">"):
                    raise Refused(
                        "The queue %s of version %s takes the subjects %s" % (queue, version, ", ".join(subjects) or "(none)"),
                        option="queue",
                        next_step="Give each version subjects of its own below one prefix, such as %s-%s.>"
                        % (name, named(version, "nats")),
                    )
                found[version] = subjects[0][:-2]
        return found

    def _refuse_stranded(self, change: Change) -> None:
        queues = change.before.queues if change.before else {}
        with NatsConnection(self._settings).session("look at the workers of the versions") as session:
            for version in change.removed:
                stream, _slash, consumer = queues[version].partition("/")
                info = session.api_or_none("CONSUMER.INFO.%s.%s" % (stream, consumer))
                if info and (info.get("num_waiting") or info.get("push_bound")):
                    raise Refused(
                        "Version %s cannot be removed: workers wait for tasks of its queue %s, and would be stranded"
                        % (version, queues[version]),
                        option="remove",
                        next_step="Stop the workers of version %s first" % version,
                    )


def _source(name: str, number: int) -> str:
    return "%s.%d.>" % (name, number)


def _target(told: Mapping[str, Any], number: int) -> str:
    return "%s.%d.>" % (told["prefixes"][told["owners"][number]], number)


def _content(told: Mapping[str, Any]) -> str:
    lines = ['"%s": "%s"' % (_source(told["route"], number), _target(told, number)) for number in range(SLOTS)]
    return "\n".join([_MADE + json.dumps(told, sort_keys=True), *lines, ""])


def _no_types(name: str) -> Refused:
    return Refused(
        "NATS cannot keep a task type of route %s apart" % name,
        option="route",
        next_step="Publish the type to a subject that no route takes, with a stream and a consumer of its own",
    )
