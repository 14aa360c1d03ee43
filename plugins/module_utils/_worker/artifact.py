# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a version is made from: the face of every kind of artifact, and which kinds there are."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from .._errors import Refused

#: A folder that the worker's user can read, whatever the umask of who unpacks.
FOLDER_MODE = 0o755
#: The file in a version's folder that is written last and says that the folder is whole.
MARKER = ".queueops-version.json"
#: What an address begins with that is neither a path nor a URL.
PIP, IMAGE = "pip:", "image:"


@dataclass(frozen=True)
class Tools:
    """What of the host some kinds of artifact need.

    :ivar python: the interpreter that a virtual environment is made with; None: the one that runs this.
    :ivar docker: address of Docker Engine; None: its usual one.
    :ivar name: what an image is tagged with, besides its version.
    """

    python: str | None = None
    docker: str | None = None
    name: str = "worker"


class Artifact(ABC):
    """One artifact of one version.

    :ivar address: where it is, with the version filled in.
    :ivar checksum: what it has to be, as `sha256:<hex>`.
    """

    kind: str
    #: Whether it only works in the folder that it was made in, so that the folder cannot be made beside and renamed.
    in_place = False

    def __init__(self, address: str, checksum: str, version: str, tools: Tools) -> None:
        self.address = address
        self.checksum = checksum
        self.version = version
        self.tools = tools

    @abstractmethod
    def examine(self) -> None:
        """Refuse what :meth:`fill` would refuse, as far as reading can tell. Writes nothing.

        :raises Refused: wrong checksum, unsafe content, or not an artifact.
        :raises NotFound: there is none at the address.
        :raises MissingLibrary: the host lacks what it needs.
        :raises Unavailable: its server does not answer.
        """

    @abstractmethod
    def fill(self, folder: str, workspace: str) -> dict[str, Any]:
        """Verify the artifact and put all of it into the empty `folder`; raises as :meth:`examine`.

        :param workspace: a folder on the same file system that is removed afterwards.
        :returns: what else the version's marker has to say.
        """


def open_artifact(address: str, checksum: str | None, version: str, tools: Tools) -> Artifact:
    """The artifact at `address`, by what the address looks like. Reads at most whether it is a folder.

    :raises Refused: the checksum is missing or has another form.
    """
    checksum = "sha256:" + parse_checksum(checksum)
    if address.startswith(PIP):
        from .artifact_pip import PipArtifact

        return PipArtifact(address[len(PIP) :], checksum, version, tools)
    if address.startswith(IMAGE):
        from .artifact_image import ImageArtifact

        return ImageArtifact(address[len(IMAGE) :], checksum, version, tools)
    if os.path.isabs(address) and os.path.isdir(address):
        from .artifact_folder import FolderArtifact

        return FolderArtifact(address, checksum, version, tools)
    from .artifact_tar import TarArtifact

    return TarArtifact(address, checksum, version, tools)


def forget(marker: dict[str, Any], version: str, tools: Tools) -> None:
    """Remove what a version has outside of its folder, best effort: what is still in use stays."""
    if marker.get("kind") == "image":
        from .artifact_image import forget_image

        forget_image(version, tools)


def parse_checksum(checksum: str | None) -> str:
    """The hexadecimal digits of a checksum `sha256:<hex>`.

    :raises Refused: it is missing or has another form.
    """
    found = re.match(r"sha256:([0-9a-fA-F]{64})\Z", checksum or "")
    if not found:
        raise Refused(
            f"{checksum!r} is not a checksum" if checksum else "The artifact's checksum is missing",
            option="checksum",
            next_step="Give sha256: and 64 hexadecimal digits, as `sha256sum` prints them",
        )
    return found.group(1).lower()
