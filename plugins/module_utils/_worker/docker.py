# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docker: the containers that carry a fleet's label, one an instance, through Docker Engine. The version of one is its image."""

from __future__ import annotations

import calendar
import contextlib
import signal
import time
from dataclasses import replace
from typing import Any

from .._errors import FleetError, NotFound, Refused
from . import guard
from .api import WorkerManager, WorkerProcess, WorkerSettings
from .artifact_image import require_image, tag_of
from .docker_definition import (
    DEFINITION,
    GUARD,
    INSTANCE,
    POLICY,
    UNIT,
    VERSION,
    Definition,
    read_definition,
)
from .docker_engine import library, open_engine
from .process import VERSION_VARIABLE, pid_inside, tree
from .versions import VersionStore
from .waiting import polls

#: State.Status -> state of a worker. Source: Docker Engine's API, ContainerState.
STATES = {
    "created": "stopped",
    "running": "running",
    "paused": "running",
    "restarting": "starting",
    "removing": "stopped",
    "exited": "failed",
    "dead": "failed",
}
#: Seconds that a container may be between running and ended.
ENDING_LIMIT = 10.0


class Docker(WorkerManager):
    """Workers as containers. Each start makes new ones of the version that the link `current` names; ended ones stay to be studied."""

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        if not settings.definition:
            raise Refused(
                "The manager docker needs the file with the container's definition",
                option="worker.definition",
                next_step="Name a file with the body of a container, as Docker Engine's API takes it",
            )
        self._store = VersionStore(settings.root)

    def validate(self) -> None:
        definition = self._definition()
        with self._engine() as engine:
            engine.ping()
        self._check_stop(definition.stop_timeout, "StopTimeout", definition.stop_signal)
        self._check_health_command()

    def workers(self) -> list[WorkerProcess]:
        found = self._containers()
        chosen = self._chosen(found)
        current = self._store.current()
        versions = self._versions_by_image()
        shown = []
        for number in range(1, self.settings.instances + 1):
            if number in chosen:
                shown.append(self._worker(chosen[number], versions, extra=False))
            else:
                shown.append(WorkerProcess(self._name(current or "none", number), None, "stopped"))
        of_the_fleet = {container["Id"] for container in chosen.values()}
        others = [self._worker(one, versions, extra=True) for one in found if one["Id"] not in of_the_fleet]
        is_leaving = self.settings.side_by_side
        return shown + [
            replace(worker, extra=False, leaving=True) if is_leaving and worker.state == "stopping" else worker
            for worker in others
            if not worker.ended
        ]

    def reload(self) -> bool:
        # A start makes containers anew, by the definition as it is then.
        digest = self._definition().digest
        return any(_labels(one).get(DEFINITION) != digest for one in self._chosen(self._containers()).values())

    def kill_limit(self) -> float:
        return self._definition().stop_timeout

    def hint(self, name: str) -> str:
        return f"docker logs --tail 50 {name}"

    def guarded(self) -> bool:
        return guard.is_installed(self.settings.root) and not self._unchecked()

    def guard(self) -> None:
        guard.install(self.settings.root)
        self.check_guard()

    def check_guard(self) -> None:
        unchecked = self._unchecked()
        if unchecked:
            raise Refused(
                f"{', '.join(unchecked)} would start without the check of the quarantine",
                option="worker.unit",
                still_true="No container was changed",
                next_step=f"Remove it, or let this collection make it; take the label {GUARD}=none out of {self.settings.definition}",
            )

    def _unchecked(self) -> list[str]:
        """The definition and the containers that do not run the check when they start."""
        unchecked = [str(one["Name"]).lstrip("/") for one in self._containers() if _labels(one).get(GUARD) != "check"]
        return ([] if self._definition().checks else [str(self.settings.definition)]) + unchecked

    def _signal(self, worker: WorkerProcess, number: signal.Signals) -> None:
        with self._engine() as engine:
            self._kill(engine, worker.name, number.name)

    def _end(self, worker: WorkerProcess) -> None:
        # With the first process of a container all others end.
        self._signal(worker, signal.SIGKILL)

    def seen_as(self, worker: WorkerProcess) -> dict[str, Any]:
        hostname = next(
            (str(one["Config"].get("Hostname") or "") for one in self._containers() if str(one["Name"]).lstrip("/") == worker.name), ""
        )
        return {"hostname": hostname, "pids": [pid_inside(pid) for pid in tree(worker.pid)] if worker.pid else []}

    def _begin_stop(self) -> None:
        number = self._definition().stop_signal
        with self._engine() as engine:
            for container in self._containers():
                status = self._stay_ended(engine, container["Id"])
                if status == "restarting":
                    # Between two attempts there is no process to signal, and the next one is called off by this alone.
                    engine.api.stop(container["Id"], timeout=int(self.settings.drain_timeout))
                elif status:
                    if status == "paused":
                        engine.api.unpause(container["Id"])
                    self._kill(engine, container["Id"], signal.Signals(number).name)

    def _stay_ended(self, engine: Any, container: str) -> str | None:
        """See that neither the container's end nor a restart of the engine brings it back; its status, or None if it has ended."""
        errors = library().errors
        refused = None
        for _look in polls(ENDING_LIMIT):
            try:
                found = engine.api.inspect_container(container)
                if not _is_live(found):
                    return None
                engine.api.update_container(container, restart_policy={"Name": "no", "MaximumRetryCount": 0})
                return str(found["State"]["Status"])
            except errors.NotFound:
                return None
            except errors.APIError as error:
                # It is ending just now: then the engine refuses, and it may still be started again.
                refused = error
        raise refused or FleetError(f"{container} cannot be kept from starting again")

    def _kill(self, engine: Any, container: str, name: str) -> None:
        try:
            engine.api.kill(container, signal=name)
        except library().errors.APIError as error:
            # 404: removed; 409: it has just ended.
            if error.status_code not in (404, 409):
                raise

    def _begin_start(self) -> None:
        definition = self._definition()
        version = self._store.current()
        if version is None:
            raise NotFound(
                f"{self.settings.root}/current names no version to start", option="version", next_step="Switch to a version first"
            )
        guard.refuse_quarantined(self.settings.root, version)
        guard.install(self.settings.root)
        with self._engine() as engine:
            image = require_image(engine, self._image_of(version), version)
            serving = {number for number, one in self._chosen(self._containers()).items() if _serves(one)}
            for number in range(1, self.settings.instances + 1):
                if number not in serving:
                    self._make(engine, definition, image, version, number)

    def _begin_start_beside(self) -> None:
        # A container's name has its version in it, so that there is always room.
        self._begin_start()

    def _make(self, engine: Any, definition: Definition, image: Any, version: str, number: int) -> None:
        errors = library().errors
        name = self._name(version, number)
        with contextlib.suppress(errors.NotFound):
            # Not by force: one that runs is never removed.
            engine.api.remove_container(name, v=True)
        tag = ":".join(tag_of(self._store.name, version))
        body = definition.body(image, version, number, self.settings.root, tag)
        try:
            made = engine.api.create_container_from_config(body, name)
            engine.api.start(made["Id"])
        except errors.APIError as error:
            raise FleetError(
                f"Docker could not start {name}: {error.explanation or error}", next_step=f"See `docker inspect {name}`"
            ) from None

    def _definition(self) -> Definition:
        return read_definition(str(self.settings.definition), self.settings.unit)

    def _engine(self) -> Any:
        return open_engine(self.settings.server)

    def _containers(self) -> list[dict[str, Any]]:
        """All containers with the fleet's label, newest first."""
        found = []
        with self._engine() as engine:
            for listed in engine.api.containers(all=True, filters={"label": f"{UNIT}={self.settings.unit}"}):
                try:
                    found.append(engine.api.inspect_container(listed["Id"]))
                except library().errors.NotFound:
                    # Removed since it was listed.
                    continue
        return sorted(found, key=lambda one: str(one["Created"]), reverse=True)

    def _chosen(self, containers: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """The container of each instance: the one that takes tasks, else the newest."""
        chosen: dict[int, dict[str, Any]] = {}
        for container in containers:
            number = _labels(container).get(INSTANCE, "")
            if not number.isdigit() or not 1 <= int(number) <= self.settings.instances:
                continue
            if int(number) not in chosen or (_serves(container) and not _serves(chosen[int(number)])):
                chosen[int(number)] = container
        return chosen

    def _name(self, version: str, number: int) -> str:
        # A container's name has no plus sign.
        return f"{self.settings.unit}-{version.replace('+', '_')}-{number}"

    def _image_of(self, version: str) -> str:
        marker = self._store.marker(version) or {}
        if not marker.get("image"):
            raise Refused(
                f"Version {version} is of the kind {marker.get('kind', 'tar')}, and no container image",
                option="artifact",
                next_step="Prepare it with an artifact image:REFERENCE or image:/path/to.tar",
            )
        return str(marker["image"])

    def _versions_by_image(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for version in self._store.whole():
            image = (self._store.marker(version) or {}).get("image")
            if image:
                found.setdefault(str(image), set()).add(version)
        return found

    def _worker(self, container: dict[str, Any], versions: dict[str, set[str]], extra: bool) -> WorkerProcess:
        state = container["State"]
        pid = int(state.get("Pid") or 0) or None
        version, unknown = _version(container, versions) if pid else (None, None)
        return WorkerProcess(
            name=str(container["Name"]).lstrip("/"),
            pid=pid,
            state=_state(container),
            since=_seconds(state["StartedAt"]) if pid else None,
            version=version,
            unknown=unknown,
            extra=extra,
        )


def _labels(container: dict[str, Any]) -> dict[str, str]:
    return container["Config"].get("Labels") or {}


def _is_live(container: dict[str, Any]) -> bool:
    return container["State"]["Status"] in ("running", "paused", "restarting")


def _serves(container: dict[str, Any]) -> bool:
    return _is_live(container) and _state(container) != "stopping"


def _state(container: dict[str, Any]) -> str:
    state = container["State"]
    policy = container["HostConfig"]["RestartPolicy"]["Name"] or "no"
    was_told_to_stop = policy == "no" and _labels(container).get(POLICY, "no") != "no"
    if state["Status"] in ("running", "paused") and was_told_to_stop:
        return "stopping"
    if state["Status"] == "running" and (state.get("Health") or {}).get("Status") in ("starting", "unhealthy"):
        return "starting"
    if state["Status"] == "created" and state.get("Error"):
        return "failed"
    if state["Status"] == "exited" and (state["ExitCode"] == 0 or (was_told_to_stop and state["ExitCode"] in (130, 143))):
        return "stopped"
    return STATES.get(state["Status"], "failed")


def _version(container: dict[str, Any], versions: dict[str, set[str]]) -> tuple[str | None, str | None]:
    """The version that a live container runs, by its image; by what it was told only where the image does not tell."""
    labels = _labels(container)
    told = labels.get(VERSION)
    prepared = versions.get(container["Image"], set())
    if told in prepared or len(prepared) == 1:
        return (told if told in prepared else next(iter(prepared))), None
    # The labels of its image are the container's as well.
    claims = [labels.get("org.opencontainers.image.version"), told]
    claims += [entry.partition("=")[2] for entry in container["Config"].get("Env") or [] if entry.startswith(VERSION_VARIABLE + "=")]
    found = next((claim for claim in claims if claim), None)
    if found:
        return found, None
    return None, f"its image {container['Image']} is no version that was prepared here, and has no label org.opencontainers.image.version"


def _seconds(stamp: str) -> float | None:
    """Seconds since 1970 of a time as Docker writes it, in UTC."""
    try:
        return float(calendar.timegm(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S"))) + float("0" + stamp[19:].rstrip("Z") or 0)
    except ValueError:
        return None
