# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs inside Redis to pause and to resume a queue of BullMQ."""

from __future__ import annotations

from .bullmq_scripts import PLACES

#: BullMQ's own pause, with our record of who and why beside it. Answers 0 where it is paused already, and changes nothing then.
#: KEYS: meta, record. ARGV: base, record
PAUSE = (
    PLACES
    + """
local base = ARGV[1]
if call('HEXISTS', KEYS[1], 'paused') == 1 then return 0 end
call('HSET', KEYS[1], 'paused', 1)
call('SET', KEYS[2], ARGV[2])
local to = place(base)
if to.list ~= base .. 'wait' and call('EXISTS', base .. 'wait') == 1 then
  if call('EXISTS', to.list) == 0 then call('RENAME', base .. 'wait', to.list)
  else
    while call('LMOVE', base .. 'wait', to.list, 'RIGHT', 'LEFT') do end
  end
end
call('DEL', base .. 'marker')
call('XADD', to.events, '*', 'event', 'paused')
return 1
"""
)

#: BullMQ's own resume; takes a pause of BullMQ before 6 back as well, some thousands of tasks a call. It ends by waking the workers.
#: KEYS: meta, record. ARGV: base, owner. Answers how many are still in the old list, -1 where another owner holds it.
RESUME = (
    PLACES
    + """
local base = ARGV[1]
local record = call('GET', KEYS[2])
if record and call('HEXISTS', KEYS[1], 'paused') == 1 then
  local good, noted = pcall(cjson.decode, record)
  if good and type(noted) == 'table' and noted.owner and noted.owner ~= ARGV[2] then return -1 end
end
local wait, old = base .. 'wait', base .. 'paused'
if call('EXISTS', old) == 1 then
  if call('EXISTS', wait) == 0 then call('RENAME', old, wait)
  else
    -- What was there first goes first: it stands nearer to the end that workers take from.
    for _ = 1, 5000 do
      if not call('LMOVE', old, wait, 'LEFT', 'RIGHT') then break end
    end
  end
end
local left = call('LLEN', old)
if left > 0 then return left end
call('HDEL', KEYS[1], 'paused')
call('DEL', KEYS[2])
if call('LLEN', wait) + call('ZCARD', base .. 'prioritized') > 0 then call('ZADD', base .. 'marker', 0, '0')
else
  local due = call('ZRANGE', base .. 'delayed', 0, 0, 'WITHSCORES')
  if due[2] then call('ZADD', base .. 'marker', tonumber(due[2]) / 4096, '1') end
end
call('XADD', base .. 'events', '*', 'event', 'resumed')
return 0
"""
)
