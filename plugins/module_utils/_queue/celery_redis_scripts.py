# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a redrive of Celery runs inside Redis. Bodies of messages are never looked into here.

A script that acts answers one letter a task: m moved, g taken or changed meanwhile, a already moved by this run.
"""

from __future__ import annotations

# A window of a list, from the right; the first answer is how many to its right were walked over.
# Finds the anchor (the last one walked over) again, for workers take on the right meanwhile.
# KEYS: list. ARGV: walked over, size, bytes after which to stop, anchor.
WINDOW = """
local skip, size, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if skip > 0 and ARGV[4] ~= '' and redis.call('LINDEX', KEYS[1], -skip) ~= ARGV[4] then
  -- No farther than it was, but for what kombu puts back on the right.
  local at = redis.call('LPOS', KEYS[1], ARGV[4], 'RANK', '-1', 'MAXLEN', skip + 1000)
  if at then skip = redis.call('LLEN', KEYS[1]) - at else skip = 0 end
end
local found, bytes = {tostring(skip)}, 0
while #found <= size and bytes < limit do
  local from = skip + #found - 1
  local some = redis.call('LRANGE', KEYS[1], -(from + math.min(20, size - #found + 1)), -(from + 1))
  if #some == 0 then break end
  for i = #some, 1, -1 do
    found[#found + 1] = some[i]
    bytes = bytes + #some[i]
  end
end
return found
"""

_IDENTITY = """
local function identity(raw, message)
  if type(message) == 'table' then
    local h, p = message.headers, message.properties
    if type(h) == 'table' and type(h.id) == 'string' and h.id ~= '' then return h.id end
    if type(h) == 'table' and type(p) == 'table' and type(p.correlation_id) == 'string' and p.correlation_id ~= '' then
      return p.correlation_id
    end
  end
  return redis.sha1hex(raw)
end
"""

# KEYS: list. ARGV: first, size. Answers the ids joined by NUL; empty at the end.
IDS_OF_LIST = (
    _IDENTITY
    + """
local first = tonumber(ARGV[1])
local ids = {}
for _, raw in ipairs(redis.call('LRANGE', KEYS[1], first, first + tonumber(ARGV[2]) - 1)) do
  local ok, message = pcall(cjson.decode, raw)
  ids[#ids + 1] = identity(raw, ok and message)
end
return table.concat(ids, '\\0')
"""
)

# KEYS: unacked. ARGV: cursor, count. Answers the next cursor, then id and routing key of each, joined by NUL.
IDS_OF_HELD = (
    _IDENTITY
    + """
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local found = {page[1]}
for i = 2, #page[2], 2 do
  local raw = page[2][i]
  local ok, held = pcall(cjson.decode, raw)
  found[#found + 1] = identity(raw, ok and held[1])
  found[#found + 1] = ok and tostring(held[3]) or ''
end
return table.concat(found, '\\0')
"""
)

# A step of the walk over the results. ARGV: database, prefix, cursor, count, name of our mark, routing keys joined by NUL.
# Answers the next cursor, then the end, the id and the routing key (empty: not recorded) of each failed one.
SCAN_METAS = """
redis.call('SELECT', ARGV[1])
local routed = {}
for key in string.gmatch(ARGV[6] .. '\\0', '(%Z*)%z') do routed[key] = true end
local pattern = string.gsub(ARGV[2], '[%*%?%[%]%^\\\\]', '\\\\%0') .. '*'
local page = redis.call('SCAN', ARGV[3], 'MATCH', pattern, 'COUNT', ARGV[4])
local found = {page[1]}
for _, key in ipairs(page[2]) do
  local got = redis.pcall('GET', key)
  if type(got) == 'string' and string.find(got, 'FAILURE', 1, true) then
    local ok, meta = pcall(cjson.decode, got)
    if ok and type(meta) == 'table' and meta.status == 'FAILURE' and type(meta[ARGV[5]]) ~= 'string' then
      local queue = meta.queue
      local bare = type(queue) ~= 'string'
      if bare or routed[queue] then
        found[#found + 1] = tostring(meta.date_done)
        found[#found + 1] = string.sub(key, #ARGV[2] + 1)
        found[#found + 1] = bare and '' or queue
      end
    end
  end
end
return table.concat(found, '\\0')
"""

# ARGV: database, database of results, prefix of results, moved set or '', hash of redrives or '', bytes after which to stop, ids.
# Answers "<moved before>,<redrives>" of each, joined by ';', then the results, until they are too many bytes.
CARDS = """
local notes = {}
for i = 7, #ARGV do
  local moved = ARGV[4] ~= '' and redis.call('SISMEMBER', ARGV[4], ARGV[i]) or 0
  notes[#notes + 1] = moved .. ',' .. (ARGV[5] ~= '' and redis.call('HGET', ARGV[5], ARGV[i]) or '0')
end
redis.call('SELECT', ARGV[2])
local found, bytes = {table.concat(notes, ';')}, 0
for i = 7, #ARGV do
  found[#found + 1] = redis.call('GET', ARGV[3] .. ARGV[i]) or ''
  bytes = bytes + #found[#found]
  if bytes > tonumber(ARGV[6]) then break end
end
redis.call('SELECT', ARGV[1])
return found
"""

# Each of the three that act finds out first what may go on, then puts it down, marks it and takes it away, so that whatever the server
# refuses in between, a task is in two places and never in none. A name that is taken by something that is no list is refused
# before the first change. Their first arguments: moved set or '', seconds to keep it, database, database of results.
_ACT = """
local MOVED, KEPT, DB, RESULTS = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local seen, outcomes, going = {}, {}, {}
local function refuse(first, stride)
  local known = {}
  for i = first, #ARGV, stride do
    local key = ARGV[i]
    if key ~= '' and not known[key] then
      known[key] = true
      local kind = redis.call('TYPE', key).ok
      if kind ~= 'list' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. key .. ' is not a list') end
    end
  end
end
local function moved_before(id) return MOVED ~= '' and (seen[id] or redis.call('SISMEMBER', MOVED, id) == 1) end
local function choose(i, outcome)
  outcomes[#outcomes + 1] = outcome
  if outcome == 'm' then
    seen[ARGV[i]] = true
    going[#going + 1] = i
  end
end
-- What is at these distances behind a task's id: a key and a value, and nothing is put down where the key is empty.
local function put(command, key, value, database)
  if database ~= DB then redis.call('SELECT', database) end
  for _, i in ipairs(going) do
    if ARGV[i + key] ~= '' then redis.call(command, ARGV[i + key], ARGV[i + value]) end
  end
  if database ~= DB then redis.call('SELECT', DB) end
end
local function mark()
  if MOVED == '' or #going == 0 then return end
  for _, i in ipairs(going) do redis.call('SADD', MOVED, ARGV[i]) end
  redis.call('EXPIRE', MOVED, KEPT)
end
"""

# Takes messages out of a list by what they are, wherever they have moved to, and sends each on.
# KEYS: list. ARGV: the four, nearest and farthest from the right, a unique text; then for each: id, the message, list to push to or '',
# new message, key of a result or '', the result.
ACT_LIST = (
    _ACT
    + """
local wrong = refuse(10, 6)
if wrong then return wrong end
local total = redis.call('LLEN', KEYS[1])
local near, far = tonumber(ARGV[5]), tonumber(ARGV[6])
local at = {}
-- From the right end, which what is pushed on the left does not change.
local function search(low, high)
  local first = math.max(0, total - high)
  at = {}
  for i, raw in ipairs(redis.call('LRANGE', KEYS[1], first, total - math.max(low, 1))) do at[raw] = first + i - 1 - total end
end
search(near, far)
-- The farthest that is not where it was tells how far workers have taken on the right meanwhile.
local span, tries = far - near + 100, 3
for i = #ARGV - 5, 8, -6 do
  if at[ARGV[i + 1]] or tries == 0 then break end
  local place = redis.call('LPOS', KEYS[1], ARGV[i + 1], 'RANK', '-1', 'MAXLEN', far + 100)
  if place then
    search(total - place - span, total - place + span)
    break
  end
  tries = tries - 1
end
local places = {}
for i = 8, #ARGV, 6 do
  local place = at[ARGV[i + 1]]
  if moved_before(ARGV[i]) then choose(i, 'a')
  elseif not place then choose(i, 'g')
  else
    at[ARGV[i + 1]] = nil
    places[#places + 1] = place
    choose(i, 'm')
  end
end
put('SET', 4, 5, RESULTS)
put('LPUSH', 2, 3, DB)
mark()
for _, place in ipairs(places) do redis.call('LSET', KEYS[1], place, ARGV[7]) end
if #places > 0 then redis.call('LREM', KEYS[1], -#places, ARGV[7]) end
return table.concat(outcomes)
"""
)

# The same for what workers hold. KEYS: unacked, unacked_index. ARGV: the four; then for each: id, tag, what is held, list to push to or '',
# new message, key of a result or '', the result.
ACT_HELD = (
    _ACT
    + """
local wrong = refuse(8, 7)
if wrong then return wrong end
for i = 5, #ARGV, 7 do
  if moved_before(ARGV[i]) then choose(i, 'a')
  elseif redis.call('HGET', KEYS[1], ARGV[i + 1]) ~= ARGV[i + 2] then choose(i, 'g')
  else choose(i, 'm') end
end
put('SET', 5, 6, RESULTS)
put('LPUSH', 3, 4, DB)
mark()
for _, i in ipairs(going) do
  redis.call('HDEL', KEYS[1], ARGV[i + 1])
  redis.call('ZREM', KEYS[2], ARGV[i + 1])
end
return table.concat(outcomes)
"""
)

# The same for failed results. ARGV: the four, prefix of results, hash of redrives; then for each: id, the result, list to push to or '',
# message, changed result or '' to delete it, 1 to count it.
ACT_META = (
    _ACT
    + """
local wrong = refuse(9, 6)
if wrong then return wrong end
redis.call('SELECT', RESULTS)
local there = {}
for i = 7, #ARGV, 6 do there[i] = redis.call('GET', ARGV[5] .. ARGV[i]) == ARGV[i + 1] end
redis.call('SELECT', DB)
for i = 7, #ARGV, 6 do
  if moved_before(ARGV[i]) then choose(i, 'a') else choose(i, there[i] and 'm' or 'g') end
end
put('LPUSH', 2, 3, DB)
for _, i in ipairs(going) do
  if ARGV[i + 5] ~= '' then redis.call('HINCRBY', ARGV[6], ARGV[i], 1) end
end
redis.call('EXPIRE', ARGV[6], KEPT)
mark()
redis.call('SELECT', RESULTS)
for _, i in ipairs(going) do
  if ARGV[i + 4] == '' then redis.call('DEL', ARGV[5] .. ARGV[i])
  else redis.call('SET', ARGV[5] .. ARGV[i], ARGV[i + 4], 'KEEPTTL') end
end
redis.call('SELECT', DB)
return table.concat(outcomes)
"""
)

# How many keys a database has. ARGV: its number, the number of the one to go back to.
SIZE = "redis.call('SELECT', ARGV[1]) local size = redis.call('DBSIZE') redis.call('SELECT', ARGV[2]) return size"
