# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done on the Redis server for Dramatiq's tasks. Messages are bytes there: cut and joined, never decoded to be written again."""

from __future__ import annotations

from .redis_scripts import BEHIND

# The id of a message: from its end, where Dramatiq's encoder writes it; else, if it is JSON, wherever it is; else its key.
IDENTITY = """
local function identity(key, data)
  if not data then return key end
  local id = string.match(string.sub(data, -120), '"message_id":"([^"\\\\]+)","message_timestamp":%d+}$')
  if id then return id end
  local read, message = pcall(cjson.decode, data)
  if read and type(message) == 'table' and type(message.message_id) == 'string' then return message.message_id end
  return key
end
"""

# Answers key, score and length of each (-1: there is no message), and the messages, until they are too many bytes.
# keys, scores: of the window.
_TELL = """
local function tell(hash, keys, scores, most)
  local cards, texts, bytes = {}, {}, 0
  for first = 1, #keys, 100 do
    local part = {}
    for i = first, math.min(first + 99, #keys) do part[#part + 1] = keys[i] end
    local found = redis.call('HMGET', hash, unpack(part))
    for i = 1, #part do
      local data = found[i]
      cards[#cards + 1] = part[i]
      cards[#cards + 1] = scores[first + i - 1] or ''
      cards[#cards + 1] = data and tostring(#data) or '-1'
      if data then
        texts[#texts + 1] = data
        bytes = bytes + #data
        if bytes >= most then return {table.concat(cards, '\\0'), table.concat(texts)} end
      end
    end
  end
  return {table.concat(cards, '\\0'), table.concat(texts)}
end
"""

# A window of a sorted set, oldest first. KEYS: sorted set, hash. ARGV: score or '', member, last score, size, bytes.
SORTED_WINDOW = (
    _TELL
    + BEHIND
    + """
local start = behind(KEYS[1], ARGV[1], ARGV[2])
local entries = redis.call('ZRANGE', KEYS[1], start, start + tonumber(ARGV[4]) - 1, 'WITHSCORES')
local keys, scores = {}, {}
for i = 1, #entries, 2 do
  if tonumber(entries[i + 1]) > tonumber(ARGV[3]) then break end
  keys[#keys + 1] = entries[i]
  scores[#scores + 1] = entries[i + 1]
end
return tell(KEYS[2], keys, scores, tonumber(ARGV[5]))
"""
)

# Where in a list some entries are. Workers take from its head, so each can only have come nearer to it: searched from behind.
_FIND = """
local function find(list, from, wanted, count)
  local found, any = {}, false
  local stop = from
  while stop >= 0 and count > 0 do
    local start = math.max(0, stop - 999)
    local part, new = redis.call('LRANGE', list, start, stop), false
    for i = #part, 1, -1 do
      if wanted[part[i]] and not found[part[i]] then
        found[part[i]] = start + i - 1
        count, new = count - 1, true
      end
    end
    if any and not new then break end
    any = any or new
    stop = start - 1
  end
  return found
end
"""

# A window of a list from behind the last one that was left in it. Also answers where it begins.
# KEYS: list, hash. ARGV: where that one was, size, bytes, the last ones that were left...
LIST_WINDOW = (
    _TELL
    + _FIND
    + """
local start = 0
if #ARGV > 3 then
  local wanted = {}
  for i = 4, #ARGV do wanted[ARGV[i]] = true end
  for _, place in pairs(find(KEYS[1], tonumber(ARGV[1]), wanted, #ARGV - 3)) do start = math.max(start, place + 1) end
end
local told = tell(KEYS[2], redis.call('LRANGE', KEYS[1], start, start + tonumber(ARGV[2]) - 1), {}, tonumber(ARGV[3]))
return {told[1], told[2], start}
"""
)

# KEYS: hash. ARGV: bytes, keys...
NAMED = _TELL + "local keys = {} for i = 2, #ARGV do keys[#keys + 1] = ARGV[i] end return tell(KEYS[1], keys, {}, tonumber(ARGV[1]))"

# The ids of the tasks of one place, in pieces. KEYS: place, hash. ARGV: from, to.
IDENTITIES = (
    IDENTITY
    + """
local kind, keys = redis.call('TYPE', KEYS[1]).ok, {}
if kind == 'zset' then keys = redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[2])
elseif kind == 'list' then keys = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])
elseif kind == 'set' and ARGV[1] == '0' then keys = redis.call('SMEMBERS', KEYS[1]) end
local found = {}
for first = 1, #keys, 100 do
  local part = {}
  for i = first, math.min(first + 99, #keys) do part[#part + 1] = keys[i] end
  local texts = redis.call('HMGET', KEYS[2], unpack(part))
  for i = 1, #part do found[#found + 1] = identity(part[i], texts[i]) end
end
return table.concat(found, '\\0')
"""
)

# Moves tasks from one place to another, each checked again here, so that two redrives, a worker or an operator at the same time
# cannot make one run twice or vanish. A key of another kind is refused before the first of them is touched; and each is put down,
# marked and taken away in this order, so that whatever the server refuses in between, a task is in two places and never in none.
# KEYS: moved, pending, source, its hash, target, its hash, delayed target, its hash, heartbeats.
# ARGV: kind of source (z sorted set, l list, a acks), kind of target (l, z, x: none), now (ms), seconds to keep moved and pending,
# 1 to note them as pending, where in the list the last one was, worker, its heartbeat may not be later than this (ms, or ''),
# then six a task: key, id, packed numbers (length of the message, where the options are, where each of two changes goes, 1 for the
# delayed target, score), the options as they were, what the changes put there.
# Answers one letter a task: m moved, g gone from the source, e expired, a already moved by this run, c changed, b its worker is back.
MOVE = (
    _FIND
    + """
local source, hash, target, target_hash = KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local from, to, now = ARGV[1], ARGV[2], ARGV[3]
local kinds = {z = 'zset', l = 'list', a = 'set'}
local function of_kind(key, kind)
  local found = redis.call('TYPE', key).ok
  return found == 'none' or found == kind
end
local fit = of_kind(KEYS[1], 'set') and of_kind(KEYS[2], 'hash') and of_kind(source, kinds[from]) and of_kind(hash, 'hash')
if to ~= 'x' then fit = fit and of_kind(target, kinds[to]) and of_kind(target_hash, 'hash') end
if to == 'l' then fit = fit and of_kind(KEYS[7], 'list') and of_kind(KEYS[8], 'hash') end
if not fit then return redis.error_reply('WRONGTYPE a key of this queue is of another kind') end
local back = false
if ARGV[8] ~= '' then
  local beat = redis.call('ZSCORE', KEYS[9], ARGV[7])
  back = beat and tonumber(beat) > tonumber(ARGV[8])
end
local places = {}
if from == 'l' then
  local wanted, count = {}, 0
  for i = 9, #ARGV, 6 do wanted[ARGV[i]], count = true, count + 1 end
  places = find(source, tonumber(ARGV[6]), wanted, count)
end
local function there(key)
  if from == 'z' then return redis.call('ZSCORE', source, key) end
  if from == 'a' then return redis.call('SISMEMBER', source, key) == 1 end
  return places[key]
end
local outcomes, taken = {}, 0
for i = 9, #ARGV, 6 do
  local key, id, old = ARGV[i], ARGV[i + 1], ARGV[i + 3]
  local data = redis.call('HGET', hash, key)
  local outcome = 'm'
  if redis.call('SISMEMBER', KEYS[1], id) == 1 then outcome = 'a'
  elseif not there(key) then outcome = 'g'
  elseif not data then outcome = 'e'
  elseif back then outcome = 'b'
  else
    local length, from_old, to_old, from_1, to_1, from_2, to_2, delayed, score = struct.unpack('>I4I4I4I4I4I4I4Bd', ARGV[i + 2])
    if #data ~= length or string.sub(data, from_old + 1, to_old) ~= old then outcome = 'c'
    else
      if to_2 > 0 then
        data = table.concat({string.sub(data, 1, from_1), ARGV[i + 4], string.sub(data, to_1 + 1, from_2), ARGV[i + 5],
                             string.sub(data, to_2 + 1)})
      elseif to_1 > 0 then data = string.sub(data, 1, from_1) .. ARGV[i + 4] .. string.sub(data, to_1 + 1) end
      local list, list_hash = target, target_hash
      if delayed == 1 then list, list_hash = KEYS[7], KEYS[8] end
      if to ~= 'x' then
        redis.call('HSET', list_hash, key, data)
        if to == 'l' then redis.call('RPUSH', list, key) else redis.call('ZADD', list, string.format('%.0f', score), key) end
      end
      redis.call('SADD', KEYS[1], id)
      if ARGV[5] == '1' then redis.call('HSET', KEYS[2], key, id) end
      if from == 'z' then if to ~= 'z' or list ~= source then redis.call('ZREM', source, key) end
      elseif from == 'a' then redis.call('SREM', source, key)
      else
        redis.call('LSET', source, places[key], 'queueops:taken')
        taken = taken + 1
      end
      if to == 'x' or list_hash ~= hash then redis.call('HDEL', hash, key) end
    end
  end
  outcomes[#outcomes + 1] = outcome
end
if taken > 0 then redis.call('LREM', source, taken, 'queueops:taken') end
redis.call('EXPIRE', KEYS[1], tonumber(ARGV[4]))
redis.call('EXPIRE', KEYS[2], tonumber(ARGV[4]))
return table.concat(outcomes)
"""
)

# How many are left to be swept. KEYS: sorted set. ARGV: score or '', member, last score.
LEFT = BEHIND + "return redis.call('ZCOUNT', KEYS[1], '-inf', ARGV[3]) - behind(KEYS[1], ARGV[1], ARGV[2])"

# Requeues the next dead or parked tasks, whatever they are, where their messages are just as Dramatiq writes them: what is dropped and
# added is cut out of the text of the options, which have to be flat. A key followed by a colon stands in no text, where its quotes
# would be escaped. All others are only named, for the slow way.
# KEYS: moved, pending, source, its hash, queue, its hash.
# ARGV: score or '', member, last score, size, seconds to keep moved and pending, 1 to note them as pending, how messages begin.
# Answers score and member of the last one, how many there were, the letters of those not moved (as for MOVE), actors and numbers,
# the keys for the slow way.
SWEEP = (
    BEHIND
    + """
local source, hash, head = KEYS[3], KEYS[4], ARGV[7]
local function of_kind(key, kind)
  local found = redis.call('TYPE', key).ok
  return found == 'none' or found == kind
end
if not (of_kind(KEYS[1], 'set') and of_kind(KEYS[2], 'hash') and of_kind(source, 'zset') and of_kind(hash, 'hash')
        and of_kind(KEYS[5], 'list') and of_kind(KEYS[6], 'hash')) then
  return redis.error_reply('WRONGTYPE a key of this queue is of another kind')
end
local function without_traceback(text)
  local from, to = string.find(text, '"traceback":"', 1, true)
  if not from then return text end
  local stop = to
  repeat
    stop = string.find(text, '"', stop + 1, true)
    if not stop then return nil end
    local escapes = string.match(string.sub(text, to + 1, stop - 1), '\\\\*$')
  until #escapes % 2 == 0
  if string.sub(text, stop + 1, stop + 1) == ',' then return string.sub(text, 1, from - 1) .. string.sub(text, stop + 2) end
  return string.sub(text, 1, from - 1) .. string.sub(text, stop + 1)
end
local function edited(data)
  if string.sub(data, 1, #head) ~= head then return nil end
  local actor = string.match(data, '^"actor_name":"([^"\\]*)"', #head + 1)
  local tail, id = string.match(string.sub(data, -130), '(,"message_id":"([^"\\]+)","message_timestamp":%d+})$')
  local from = string.find(data, '},"options":{', #head, true)
  if not actor or not id or not from then return nil end
  local options = without_traceback(string.sub(data, from + 12, #data - #tail))
  if not options or string.find(options, '[%[%]{}\\]', 2) ~= #options then return nil end
  local body = ',' .. string.gsub(string.sub(options, 2, -2), ',$', '') .. ','
  local times = tonumber(string.match(body, ',"queueops_redrives":(%d+),') or '0')
  for _, name in ipairs({'retries', 'requeue_timestamp', 'queueops_redrives'}) do
    body = string.gsub(body, ',"' .. name .. '":%d+,', ',')
    if string.find(body, ',"' .. name .. '":', 1, true) then return nil end
  end
  if string.find(body, ',"eta":', 1, true) or string.find(body, ',"queueops_action":', 1, true)
     or string.find(body, ',"traceback":', 1, true) then return nil end
  local new = '{' .. string.sub(body, 2) .. string.format('"queueops_redrives":%d}', times + 1)
  return string.sub(data, 1, from + 11) .. new .. tail, id, actor
end
local start = behind(source, ARGV[1], ARGV[2])
local entries = redis.call('ZRANGE', source, start, start + tonumber(ARGV[4]) - 1, 'WITHSCORES')
local score, member, count, letters, actors, slow = ARGV[1], ARGV[2], 0, {}, {}, {}
for i = 1, #entries, 2 do
  if tonumber(entries[i + 1]) > tonumber(ARGV[3]) then break end
  member, score, count = entries[i], entries[i + 1], count + 1
  local data = redis.call('HGET', hash, member)
  local new, id, actor
  if data then new, id, actor = edited(data) end
  if not data then letters[#letters + 1] = 'e'
  elseif not new then slow[#slow + 1] = member
  elseif redis.call('SISMEMBER', KEYS[1], id) == 1 then letters[#letters + 1] = 'a'
  else
    redis.call('HSET', KEYS[6], member, new)
    redis.call('RPUSH', KEYS[5], member)
    redis.call('SADD', KEYS[1], id)
    if ARGV[6] == '1' then redis.call('HSET', KEYS[2], member, id) end
    redis.call('ZREM', source, member)
    redis.call('HDEL', hash, member)
    actors[actor] = (actors[actor] or 0) + 1
  end
end
redis.call('EXPIRE', KEYS[1], tonumber(ARGV[5]))
redis.call('EXPIRE', KEYS[2], tonumber(ARGV[5]))
local named = {}
for actor, number in pairs(actors) do
  named[#named + 1] = actor
  named[#named + 1] = tostring(number)
end
return {score, member, count, table.concat(letters), table.concat(named, '\0'), table.concat(slow, '\0')}
"""
)
