# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One of Sidekiq's tasks on the Redis server: what it says, whether it is meant, and what becomes of it.

A task is JSON text; it is cut and joined there, never decoded and written anew. (A decoder would turn big numbers into floating
point and empty lists into objects.)
"""

from __future__ import annotations

# Finds the top-level members of a task that are of interest; arguments may hold members of the same names.
# members(s) answers where the object ends, or nil where the text is no object; where(s, name) then where a value begins and ends.
# As Sidekiq writes them, a task is flat but for its arguments, without spaces: then a member is looked for behind and before those,
# where '{"name":' or ',"name":' can be nothing else. Any other object is read from its beginning to its end.
MEMBERS = """
local find, sub, byte = string.find, string.sub, string.byte
local KNOWN = {queue = 1, class = 1, wrapped = 1, jid = 1, retry_count = 1, enqueued_at = 1, failed_at = 1, retried_at = 1,
               queueops_redrives = 1, queueops_run = 1, queueops_pass = 1}
local AT, TO = {}, {}
local HEAD, TAIL
local function past_text(s, at)
  while true do
    at = find(s, '["\\\\]', at + 1)
    if not at then return nil end
    if byte(s, at) == 34 then return at + 1 end
    at = at + 1
  end
end
local function past_nested(s, at)
  local depth = 0
  while true do
    at = find(s, '["%[%]{}]', at)
    if not at then return nil end
    local c = byte(s, at)
    if c == 34 then
      at = past_text(s, at)
      if not at then return nil end
    else
      if c == 91 or c == 123 then depth = depth + 1 else depth = depth - 1 end
      at = at + 1
      if depth == 0 then return at end
    end
  end
end
local function read(s)
  AT, TO, HEAD = {}, {}, nil
  local at, key, value, stop, first
  first, at = find(s, '^%s*{%s*')
  if not at then return nil end
  at = at + 1
  while true do
    first, value, key = find(s, '^"([%w_]+)":', at)
    if not value then
      if byte(s, at) ~= 34 then return nil end
      stop = past_text(s, at)
      if not stop then return nil end
      key = sub(s, at + 1, stop - 2)
      first, value = find(s, '^%s*:', stop)
      if not value then return nil end
    end
    value = value + 1
    local c = byte(s, value)
    if c == 32 or c == 9 or c == 10 or c == 13 then
      value = find(s, '%S', value)
      if not value then return nil end
      c = byte(s, value)
    end
    if c == 34 then stop = past_text(s, value)
    elseif c == 91 or c == 123 then stop = past_nested(s, value)
    else
      first, stop = find(s, '^[%w.+-]+', value)
      stop = stop and stop + 1
    end
    if not stop then return nil end
    if KNOWN[key] then AT[key], TO[key] = value, stop - 1 end
    c = byte(s, stop)
    if c ~= 44 and c ~= 125 then
      stop = find(s, '%S', stop)
      if not stop then return nil end
      c = byte(s, stop)
    end
    if c == 125 then
      if find(s, '^%s*$', stop + 1) then return stop end
      return nil
    end
    if c ~= 44 then return nil end
    at = stop + 1
    if byte(s, at) ~= 34 then
      at = find(s, '%S', at)
      if not at then return nil end
    end
  end
end
local function where(s, name)
  if not HEAD or AT[name] ~= nil then return AT[name], TO[name] end
  local key = ',"' .. name .. '":'
  local first, at = find(s, key, TAIL, true)
  if not first then
    first, at = find(s, key, 1, true)
    if first and first >= HEAD then first = nil end
    if not first then
      first, at = 1, #key
      if sub(s, 2, at) ~= sub(key, 2) then first = nil end
    end
  end
  if not first then
    AT[name] = false
    return nil
  end
  at = at + 1
  local stop
  if byte(s, at) == 34 then stop = past_text(s, at) else stop = find(s, '[,}]', at) end
  AT[name], TO[name] = at, stop - 1
  return at, stop - 1
end
local function raw(s, name)
  local at, to = where(s, name)
  return at and sub(s, at, to) or ''
end
local function members(s)
  local open = find(s, '[', 1, true)
  if open and byte(s) == 123 and byte(s, -1) == 125 and sub(s, open - 7, open - 1) == '"args":' then
    local nested = find(s, '{', 2, true)
    local stop = (not nested or nested > open) and past_nested(s, open)
    if stop and not find(s, '[', stop, true) and not find(s, '{', stop, true) then
      AT, TO, HEAD, TAIL = {}, {}, open, stop
      if where(s, 'jid') and where(s, 'enqueued_at') then return #s end
    end
  end
  return read(s)
end
local function text(s, name)
  local found = raw(s, name)
  if byte(found) ~= 34 then return nil end
  if not find(found, '\\\\', 1, true) then return sub(found, 2, -2) end
  local read, value = pcall(cjson.decode, '[' .. found .. ']')
  return read and value[1] or nil
end
"""

# Whether a task belongs to this redrive: to its queue, and neither came back in this pass nor failed only after it had begun.
OURS = """
local function ours(s, queue, pass, late)
  if queue ~= '' and text(s, 'queue') ~= queue then return false end
  if find(s, '"queueops_', 1, true) and raw(s, 'queueops_pass') == pass then return false end
  if late > 1e299 then return true end
  local died = tonumber(raw(s, 'retried_at')) or tonumber(raw(s, 'failed_at')) or 0
  if died > 1e11 then died = died / 1000 end
  return died <= late
end
"""

# Checks each task once more, puts it where it is to go and takes it out of the source; all at the end.
# HEAD, the first arguments: key prefix, run, pass, now (s), now (ms), parked, dead, most in dead, seconds to keep the moved set.
# KEYS: source, moved.
ACT = """
local SOURCE, MOVED = KEYS[1], KEYS[2]
local PREFIX, RUN, PASS, NOW, NOW_MS, PARKED, DEAD, DEAD_MOST, KEPT = unpack(ARGV, 1, 9)
local places
local gone, jids, pushed, queues, dead, parked = {}, {}, {}, {}, {}, {}
local room
local function of_kind(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= kind then error('WRONGTYPE a key of this queue is of another kind') end
end
of_kind(MOVED, 'set')
-- The task as it goes back to its queue, by what members() has just found: as Sidekiq's own retry leaves it, and marked.
local FIRST = ',"queueops_redrives":1,"queueops_run":' .. RUN .. ',"queueops_pass":' .. PASS
local function renewed(s, stop, destination, compensate)
  local count = tonumber(raw(s, 'retry_count'))
  local entered, at, to = raw(s, 'enqueued_at'), where(s, 'enqueued_at')
  if #entered > 11 and not find(entered, '%D') then entered = NOW_MS else entered = NOW end
  if destination == '' and not compensate and at and count and not find(s, '"queueops_', 1, true) then
    local low, high = where(s, 'retry_count')
    if at < low then
      return sub(s, 1, at - 1) .. entered .. sub(s, to + 1, low - 1) .. (count - 1) .. sub(s, high + 1, stop - 1) .. FIRST .. sub(s, stop)
    end
  end
  local edits, n, added = {}, 0, ''
  local function put(name, value)
    local from, till = where(s, name)
    if not from then
      added = added .. ',"' .. name .. '":' .. value
      return
    end
    n = n + 1
    local i = n
    while i > 1 and edits[i - 1][1] > from do
      edits[i] = edits[i - 1]
      i = i - 1
    end
    edits[i] = {from, till, value}
  end
  if destination ~= '' then put('queue', destination) end
  if count then put('retry_count', string.format('%d', count - 1)) end
  put('enqueued_at', entered)
  put('queueops_redrives', string.format('%d', (tonumber(raw(s, 'queueops_redrives')) or 0) + 1))
  put('queueops_run', RUN)
  put('queueops_pass', PASS)
  if compensate then added = added .. ',"queueops_compensates":true' end
  local pieces, from = {}, 1
  for i = 1, n do
    pieces[#pieces + 1] = sub(s, from, edits[i][1] - 1)
    pieces[#pieces + 1] = edits[i][3]
    from = edits[i][2] + 1
  end
  pieces[#pieces + 1] = sub(s, from, stop - 1)
  pieces[#pieces + 1] = added
  pieces[#pieces + 1] = sub(s, stop)
  return table.concat(pieces)
end
local function target_of(queue)
  local key = PREFIX .. 'queue:' .. queue
  if not pushed[key] then
    of_kind(key, 'list')
    pushed[key] = {}
    queues[#queues + 1] = queue
  end
  return pushed[key]
end
-- What becomes of one task, by one letter. The text's members have been found; it is in the source.
local function act(s, stop, action, destination, name)
  local jid = text(s, 'jid')
  if not jid or jid == '' then return 'i' end
  if where(s, 'queueops_run') and redis.call('SISMEMBER', MOVED, jid) == 1 then return 'a' end
  local stays = false
  if action == 'requeue' or action == 'compensate' then
    local queue = destination ~= '' and name or text(s, 'queue')
    if not queue or queue == '' then return 'q' end
    local to = target_of(queue)
    to[#to + 1] = renewed(s, stop, destination, action == 'compensate')
  elseif action == 'fail' or action == 'dead_letter' then
    stays = SOURCE == DEAD
    if not room then
      of_kind(DEAD, 'zset')
      -- What is dead already takes no more room.
      room = stays and math.huge or DEAD_MOST - redis.call('ZCARD', DEAD)
    end
    if room <= 0 then return 'f' end
    room = room - 1
    dead[#dead + 1] = s
  elseif action == 'park' then
    stays = SOURCE == PARKED
    if #parked == 0 then of_kind(PARKED, 'zset') end
    parked[#parked + 1] = s
  end
  if not stays then gone[#gone + 1] = s end
  jids[#jids + 1] = jid
  return 'm'
end
local function store(key, entries)
  local scored = {}
  for i = 1, #entries do
    -- Their order is kept, although they come at one moment.
    scored[2 * i - 1] = string.format('%.6f', NOW + i / 1000000)
    scored[2 * i] = entries[i]
  end
  redis.call('ZADD', key, unpack(scored))
end
-- Put down, marked, taken away: whatever the server refuses in between, a task is in two places and never in none.
local function finish()
  if #jids == 0 then return end
  if #queues > 0 then redis.call('SADD', PREFIX .. 'queues', unpack(queues)) end
  for key, entries in pairs(pushed) do
    if #entries > 0 then redis.call('LPUSH', key, unpack(entries)) end
  end
  if #dead > 0 then store(DEAD, dead) end
  if #parked > 0 then store(PARKED, parked) end
  redis.call('SADD', MOVED, unpack(jids))
  redis.call('EXPIRE', MOVED, KEPT)
  if places then
    for i = 1, #gone do redis.call('LSET', SOURCE, places[gone[i]], 'queueops:taken') end
    redis.call('LREM', SOURCE, -#gone, 'queueops:taken')
  elseif #gone > 0 then redis.call('ZREM', SOURCE, unpack(gone)) end
end
"""
