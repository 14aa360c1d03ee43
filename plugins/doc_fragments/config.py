# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the options that the config history's modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """The fragment `queueops.fleet.config`."""

    DOCUMENTATION = r"""
options:
  fleet:
    description:
      - Name of the fleet. Each fleet has a history of its own on each of its hosts.
      - Lower-case letters, digits and hyphens.
    type: str
    required: true
  state_dir:
    description:
      - Folder on the host that keeps the state of all fleets, for root alone (C(0700)).
      - The history is the bare git repository C(<state_dir>/<fleet>/config.git). Read it with git as you like, for example with
        C(git --git-dir /var/lib/queueops/mailer/config.git log -p).
    type: path
    default: /var/lib/queueops
  exclude:
    description:
      - Globs of what is not watched. It is never recorded, changed or removed.
      - A glob without a slash matches a name at any depth below a watched folder. A glob with a slash matches the whole path, and
        its C(*) also matches slashes. A folder that matches is left out with everything in it.
      - Sockets, named pipes and devices in a watched folder are never watched.
      - When the watched paths are not given, these globs are added to those of the newest snapshot. The same is true for O(sensitive).
    type: list
    elements: str
    default: []
  sensitive:
    description:
      - Globs, read as those of O(exclude), of files whose content is shown in no diff. They are recorded like all others.
      - A file that was sensitive when a snapshot was recorded stays so in that snapshot's diffs.
    type: list
    elements: str
    default: []
requirements:
  - git
author:
  - The queueops.fleet contributors (@queueops)
"""
