# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Become another program that ends with its parent: ``python -m queueops_lab.launch SIGNAL PARENT FOLDER PROGRAM ARGUMENT…``.

A step of its own between fork and exec, because code between the two inside the daemon is not safe.
"""

from __future__ import annotations

import os
import sys

from .processes import die_with_parent


def main(argv: list[str]) -> None:
    """Ask for ``argv[0]`` when the process ``argv[1]`` dies, go to the folder ``argv[2]``, become ``argv[3:]``."""
    die_with_parent(int(argv[0]))
    if os.getppid() != int(argv[1]):
        # It died before the kernel had been asked.
        raise SystemExit("the lab's daemon is gone")
    os.chdir(argv[2])
    os.execv(argv[3], argv[3:])


if __name__ == "__main__":
    main(sys.argv[1:])
