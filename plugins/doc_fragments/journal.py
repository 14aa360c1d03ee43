# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the modules that work with the fleet's journal."""

from __future__ import annotations


class ModuleDocFragment:
    """Where the journal is."""

    DOCUMENTATION = r"""
options:
  fleet:
    description: The name of the fleet, as in the inventory's C(queueops_fleet.name). Lower case letters, digits and hyphens.
    type: str
    required: true
  state_dir:
    description:
      - The folder on the fleet's home that holds the state of all fleets. The journal is C(journal.jsonl) in the folder of the fleet.
      - The first writer makes what is missing, for its owner alone.
    type: path
    default: /var/lib/queueops
notes:
  - Run it on the fleet's home, as the owner of O(state_dir).
"""
