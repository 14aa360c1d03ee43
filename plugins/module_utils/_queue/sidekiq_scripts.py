# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done on the Redis server for Sidekiq's tasks. A task is JSON text; it is cut and joined there, never decoded and written anew.

(A decoder would turn big numbers into floating point and empty lists into objects.)
"""

from __future__ import annotations

# Finds the top-level members of a task that are of interest; arguments may hold members of the same names.
# members(s) answers where the object ends, or nil where the text is no object; where(s, name) then where a value begins and ends.
# As Sidekiq writes them, a task is flat but for its arguments, without spaces: then a member is looked for behind and before those,
# where '{"name":' or ',"name":' can be nothing else. Any other object is read from its beginning to its end.
_MEMBERS = """
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
_OURS = """
local function ours(s, queue, pass, late)
  if queue ~= '' and text(s, 'queue') ~= queue then return false end
  if find(s, '"queueops_', 1, true) and raw(s, 'queueops_pass') == pass then return false end
  if late > 1e299 then return true end
  local died = tonumber(raw(s, 'retried_at')) or tonumber(raw(s, 'failed_at')) or 0
  if died > 1e11 then died = died / 1000 end
  return died <= late
end
"""

# Where a window begins that comes behind (score, member), whether that one is still there or not. Members of one score are
# compared byte by byte, as the server sorts them; Lua's own < goes by the server's language.
_START = """
local function later(one, other)
  for i = 1, math.min(#one, #other) do
    local mine, theirs = byte(one, i), byte(other, i)
    if mine ~= theirs then return mine > theirs end
  end
  return #one > #other
end
local function begin(key, score, member)
  if score == '' then return 0 end
  local rank = redis.call('ZRANK', key, member)
  if rank then return rank + 1 end
  local low, high = redis.call('ZCOUNT', key, '-inf', '(' .. score), redis.call('ZCOUNT', key, '-inf', score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if later(redis.call('ZRANGE', key, middle, middle)[1], member) then high = middle else low = middle + 1 end
  end
  return low
end
"""

# Takes tasks out of the source, checks each once more, and puts it where it is to go; all at the end, the refusable first.
# HEAD, the first arguments: key prefix, run, pass, now (s), now (ms), parked, dead, most in dead, seconds to keep the moved set.
# KEYS: source, moved.
_ACT = """
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
  if action == 'requeue' or action == 'compensate' then
    local queue = destination ~= '' and name or text(s, 'queue')
    if not queue or queue == '' then return 'q' end
    local to = target_of(queue)
    to[#to + 1] = renewed(s, stop, destination, action == 'compensate')
  elseif action == 'fail' or action == 'dead_letter' then
    if not room then
      of_kind(DEAD, 'zset')
      -- What is dead already takes no more room.
      room = SOURCE == DEAD and math.huge or DEAD_MOST - redis.call('ZCARD', DEAD)
    end
    if room <= 0 then return 'f' end
    room = room - 1
    dead[#dead + 1] = s
  elseif action == 'park' then
    if #parked == 0 then of_kind(PARKED, 'zset') end
    parked[#parked + 1] = s
  end
  gone[#gone + 1] = s
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
local function finish()
  if #gone == 0 then return end
  redis.call('SADD', MOVED, unpack(jids))
  redis.call('EXPIRE', MOVED, KEPT)
  if places then
    for i = 1, #gone do redis.call('LSET', SOURCE, places[gone[i]], 'queueops:taken') end
    redis.call('LREM', SOURCE, -#gone, 'queueops:taken')
  end
  for key, entries in pairs(pushed) do
    if #entries > 0 then redis.call('LPUSH', key, unpack(entries)) end
  end
  if #queues > 0 then redis.call('SADD', PREFIX .. 'queues', unpack(queues)) end
  -- Before they are added anew: the dead task that stays dead is the same member.
  if not places then redis.call('ZREM', SOURCE, unpack(gone)) end
  if #dead > 0 then store(DEAD, dead) end
  if #parked > 0 then store(PARKED, parked) end
end
"""

# Tells a window of a sorted set, of one queue's tasks alone: "length of the task, length of its score, flag" and both, each time.
# KEYS: source, moved. ARGV: queue or '', run, pass, last score, late, score or '', member, size, bytes.
# Answers {where it ended: score, member, 1 when nothing comes behind; the tasks}. Flag a: already moved by this run.
WINDOW = (
    _MEMBERS
    + _OURS
    + _START
    + """
local QUEUE, RUN, PASS, LATE = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])
local size = tonumber(ARGV[8])
local start = begin(KEYS[1], ARGV[6], ARGV[7])
local entries = redis.call('ZRANGE', KEYS[1], start, start + size - 1, 'WITHSCORES')
local told, bytes, ended, score, member = {}, 0, #entries < 2 * size and 1 or 0, ARGV[6], ARGV[7]
for i = 1, #entries, 2 do
  if tonumber(entries[i + 1]) > tonumber(ARGV[4]) then
    ended = 1
    break
  end
  member, score = entries[i], entries[i + 1]
  if members(member) and ours(member, QUEUE, PASS, LATE) then
    local jid, flag = text(member, 'jid'), '.'
    if jid and where(member, 'queueops_run') and redis.call('SISMEMBER', KEYS[2], jid) == 1 then flag = 'a' end
    told[#told + 1] = #member .. ' ' .. #score .. ' ' .. flag .. ' ' .. score .. member
    bytes = bytes + #member
    if bytes > tonumber(ARGV[9]) then
      ended = 0
      break
    end
  end
end
return {score, member, ended, table.concat(told)}
"""
)

# Acts on the next tasks of a sorted set. KEYS: source, moved.
# ARGV: HEAD, queue or '', last score, late, score or '', member, action, destination (JSON) or '', its name, most,
# to look at, queue (JSON).
# Answers {score, member, 1 when nothing comes behind, letters of outcomes, class and number...}; with most 0 it only counts (n).
SWEEP = (
    _MEMBERS
    + _OURS
    + _START
    + _ACT
    + """
local QUEUE, LATE, most, size = ARGV[10], tonumber(ARGV[12]), tonumber(ARGV[18]), tonumber(ARGV[19])
local action, destination, name = ARGV[15], ARGV[16], ARGV[17]
local start = begin(SOURCE, ARGV[13], ARGV[14])
local entries = redis.call('ZRANGE', SOURCE, start, start + size - 1)
local ended, score, member = #entries < size and 1 or 0, ARGV[13], ARGV[14]
local outcomes, classes, last, many = {}, {}, tonumber(ARGV[11]), #entries
if many > 0 and tonumber(redis.call('ZSCORE', SOURCE, entries[many])) > last then
  many = redis.call('ZCOUNT', SOURCE, '-inf', ARGV[11]) - start
  ended = 1
end
-- The task that is most often met, without a table: as Sidekiq writes it, flat but for its arguments, of this queue and not marked.
local IN_QUEUE = ',"queue":' .. ARGV[20]
local target
local function timely(s, stop)
  if LATE > 1e299 then return true end
  local first, at = find(s, ',"retried_at":', stop, true)
  if not at then first, at = find(s, ',"failed_at":', stop, true) end
  local died = at and tonumber(sub(s, at + 1, find(s, '[,}]', at) - 1))
  return died and (died > 1e11 and died / 1000 or died) <= LATE
end
local function quick(s)
  local open = find(s, '[', 1, true)
  if not open or byte(s) ~= 123 or sub(s, open - 8, open - 1) ~= ',"args":' or find(s, '"queueops_', 1, true) then return false end
  local nested = find(s, '{', 2, true)
  local stop = (not nested or nested > open) and past_nested(s, open)
  if not stop or find(s, '[', stop, true) or find(s, '{', stop, true) then return false end
  local queue = find(s, IN_QUEUE, 1, true)
  local first, at = find(s, ',"jid":"', stop, true)
  local low, from = find(s, ',"enqueued_at":', stop, true)
  local high, count = find(s, ',"retry_count":', stop, true)
  if not queue or (queue > open and queue < stop) or not at or not low or not high or low > high then return false end
  local till, past = find(s, '[,}]', from), find(s, '[,}]', count)
  local named, class = find(s, '"class":"', 1, true)
  local number = tonumber(sub(s, count + 1, past - 1))
  if not named or (named > open and named < stop) or not number or byte(s, at + 25) ~= 34 then return false end
  if find(s, '"wrapped"', 1, true) or not timely(s, stop) then return false end
  class = sub(s, class + 1, find(s, '"', class + 1, true) - 1)
  classes[class] = (classes[class] or 0) + 1
  local dot = find(s, '.', from, true)
  local entered = till - from == 14 and not (dot and dot < till) and NOW_MS or NOW
  target[#target + 1] = sub(s, 1, from) .. entered .. sub(s, till, count) .. (number - 1) .. sub(s, past, -2) .. FIRST .. '}'
  gone[#gone + 1] = s
  jids[#jids + 1] = sub(s, at + 1, at + 24)
  return true
end
if most > 0 and action == 'requeue' and destination == '' and QUEUE ~= '' then target = target_of(QUEUE) end
for i = 1, many do
  if most > 0 and #outcomes >= most then
    ended = 0
    break
  end
  member = entries[i]
  if target and quick(member) then outcomes[#outcomes + 1] = 'm'
  else
    local stop = members(member)
    if stop and ours(member, QUEUE, PASS, LATE) then
      if most == 0 then outcomes[#outcomes + 1] = 'n'
      else
        local outcome = act(member, stop, action, destination, name)
        outcomes[#outcomes + 1] = outcome
        if outcome == 'm' then
          local class = find(member, '"wrapped"', 1, true) and text(member, 'wrapped') or text(member, 'class') or 'unknown'
          classes[class] = (classes[class] or 0) + 1
        end
      end
    end
  end
end
if many > 0 then score = redis.call('ZSCORE', SOURCE, member) end
finish()
local answer = {score, member, ended, table.concat(outcomes)}
for class, count in pairs(classes) do
  answer[#answer + 1] = class
  answer[#answer + 1] = count
end
return answer
"""
)

# Acts on chosen tasks of a sorted set. KEYS: source, moved. ARGV: HEAD, then four a task: its text, action, destination (JSON), its name.
# Answers one letter a task: m moved, g gone, a already moved by this run, f the dead set is full, i it has no id, q it names no queue.
APPLY = (
    _MEMBERS
    + _ACT
    + """
local outcomes, seen = {}, {}
for i = 10, #ARGV, 4 do
  local s, outcome = ARGV[i], 'g'
  if not seen[s] and redis.call('ZSCORE', SOURCE, s) then
    seen[s] = true
    outcome = act(s, members(s), ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
  end
  outcomes[#outcomes + 1] = outcome
end
finish()
return table.concat(outcomes)
"""
)

# Where in a list some tasks are. Workers take from its right end, so each can only have come nearer to that: searched from behind.
_FIND = """
local function search(list, most, wanted, count)
  local found, from, length = {}, most, redis.call('LLEN', list)
  while from > 0 and count > 0 do
    local to = math.max(1, from - 999)
    local part = redis.call('LRANGE', list, -from, -to)
    local first = math.max(0, length - from)
    for i = 1, #part do
      if wanted[part[i]] and not found[part[i]] then
        found[part[i]] = first + i - 1
        count = count - 1
      end
    end
    from = to - 1
  end
  return found, length
end
"""

# Tells a window of a list, the oldest (rightmost) first, from behind the last one that was left in it; like WINDOW.
# KEYS: source, moved. ARGV: pass, text of the last one left or '', how many were left up to it, size, bytes.
# Answers {how many are left up to there now, how many were looked at, 1 at a task that came back in this pass; the tasks}.
LIST_WINDOW = (
    _MEMBERS
    + _FIND
    + """
local left, size = tonumber(ARGV[3]), tonumber(ARGV[4])
if left > 0 and redis.call('LINDEX', KEYS[1], -left) ~= ARGV[2] then
  local found, length = search(KEYS[1], left, {[ARGV[2]] = true}, 1)
  left = found[ARGV[2]] and length - found[ARGV[2]] or 0
end
local entries = redis.call('LRANGE', KEYS[1], -(left + size), -(left + 1))
local told, bytes, seen, ended = {}, 0, 0, 0
for i = #entries, 1, -1 do
  local s, flag = entries[i], '.'
  if members(s) then
    if raw(s, 'queueops_pass') == ARGV[1] then
      ended = 1
      break
    end
    local jid = text(s, 'jid')
    if jid and where(s, 'queueops_run') and redis.call('SISMEMBER', KEYS[2], jid) == 1 then flag = 'a' end
  else flag = 'x' end
  seen = seen + 1
  told[#told + 1] = #s .. ' 0 ' .. flag .. ' ' .. s
  bytes = bytes + #s
  if bytes > tonumber(ARGV[5]) then break end
end
return {left, seen, ended, table.concat(told)}
"""
)

# Like APPLY, for a list. KEYS: source, moved. ARGV: HEAD, how many to search from the right, then four a task.
LIST_APPLY = (
    _MEMBERS
    + _ACT
    + _FIND
    + """
local wanted, count, outcomes, seen = {}, 0, {}, {}
for i = 11, #ARGV, 4 do wanted[ARGV[i]], count = true, count + 1 end
places = search(SOURCE, tonumber(ARGV[10]), wanted, count)
for i = 11, #ARGV, 4 do
  local s, outcome = ARGV[i], 'g'
  if not seen[s] and places[s] then
    seen[s] = true
    outcome = act(s, members(s), ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
  end
  outcomes[#outcomes + 1] = outcome
end
finish()
return table.concat(outcomes)
"""
)

# The ids of the tasks of some queues in a piece of a place. KEYS: place. ARGV: from, to, texts of which a task holds one...
IDENTITIES = """
local find, sub = string.find, string.sub
local kind, entries, ids = redis.call('TYPE', KEYS[1]).ok, {}, {}
if kind == 'zset' then entries = redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[2])
elseif kind == 'list' then entries = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2]) end
for i = 1, #entries do
  local s = entries[i]
  local ours = #ARGV == 2
  for a = 3, #ARGV do
    if find(s, ARGV[a], 1, true) then
      ours = true
      break
    end
  end
  if ours then
    local first, last = find(s, '"jid":"', 1, true)
    if not first then first, last = find(s, '"jid"%s*:%s*"') end
    local stop = last and find(s, '"', last + 1, true)
    ids[#ids + 1] = stop and sub(s, last + 1, stop - 1) or s
  end
end
return table.concat(ids, '\\n')
"""

# How many tasks of each queue a piece of a sorted set holds. KEYS: sorted set. ARGV: from, to.
COUNT = (
    _MEMBERS
    + """
local entries, counts, answer = redis.call('ZRANGE', KEYS[1], ARGV[1], ARGV[2]), {}, {}
for i = 1, #entries do
  local queue = members(entries[i]) and text(entries[i], 'queue')
  if queue then counts[queue] = (counts[queue] or 0) + 1 end
end
for queue, count in pairs(counts) do
  answer[#answer + 1] = queue
  answer[#answer + 1] = count
end
return answer
"""
)

# How many tasks with a mark a piece of a list holds. KEYS: list. ARGV: from, to, mark.
MARKED = """
local count = 0
for i, s in ipairs(redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])) do
  if string.find(s, ARGV[3], 1, true) then count = count + 1 end
end
return count
"""
