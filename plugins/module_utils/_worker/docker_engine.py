# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker Engine, by the Docker SDK for Python, which is imported only when it is needed."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Any, Iterator

from .._errors import FleetError, MissingLibrary, Refused, Unavailable

#: Where Docker Engine listens unless it was told otherwise.
DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
#: Seconds without a byte after which Docker Engine does not answer; loading an image keeps it quiet for a while.
ANSWER_LIMIT = 300


def library() -> Any:
    """The module `docker`.

    :raises MissingLibrary: the Python that runs this has none.
    """
    try:
        import docker
    except ImportError as error:
        raise MissingLibrary(
            f"The Docker SDK for Python (docker) is not there for this host's Ansible Python: {error}",
            option="worker.manager",
            next_step="Install it on the host (python3-docker on Debian, docker from PyPI)",
        ) from None
    return docker


def socket_path(address: str | None) -> str:
    """The path in the address of an engine on this host.

    :raises Refused: another kind of address; the workers' processes are looked at on this host.
    """
    address = address or DEFAULT_ADDRESS
    if not address.startswith("unix:///"):
        raise Refused(
            f"{address!r} is not an address of Docker Engine on this host",
            option="worker.server",
            next_step=f"Give unix:// and the path of its socket, such as {DEFAULT_ADDRESS}",
        )
    return address[len("unix://") :]


@contextmanager
def open_engine(address: str | None) -> Iterator[Any]:
    """A client of the engine at `address`; what goes wrong with it is put in our words.

    :raises Unavailable: it does not answer.
    :raises MissingLibrary: there is no Docker SDK.
    """
    docker = library()
    path = socket_path(address)
    where = f"Docker Engine at unix://{path}"
    if not os.path.exists(path):
        raise Unavailable(f"There is no {where}", option="worker.server", next_step="Look whether dockerd runs and listens there")
    if not os.access(path, os.R_OK | os.W_OK):
        raise Refused(f"No permission to open the socket of {where}", option="worker.server", next_step="Run with become")
    import requests

    client = None
    try:
        client = docker.DockerClient(base_url=f"unix://{path}", version="auto", timeout=ANSWER_LIMIT)
        yield client
    except docker.errors.APIError as error:
        raise FleetError(f"{where} refused: {error.explanation or error}", next_step="See `journalctl -u docker -n 50`") from None
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise Unavailable(
            f"{where} does not answer: {error}", option="worker.server", next_step="Look whether dockerd runs and listens there"
        ) from None
    finally:
        if client is not None:
            client.close()
