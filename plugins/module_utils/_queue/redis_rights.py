# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking before the first change whether the broker's user may run all that a script runs: one that is refused half-way stays half done."""

from __future__ import annotations

#: Lua: ``lacking`` answers the error for the first of these commands (tables of words) that is not allowed, or nil; also where the server
#: cannot be asked (before Redis 7).
LACKING = """
local function lacking(...)
  if not redis.acl_check_cmd then return nil end
  for _, command in ipairs({...}) do
    if not redis.acl_check_cmd(unpack(command)) then
      return redis.error_reply("NOPERM this user has no permissions to run the '" .. string.lower(command[1]) .. "' command")
    end
  end
end
"""
