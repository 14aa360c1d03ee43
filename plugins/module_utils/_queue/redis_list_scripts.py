# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a redrive of plain lists runs on the Redis server. Payloads are bytes there, and are never looked into."""

from __future__ import annotations

# Moves the next tasks without a look at them and answers how many, whether the sum of both lists stayed the same, and what is left.
# KEYS: source, and the destination unless they are discarded. ARGV: how many, bytes after which to stop.
SWEEP = """
local function sum()
  local found = redis.call('LLEN', KEYS[1])
  if KEYS[2] then found = found + redis.call('LLEN', KEYS[2]) end
  return found
end
local most, limit, moved, bytes, before = tonumber(ARGV[1]), tonumber(ARGV[2]), 0, 0, sum()
while moved < most and bytes < limit do
  local some = redis.call('LRANGE', KEYS[1], 0, math.min(100, most - moved) - 1)
  if #some == 0 then break end
  if KEYS[2] then redis.call('RPUSH', KEYS[2], unpack(some)) else before = before - #some end
  redis.call('LTRIM', KEYS[1], #some, -1)
  moved = moved + #some
  for i = 1, #some do bytes = bytes + #some[i] end
end
return {moved, before == sum() and 1 or 0, redis.call('LLEN', KEYS[1])}
"""

# Reads on after the task that was last read, which is looked for again where others have taken tasks before it; without it from the head.
# KEYS: list. ARGV: position, how many, bytes, and, if it is to be looked for, the payload that was before that position.
# Answers the position, the payloads' lengths and, after a line break, the payloads.
READ = """
local start, size, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if ARGV[4] then
  local at, step, found = start - 1, 1, false
  start = 0
  while at >= 0 and not found do
    local low = math.max(0, at - step + 1)
    local block = redis.call('LRANGE', KEYS[1], low, at)
    for i = #block, 1, -1 do
      if block[i] == ARGV[4] then start = low + i; found = true; break end
    end
    at, step = low - 1, 200
  end
end
local payloads, lengths, bytes, chunk = {}, {}, 0, 10
while #payloads < size and bytes < limit do
  local from = start + #payloads
  local some = redis.call('LRANGE', KEYS[1], from, from + math.min(chunk, size - #payloads) - 1)
  if #some == 0 then break end
  for i = 1, #some do
    payloads[#payloads + 1] = some[i]
    lengths[#lengths + 1] = #some[i]
    bytes = bytes + #some[i]
  end
  chunk = math.max(1, math.min(200, math.floor((limit - bytes) * #payloads / math.max(1, bytes))))
end
return start .. ' ' .. table.concat(lengths, ',') .. '\\n' .. table.concat(payloads)
"""

# Takes tasks out of a list, wherever they are by now, and puts them to the tail of others; their order is kept.
# KEYS: source, moved set, counts, destinations... ARGV: whether to remember, seconds for the moved set, seconds for the counts,
# a text that is no task, for each task position, length of payload, length of id, number of its destination (0: none, -1: it stays)
# and 1 if counted, joined, and all payloads and ids, joined: a client takes longer over thousands of arguments than the server.
# Put down, marked, taken away: whatever the server refuses in between, a task is in two places and never in none.
# Answers one letter a task: m done, g gone, a moved by this run before.
MOVE = """
local source, remember, none = KEYS[1], ARGV[1] == '1', ARGV[4]
local tasks, read = {}, 1
for at, size, named, to, count in string.gmatch(ARGV[5], '(%d+),(%d+),(%d+),(%-?%d+),(%d)') do
  local middle = read + size
  local payload, id = string.sub(ARGV[6], read, middle - 1), string.sub(ARGV[6], middle, middle + named - 1)
  tasks[#tasks + 1] = {tonumber(at), payload, id, tonumber(to), count}
  read = middle + named
end
local first, last = tasks[1][1], tasks[#tasks][1]
local block = redis.call('LRANGE', source, first, last)
local elsewhere, used, seen, outcomes, pushed, gone, counted, ids = nil, {}, {}, {}, {}, {}, {}, {}
local function look(payload)
  if not elsewhere then
    elsewhere = {}
    local low = math.max(0, first - 5000)
    for i, value in ipairs(redis.call('LRANGE', source, low, last + 500)) do
      elsewhere[value] = elsewhere[value] or {}
      table.insert(elsewhere[value], low + i - 1)
    end
  end
  for _, at in ipairs(elsewhere[payload] or {}) do
    if not used[at] then return at end
  end
end
for _, task in ipairs(tasks) do
  local at, payload, id, to = task[1], task[2], task[3], task[4]
  local outcome = 'm'
  if remember and (seen[id] or redis.call('SISMEMBER', KEYS[2], id) == 1) then outcome = 'a'
  else
    if used[at] or block[at - first + 1] ~= payload then at = look(payload) end
    if not at then outcome = 'g'
    else
      used[at], seen[id] = true, true
      ids[#ids + 1] = id
      if task[5] == '1' then counted[#counted + 1] = id end
      if to >= 0 then gone[#gone + 1] = at end
      if to > 0 then
        pushed[to] = pushed[to] or {}
        table.insert(pushed[to], payload)
      end
    end
  end
  outcomes[#outcomes + 1] = outcome
end
for to, payloads in pairs(pushed) do
  for i = 1, #payloads, 1000 do redis.call('RPUSH', KEYS[3 + to], unpack(payloads, i, math.min(i + 999, #payloads))) end
end
if remember then
  for i = 1, #ids, 1000 do redis.call('SADD', KEYS[2], unpack(ids, i, math.min(i + 999, #ids))) end
  redis.call('EXPIRE', KEYS[2], ARGV[2])
  for _, id in ipairs(counted) do redis.call('HINCRBY', KEYS[3], id, 1) end
  if #counted > 0 then redis.call('EXPIRE', KEYS[3], ARGV[3]) end
end
if #gone > 0 then
  table.sort(gone)
  if gone[#gone] == #gone - 1 then redis.call('LTRIM', source, #gone, -1)
  else
    for _, at in ipairs(gone) do redis.call('LSET', source, at, none) end
    local near_head = gone[1] * 2 < redis.call('LLEN', source)
    redis.call('LREM', source, near_head and #gone or -#gone, none)
  end
end
return table.concat(outcomes)
"""
