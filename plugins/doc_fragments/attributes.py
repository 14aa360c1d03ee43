# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module of the collection says about itself in its attributes."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation fragments, merged into a module's own documentation."""

    # The attributes that each module fills in with its own support.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and predict what it would change, without changing anything.
  diff_mode:
    description: Returns what has changed (in check mode, what would change) as a difference.
  idempotent:
    description: When run twice in a row outside check mode with the same arguments, the second run changes nothing and says so.
"""

    ACTIONGROUP_FLEET = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/queueops.fleet.fleet) in C(module_defaults) to set options for every module of the collection.
    support: full
    membership:
      - queueops.fleet.fleet
"""
