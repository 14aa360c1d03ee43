# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A container image as an artifact: by reference, or in a tar as `docker save` writes it."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from .._errors import NotFound, Refused
from .artifact import Artifact, Tools
from .artifact_fetch import fetch, is_remote, verified
from .docker_engine import library, open_engine

#: What the tags of images begin with that are versions of a worker. No registry has this name.
REPOSITORY = "queueops.local"
#: The label of a container that says which of these tags its image has.
IMAGE_LABEL = "queueops.image"


class ImageArtifact(Artifact):
    """A path or URL of a tar, whose checksum is the file's; or a reference, whose checksum is the image's digest or its id."""

    kind = "image"

    def examine(self) -> None:
        if self._is_tar():
            with verified(self.address, self.checksum):
                pass
            return
        with open_engine(self.tools.docker) as engine:
            here = _present(engine, self.address)
            if here is not None:
                self._compare(here)

    def fill(self, folder: str, workspace: str) -> dict[str, Any]:
        with open_engine(self.tools.docker) as engine:
            image = self._load(engine, workspace) if self._is_tar() else self._pull(engine)
            # Without a tag of ours it would go with the next `docker image prune`.
            image.tag(*tag_of(self.tools.name, self.version))
            return {"image": image.id}

    def _is_tar(self) -> bool:
        return os.path.isabs(self.address) or is_remote(self.address) or self.address.startswith("file:")

    def _load(self, engine: Any, workspace: str) -> Any:
        with tempfile.TemporaryFile(dir=workspace) as archive:
            fetch(self.address, self.checksum, archive)
            images = engine.images.load(archive)
        if len(images) != 1:
            raise Refused(
                f"{self.address} holds {len(images)} images, where a version is one",
                option="artifact",
                next_step="Save one image into it with `docker save`",
            )
        return images[0]

    def _pull(self, engine: Any) -> Any:
        image = _present(engine, self.address)
        if image is None or not self._fits(image):
            name, _at, digest = self.address.partition("@")
            image = engine.images.pull(f"{name}@{digest or self.checksum}")
        self._compare(image)
        return image

    def _fits(self, image: Any) -> bool:
        return self.checksum in [image.id, *(digest.partition("@")[2] for digest in image.attrs.get("RepoDigests") or [])]

    def _compare(self, image: Any) -> None:
        if not self._fits(image):
            digests = ", ".join(image.attrs.get("RepoDigests") or []) or "none"
            raise Refused(
                f"The image {self.address} has the id {image.id} and the digests {digests}, but {self.checksum} is wanted",
                option="checksum",
                next_step="Find out which of the two is right: the image was built anew, or is not the one that was released",
            )


def tag_of(name: str, version: str) -> tuple[str, str]:
    """Repository and tag of a version's image. A tag has no plus sign, so that it becomes an underscore."""
    return f"{REPOSITORY}/{name}", version.replace("+", "_")


def forget_image(version: str, tools: Tools) -> None:
    """Remove a version's ended containers and its tag, and the image with it unless something else still has it."""
    tag = ":".join(tag_of(tools.name, version))
    with open_engine(tools.docker) as engine:
        for container in engine.containers.list(
            all=True, filters={"label": f"{IMAGE_LABEL}={tag}", "status": ["created", "exited", "dead"]}
        ):
            container.remove(v=True)
        try:
            engine.images.remove(tag)
        except library().errors.ImageNotFound:
            pass
        except library().errors.APIError as error:
            # In use: it is Docker's to keep.
            if error.status_code != 409:
                raise


def _present(engine: Any, reference: str) -> Any:
    try:
        return engine.images.get(reference)
    except library().errors.ImageNotFound:
        return None


def require_image(engine: Any, image: str, version: str) -> Any:
    """The image of a version that is prepared.

    :raises NotFound: it was removed since.
    """
    found = _present(engine, image)
    if found is None:
        raise NotFound(
            f"The image {image} of version {version} is not on this host any more",
            option="version",
            next_step="Remove its folder in versions/ and prepare the version again",
        )
    return found
