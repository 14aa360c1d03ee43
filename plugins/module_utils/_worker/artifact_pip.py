# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pip requirement as an artifact: a virtual environment of the version's own, of nothing but what a checksum covers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

from .._errors import FleetError, MissingLibrary, NotFound, Refused
from .artifact import Artifact, parse_checksum
from .artifact_fetch import fetch, verified

#: Seconds that making the environment, and that installing into it, may take.
VENV_LIMIT, INSTALL_LIMIT = 120, 1800
#: Of what pip says, as much as helps and no more.
TAIL = 1500
#: One distribution in one version. Source: the name and version rules of the Python packaging specifications.
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,-]+\])?==[A-Za-z0-9.!+_-]+\Z")


class PipArtifact(Artifact):
    """`NAME==VERSION`, whose checksum is that of its wheel, or a requirements file by path or URL, whose checksum is its own.

    pip runs in hash-checking mode: every distribution is named with a hash, those that others need as well. It installs
    wheels only, as building one would run, and fetch, what no hash covers.
    """

    kind = "pip"
    in_place = True

    def examine(self) -> None:
        self._python()
        if not _PINNED.match(self.address):
            self._refuse_what_is_neither()
            with verified(self.address, self.checksum):
                pass

    def fill(self, folder: str, workspace: str) -> dict[str, Any]:
        python = self._python()
        requirements = os.path.join(workspace, "requirements.txt")
        with open(requirements, "w+b") as stream:
            if _PINNED.match(self.address):
                stream.write(f"{self.address} --hash=sha256:{parse_checksum(self.checksum)}\n".encode())
            else:
                self._refuse_what_is_neither()
                fetch(self.address, self.checksum, stream)
        _run([python, "-I", "-m", "venv", folder], workspace, VENV_LIMIT, f"{python} could not make a virtual environment")
        # Isolated: no variable and no file of the user that runs this changes what is installed; nothing is left in a cache.
        install = [os.path.join(folder, "bin", "python"), "-I", "-m", "pip", "--isolated", "--no-input", "--no-cache-dir"]
        install += ["--disable-pip-version-check", "install", "--quiet", "--require-hashes", "--only-binary=:all:", "-r", requirements]
        _run(install, workspace, INSTALL_LIMIT, f"pip could not install {self.address}")
        return {}

    def _refuse_what_is_neither(self) -> None:
        if not os.path.isabs(self.address) and "://" not in self.address:
            raise Refused(
                f"{self.address!r} is neither one distribution in one version nor a requirements file",
                option="artifact",
                next_step="Give pip:NAME==VERSION with the checksum of its wheel, or pip: and the path or URL of a requirements file",
            )

    def _python(self) -> str:
        python = self.tools.python or sys.executable
        if not os.path.isabs(python):
            raise Refused(f"The interpreter {python!r} is not an absolute path", option="worker.python")
        if not os.access(python, os.X_OK):
            raise NotFound(f"There is no interpreter {python} on this host", option="worker.python", next_step="Install it first")
        done = subprocess.run(
            [python, "-I", "-c", "import ensurepip, venv"], stdin=subprocess.DEVNULL, capture_output=True, timeout=VENV_LIMIT, check=False
        )
        if done.returncode:
            raise MissingLibrary(
                f"{python} cannot make virtual environments: it has no venv or no ensurepip",
                option="worker.python",
                next_step="Install its venv module (python3-venv on Debian), or name another interpreter",
            )
        return python


def _run(command: list[str], workspace: str, limit: float, problem: str) -> None:
    # A home and a temporary folder that go away with the workspace; of the environment only what reaches an index.
    kept = {name: value for name, value in os.environ.items() if name.lower() in ("http_proxy", "https_proxy", "no_proxy", "ssl_cert_file")}
    environment = dict(kept, PATH=os.defpath, LC_ALL="C.UTF-8", HOME=workspace, TMPDIR=workspace)
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise FleetError(f"{problem} within {limit:g} s", option="artifact", still_true="The version is not there") from None
    if done.returncode:
        said = re.sub(r"//[^/@\s]+@", "//", done.stdout.decode("utf-8", "replace"))
        raise Refused(
            f"{problem}: {said[-TAIL:].strip()}",
            option="artifact",
            still_true="The version is not there",
            next_step="Name every distribution with its version and its hash, as `pip-compile --generate-hashes` writes them",
        )
