# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of the Debian 13 root folder that scripts/trixie.sh makes: the newer versions of the brokers."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]


@functools.cache
def trixie_root() -> Path:
    """The root folder; made if it is not there yet, which takes some minutes."""
    done = subprocess.run([str(REPOSITORY / "scripts" / "trixie.sh")], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError("scripts/trixie.sh: %s" % done.stderr.strip()[-2000:])
    return Path(done.stdout.strip().splitlines()[-1])


def trixie_command(command: list[str]) -> list[str]:
    """The command line that runs ``command`` with the root folder as its root, on our network, with /proc and /dev.

    Its mounts are in a namespace of their own and end with it; the process that is started becomes ``command``.
    """
    root = str(trixie_root())
    script = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, root, *command]
