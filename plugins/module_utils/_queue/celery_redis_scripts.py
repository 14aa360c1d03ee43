# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a redrive of Celery runs inside Redis. Bodies of messages are never looked into here.

A script that acts answers one letter a task: m moved, g taken or changed meanwhile, a already moved by this run.
"""

from __future__ import annotations

#: How long the record of which tasks a run has moved is kept, and how often each was redriven (s).
KEPT_S = 7 * 24 * 3600

# A window of a list, from the right; the first answer is how many to its right were walked over.
# Finds the anchor (the last one walked over) again, for workers take on the right meanwhile.
# KEYS: list. ARGV: walked over, size, anchor.
WINDOW = """
local skip, size = tonumber(ARGV[1]), tonumber(ARGV[2])
if skip > 0 and ARGV[3] ~= '' and redis.call('LINDEX', KEYS[1], -skip) ~= ARGV[3] then
  local at = redis.call('LPOS', KEYS[1], ARGV[3], 'RANK', '-1')
  if at then skip = redis.call('LLEN', KEYS[1]) - at else skip = 0 end
end
local found = redis.call('LRANGE', KEYS[1], -(skip + size), -(skip + 1))
table.insert(found, 1, tostring(skip))
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

# ARGV: database, database of results, prefix of results, moved set or '', hash of redrives or '', ids.
# Answers "<moved before>,<redrives>" of each, joined by ';', then the results.
CARDS = """
local notes = {}
for i = 6, #ARGV do
  local moved = ARGV[4] ~= '' and redis.call('SISMEMBER', ARGV[4], ARGV[i]) or 0
  notes[#notes + 1] = moved .. ',' .. (ARGV[5] ~= '' and redis.call('HGET', ARGV[5], ARGV[i]) or '0')
end
redis.call('SELECT', ARGV[2])
local found = {table.concat(notes, ';')}
for i = 6, #ARGV do found[#found + 1] = redis.call('GET', ARGV[3] .. ARGV[i]) or '' end
redis.call('SELECT', ARGV[1])
return found
"""

# A push that fails half-way would lose tasks: refuse before the first change, if a name is taken
# by something that is no list.
_REFUSE = """
local function refuse(first, stride, offset)
  local seen = {}
  for i = first, #ARGV, stride do
    local key = ARGV[i + offset]
    if key ~= '' and not seen[key] then
      seen[key] = true
      local kind = redis.call('TYPE', key).ok
      if kind ~= 'list' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. key .. ' is not a list') end
    end
  end
end
"""

# Takes messages out of a list by what they are, wherever they have moved to, and sends each on.
# KEYS: list. ARGV: moved set or '', seconds to keep it, database, database of results, nearest and farthest from the right, a unique
# text; then for each: id, the message, list to push to or '', new message, key of a result or '', the result.
ACT_LIST = (
    _REFUSE
    + """
local wrong = refuse(8, 6, 2)
if wrong then return wrong end
local moved, total = ARGV[1], redis.call('LLEN', KEYS[1])
local near, far = tonumber(ARGV[5]), tonumber(ARGV[6])
local at = {}
local function search(margin_near, margin_far)
  local first = math.max(0, total - far - margin_far)
  local last = math.min(total - 1, total - near + margin_near)
  at = {}
  for i, raw in ipairs(redis.call('LRANGE', KEYS[1], first, last)) do at[raw] = first + i - 1 end
end
search(0, 0)
for i = 8, #ARGV, 6 do
  if not at[ARGV[i + 1]] then search(500, 100) break end
end
local outcomes, taken, results = {}, 0, {}
for i = 8, #ARGV, 6 do
  local id, index = ARGV[i], at[ARGV[i + 1]]
  local outcome = 'm'
  if moved ~= '' and redis.call('SISMEMBER', moved, id) == 1 then outcome = 'a'
  elseif not index then outcome = 'g'
  else
    at[ARGV[i + 1]] = nil
    if moved ~= '' then redis.call('SADD', moved, id) end
    redis.call('LSET', KEYS[1], index, ARGV[7])
    taken = taken + 1
    if ARGV[i + 4] ~= '' then results[#results + 1] = i end
  end
  outcomes[#outcomes + 1] = outcome
end
if taken > 0 then redis.call('LREM', KEYS[1], -taken, ARGV[7]) end
local n = 0
for i = 8, #ARGV, 6 do
  n = n + 1
  if outcomes[n] == 'm' and ARGV[i + 2] ~= '' then redis.call('LPUSH', ARGV[i + 2], ARGV[i + 3]) end
end
if moved ~= '' and taken > 0 then redis.call('EXPIRE', moved, ARGV[2]) end
if #results > 0 then
  redis.call('SELECT', ARGV[4])
  for _, i in ipairs(results) do redis.call('SET', ARGV[i + 4], ARGV[i + 5]) end
  redis.call('SELECT', ARGV[3])
end
return table.concat(outcomes)
"""
)

# The same for what workers hold. KEYS: unacked, unacked_index. ARGV: moved set or '', seconds to keep it, database, database of results;
# then for each: id, tag, what is held, list to push to or '', new message, key of a result or '', the result.
ACT_HELD = (
    _REFUSE
    + """
local wrong = refuse(5, 7, 3)
if wrong then return wrong end
local moved, outcomes, results = ARGV[1], {}, {}
for i = 5, #ARGV, 7 do
  local id, tag = ARGV[i], ARGV[i + 1]
  local held = redis.call('HGET', KEYS[1], tag)
  local outcome = 'm'
  if moved ~= '' and redis.call('SISMEMBER', moved, id) == 1 then outcome = 'a'
  elseif held ~= ARGV[i + 2] then outcome = 'g'
  else
    if moved ~= '' then redis.call('SADD', moved, id) end
    redis.call('HDEL', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
    if ARGV[i + 3] ~= '' then redis.call('LPUSH', ARGV[i + 3], ARGV[i + 4]) end
    if ARGV[i + 5] ~= '' then results[#results + 1] = i end
  end
  outcomes[#outcomes + 1] = outcome
end
if moved ~= '' then redis.call('EXPIRE', moved, ARGV[2]) end
if #results > 0 then
  redis.call('SELECT', ARGV[4])
  for _, i in ipairs(results) do redis.call('SET', ARGV[i + 5], ARGV[i + 6]) end
  redis.call('SELECT', ARGV[3])
end
return table.concat(outcomes)
"""
)

# The same for failed results. ARGV: moved set or '', seconds to keep it, database, database of results, prefix of results, hash of
# redrives; then for each: id, the result, list to push to or '', message, changed result or '' to delete it, 1 to count it.
ACT_META = (
    _REFUSE
    + """
local wrong = refuse(7, 6, 2)
if wrong then return wrong end
local moved, outcomes = ARGV[1], {}
local n = 0
for i = 7, #ARGV, 6 do
  n = n + 1
  outcomes[n] = (moved ~= '' and redis.call('SISMEMBER', moved, ARGV[i]) == 1) and 'a' or 'm'
end
redis.call('SELECT', ARGV[4])
n = 0
for i = 7, #ARGV, 6 do
  n = n + 1
  if outcomes[n] == 'm' then
    local key = ARGV[5] .. ARGV[i]
    local meta = redis.call('GET', key)
    if meta ~= ARGV[i + 1] then outcomes[n] = 'g'
    elseif ARGV[i + 4] == '' then redis.call('DEL', key)
    else redis.call('SET', key, ARGV[i + 4], 'KEEPTTL') end
  end
end
redis.call('SELECT', ARGV[3])
n = 0
for i = 7, #ARGV, 6 do
  n = n + 1
  if outcomes[n] == 'm' then
    if moved ~= '' then redis.call('SADD', moved, ARGV[i]) end
    if ARGV[i + 2] ~= '' then redis.call('LPUSH', ARGV[i + 2], ARGV[i + 3]) end
    if ARGV[i + 5] ~= '' then redis.call('HINCRBY', ARGV[6], ARGV[i], 1) end
  end
end
if moved ~= '' then redis.call('EXPIRE', moved, ARGV[2]) end
redis.call('EXPIRE', ARGV[6], ARGV[2])
return table.concat(outcomes)
"""
)

# How many keys a database has. ARGV: its number, the number of the one to go back to.
SIZE = "redis.call('SELECT', ARGV[1]) local size = redis.call('DBSIZE') redis.call('SELECT', ARGV[2]) return size"
