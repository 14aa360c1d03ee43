# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The definition of a worker's container: a file on the host with the body of a container, as Docker Engine's API takes it.

It is to containers what a unit file is to systemd, and like one it may belong to the fleet's config history.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import signal
from dataclasses import dataclass
from typing import Any

from .._errors import NotFound, Refused
from . import guard
from .artifact_image import IMAGE_LABEL
from .process import VERSION_VARIABLE

#: The labels of a fleet's containers.
UNIT, VERSION, INSTANCE, DEFINITION, POLICY, GUARD = (
    "queueops." + name for name in ("unit", "version", "instance", "definition", "policy", "guard")
)
#: Seconds after which Docker kills what is told to stop, unless the definition says otherwise. Source: Docker Engine's API.
DEFAULT_STOP_TIMEOUT = 10
#: Where a container finds the quarantine.
GUARD_MOUNT = "/run/queueops"
#: With these Docker starts a worker again that failed, and does not start one again that was told to stop.
POLICIES = ("unless-stopped", "on-failure")


@dataclass(frozen=True)
class Definition:
    """One that can be used.

    :ivar digest: tells one content of the file from another.
    :ivar checks: whether its containers run the check of the quarantine.
    """

    content: dict[str, Any]
    digest: str

    @property
    def stop_timeout(self) -> float:
        """Seconds after which Docker kills a container that it was told to stop."""
        return float(self.content.get("StopTimeout", DEFAULT_STOP_TIMEOUT))

    @property
    def stop_signal(self) -> int:
        """The signal that asks a container to end."""
        name = str(self.content.get("StopSignal", "SIGTERM"))
        if name.isdigit():
            return int(name)
        found = signal.Signals.__members__.get(name if name.startswith("SIG") else "SIG" + name)
        return int(found) if found else 0

    @property
    def checks(self) -> bool:
        """Whether containers that are made by it run the check of the quarantine when they start."""
        return str(self.content["Labels"].get(GUARD)) != "none"

    def body(self, image: Any, version: str, number: int, root: str, tag: str) -> dict[str, Any]:
        """The body of one instance.

        :param image: the SDK's image that it is of, with its tag of ours.
        """
        body = copy.deepcopy(self.content)
        host = body.setdefault("HostConfig", {})
        body["Image"] = image.id
        body["Labels"].update(
            {
                VERSION: version,
                INSTANCE: str(number),
                DEFINITION: self.digest,
                POLICY: host["RestartPolicy"]["Name"],
                IMAGE_LABEL: tag,
                GUARD: "check" if self.checks else "none",
            }
        )
        told = [f"{VERSION_VARIABLE}={version}", f"QUEUEOPS_INSTANCE={number}"]
        if self.checks:
            told.append(f"QUEUEOPS_VERSION_TO_START={version}")
            host["Binds"] = [*(host.get("Binds") or []), f"{guard.folder(root)}:{GUARD_MOUNT}:ro"]
            self._check_first(body, image.attrs.get("Config") or {})
        body["Env"] = [*(body.get("Env") or []), *told]
        return body

    @staticmethod
    def _check_first(body: dict[str, Any], image: dict[str, Any]) -> None:
        """Let the container begin with the check, which then becomes what the image or the definition begins with."""
        # As Docker has it: an entrypoint in the definition leaves the image's command out.
        entrypoint, command = body.get("Entrypoint"), body.get("Cmd")
        if command is None and entrypoint is None:
            command = image.get("Cmd")
        if entrypoint is None:
            entrypoint = image.get("Entrypoint")
        if isinstance(entrypoint, str):
            entrypoint = [entrypoint]
        if isinstance(command, str):
            command = [command]
        body["Entrypoint"] = ["/bin/sh", f"{GUARD_MOUNT}/{guard.CHECK}", *(entrypoint or [])]
        body["Cmd"] = command or []


def read_definition(path: str, unit: str) -> Definition:
    """The definition in the file `path` of the containers whose label is `unit`.

    :raises NotFound: there is no such file, or it is another fleet's.
    :raises Refused: it cannot be read, or says what would not work.
    """
    if not os.path.isabs(path):
        raise Refused(f"The container's definition {path!r} is not an absolute path", option="worker.definition")
    try:
        with open(path, "rb") as stream:
            text = stream.read()
        content = json.loads(text.decode())
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"There is no definition of a container at {path}", option="worker.definition", next_step="Put it there, or mend the path"
        ) from None
    except (OSError, ValueError) as error:
        raise Refused(f"The definition {path} cannot be read: {error}", option="worker.definition", next_step="Mend it") from None
    definition = Definition(content, hashlib.sha256(text).hexdigest()) if isinstance(content, dict) else None
    labels = content.get("Labels") if definition else None
    if definition is None or not isinstance(labels, dict) or labels.get(UNIT) != unit:
        raise NotFound(
            f"The definition {path} does not give its containers the label {UNIT}={unit}",
            option="worker.unit",
            next_step="Set it in its Labels, or name the label that is there",
        )
    _refuse(path, definition)
    return definition


def _refuse(path: str, definition: Definition) -> None:
    host = definition.content.get("HostConfig") or {}
    policy = (host.get("RestartPolicy") or {}).get("Name") or "no"
    if policy not in POLICIES:
        what = "a worker that was stopped comes back with Docker's next start" if policy == "always" else "a worker that fails stays away"
        raise Refused(
            f"The definition {path} has the restart policy {policy}: {what}",
            option="worker.definition",
            next_step=f"Set HostConfig.RestartPolicy.Name to {POLICIES[0]}",
        )
    if host.get("AutoRemove"):
        raise Refused(f"The definition {path} has AutoRemove, and so nothing to study after a failure", option="worker.definition")
    if not definition.stop_signal:
        raise Refused(f"The definition {path} has the stop signal {definition.content['StopSignal']!r}", option="worker.definition")
