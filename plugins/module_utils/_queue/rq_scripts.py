# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scripts with which a redrive of RQ's tasks runs inside the server.

A place is a sorted set (failed, parked, executing) or a list (queued, abandoned). Its members are task ids, but for those of
``executing``, which are ``<task>:<execution>``. Fields are joined by NUL and tasks by SOH, because the client reads one long
string much faster than thousands of short ones. A task's field ``data`` is asked for its presence alone.
"""

from __future__ import annotations

from .redis_rights import LACKING

_TASK = """
local function task_of(kind, member)
  if kind == 'executing' then return string.match(member, '^(.*):[^:]*$') or member end
  return member
end
local function name_of(description)
  return description and string.match(description, '^([%a_][%w_%.]*)%(') or ''
end
"""

# What is told of one task: the name of the function is cut out here, so that arguments never leave the server.
_CARD = (
    _TASK
    + """
local cards = {}
local function card(prefix, kind, moved, member, score, opened)
  local id = task_of(kind, member)
  local job = prefix .. ':job:' .. id
  local f = redis.call('HMGET', job, 'status', 'description', 'worker_name', 'ended_at', 'queueops_redrives', 'queueops_redriven_at')
  local already, back = 0, 0
  if moved ~= '' then already = redis.call('SISMEMBER', moved, id) end
  if already == 1 and f[6] and tonumber(f[6]) >= opened then back = 1 end
  cards[#cards + 1] = table.concat({member, id, score, redis.call('HEXISTS', job, 'data'), f[1] or '', name_of(f[2]), f[3] or '',
                                    f[4] or '', f[5] or '', already, back}, '\\0')
end
"""
)

# Where a walk goes on: after the last member that it left in place. That is found again by its rank, so that other people's
# removals make the walk neither skip nor stop.
_START = """
local function start_of(place, anchor, score)
  if anchor == '' then return 0 end
  local rank = redis.call('ZRANK', place, anchor)
  if rank then return rank + 1 end
  return redis.call('ZCOUNT', place, '-inf', '(' .. score)
end
"""

# A window of a sorted set, up to the score at which it ended when the redrive began.
# KEYS: place. ARGV: prefix, kind, moved set or '', anchor, its score, size, last score, when the redrive began.
WINDOW = (
    _CARD
    + _START
    + """
local start = start_of(KEYS[1], ARGV[4], ARGV[5])
local entries = redis.call('ZRANGE', KEYS[1], start, start + tonumber(ARGV[6]) - 1, 'WITHSCORES')
for i = 1, #entries, 2 do
  if tonumber(entries[i + 1]) > tonumber(ARGV[7]) then break end
  card(ARGV[1], ARGV[2], ARGV[3], entries[i], entries[i + 1], tonumber(ARGV[8]))
end
return table.concat(cards, '\\1')
"""
)

# A window of a list. It goes on after the last of the anchors (latest first) that is still there.
# KEYS: place. ARGV: prefix, kind, moved set or '', hint, size, when the redrive began, anchors...
# Answers the position of the first card, then the cards.
LIST_WINDOW = (
    _CARD
    + """
local start = 0
for i = 7, #ARGV do
  local found = redis.call('LPOS', KEYS[1], ARGV[i], 'MAXLEN', tonumber(ARGV[4]) + 1000)
  if found then start = found + 1 break end
end
for _, member in ipairs(redis.call('LRANGE', KEYS[1], start, start + tonumber(ARGV[5]) - 1)) do
  card(ARGV[1], ARGV[2], ARGV[3], member, '0', tonumber(ARGV[6]))
end
return start .. '\\1' .. table.concat(cards, '\\1')
"""
)

# The same for named tasks; the score is empty where the task is not in the place.
# KEYS: place. ARGV: prefix, kind, moved set or '', when the redrive began, members...
CARDS = (
    _CARD
    + """
for i = 5, #ARGV do
  local score = '0'
  if ARGV[2] == 'failed' or ARGV[2] == 'parked' then score = redis.call('ZSCORE', KEYS[1], ARGV[i]) or '' end
  card(ARGV[1], ARGV[2], ARGV[3], ARGV[i], score, tonumber(ARGV[4]))
end
return table.concat(cards, '\\1')
"""
)

# Acts on tasks, each checked again here, so that two redrives, a worker or an operator at the same time cannot make one run twice or
# vanish. First everything is read and marked, then the tasks arrive, then they leave: an error on the way could double, never lose.
# One letter a task: m moved, g gone from the place, e expired, s in another state, a already moved by this run, w no list to go to.
# A requeue ends as RQ's own does, but that the time of the first enqueueing stays.
_ACT = (
    _TASK
    + LACKING
    + """
local call = redis.call
local prefix, kind, action, destination, queue = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local now_iso, failure, parked = ARGV[7], ARGV[8], ARGV[9]
local clock = call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local stamp = string.format('%.6f', now)
local wanted = ({failed = 'failed', parked = 'deferred', queued = 'queued', executing = 'started', abandoned = 'queued'})[kind]
local intermediate = prefix .. ':queue:' .. queue .. ':intermediate'
local in_set = kind == 'failed' or kind == 'parked'
local requeue = action == 'requeue' or action == 'compensate'
local places, limited, leave, freed, marked = {}, {}, {}, {}, {}
local any_job = prefix .. ':job:'
local refused = lacking({'HSET', any_job, 'a', 'b'}, {'HDEL', any_job, 'a'}, {'PERSIST', any_job}, {'EXPIRE', any_job, '1'},
  {'UNLINK', any_job}, {'XADD', prefix .. ':results:', '*', 'a', 'b'}, {'SADD', KEYS[2], 'a'}, {'RPUSH', intermediate, 'a'},
  {'LPUSH', intermediate, 'a'}, {'LREM', intermediate, '1', 'a'}, {'DEL', intermediate}, {'LSET', KEYS[1], '0', 'a'},
  {'ZADD', KEYS[1], '0', 'a'}, {'ZREM', KEYS[1], 'a'}, {'ZREMRANGEBYRANK', KEYS[1], '0', '0'})
if refused then return refused end
-- Fewer calls are what makes it fast: what can be asked of all tasks at once is asked before the first is acted on.
local jobs, already, related, old_errors = {}, {}, false, false
local count_marked, count_left = 0, 0

-- Whether any task waits for another one: only then are there keys of dependents to keep.
local function deferred()
  local keys = call('SMEMBERS', prefix .. ':queues')
  if #keys == 0 or #keys > 500 then return #keys > 0 end
  for i, key in ipairs(keys) do keys[i] = prefix .. ':deferred:' .. string.sub(key, #prefix + 8) end
  return call('EXISTS', unpack(keys)) > 0
end

local function prepare(members)
  for i = 1, #members do jobs[i] = prefix .. ':job:' .. task_of(kind, members[i]) end
  if #jobs == 0 then return end
  if deferred() then
    local keys = {}
    for i = 1, #jobs do keys[i] = jobs[i] .. ':dependents' end
    related = call('EXISTS', unpack(keys)) > 0
  end
  -- Older RQ keeps errors in the tasks' own records.
  old_errors = call('HEXISTS', jobs[1], 'exc_info') == 1
end

-- A queue's key and those who go there; false where the key holds something else.
local function place_of(target)
  local place = places[target]
  if place == nil then
    local key = prefix .. ':queue:' .. target
    local found = call('TYPE', key).ok
    place = (found == 'list' or found == 'none') and {key = key, ids = {}, count = 0}
    places[target] = place
  end
  return place
end

local function keep(job, f, seconds)
  if seconds then call('EXPIRE', job, seconds) else call('PERSIST', job) end
  if not related and not f[8] then return end
  for _, key in ipairs({job .. ':dependents', job .. ':dependencies'}) do
    if seconds then call('EXPIRE', key, seconds) else call('PERSIST', key) end
  end
end

local function read(job)
  return call('HMGET', job, 'status', 'origin', 'ttl', 'queueops_redrives', 'description', 'worker_name', 'rate_limit_key',
              'dependency_ids')
end

local function act(member, id, job, f)
  -- A failed task without the count was never redriven, so that no run has moved it.
  if already[id] or ((kind ~= 'failed' or f[4]) and call('SISMEMBER', KEYS[2], id) == 1) then return 'a' end
  -- The description is only ever written together with the payload.
  if not f[5] and call('HEXISTS', job, 'data') == 0 then return 'e' end
  if f[1] ~= wanted and not (kind == 'failed' and f[1] == 'stopped') then
    local begun = kind == 'executing' and f[1] == 'queued' and call('LPOS', intermediate, id)
    if not begun then return 's' end
  end
  local origin = f[2]
  if not origin or origin == '' then origin = queue end
  local target = destination
  if target == '' then target = origin end
  local place = requeue and place_of(target)
  if requeue and not place then return 'w' end
  if not in_set then already[id] = true end
  count_marked = count_marked + 1
  marked[count_marked] = id
  local most = f[7] and tonumber(call('HGET', job, 'rate_limit_concurrency') or '')
  local slots = most and prefix .. ':rl:' .. f[7]
  if requeue then
    call('HSET', job, 'status', slots and 'rate_limited' or 'queued', 'started_at', '', 'ended_at', '', 'queueops_redriven_at', stamp,
         'queueops_redrives', f[4] and (tonumber(f[4]) or 0) + 1 or '1')
    if target ~= f[2] then call('HSET', job, 'origin', target) end
    if action == 'compensate' then call('HSET', job, 'queueops_action', action) end
    if old_errors then call('HDEL', job, 'exc_info') end
    local ttl = f[3] and tonumber(f[3])
    if ttl or related or f[8] then keep(job, f, ttl and ttl > 0 and ttl or nil) else call('PERSIST', job) end
    if slots then
      call('SADD', prefix .. ':rl-keys', f[7])
      call('HSET', slots, 'concurrency', most)
      call('ZADD', slots .. ':rate_limited', stamp, id)
      call('SADD', prefix .. ':queues', place.key)
    else
      place.count = place.count + 1
      place.ids[place.count] = id
    end
  elseif action == 'discard' then
    freed[#freed + 1] = job
    freed[#freed + 1] = job .. ':dependents'
    freed[#freed + 1] = job .. ':dependencies'
    freed[#freed + 1] = prefix .. ':results:' .. id
  elseif action == 'park' then
    if kind == 'parked' then return 'k' end
    call('HSET', job, 'status', 'deferred', 'queueops_redriven_at', stamp)
    keep(job, f)
    call('PERSIST', prefix .. ':results:' .. id)
    call('ZADD', parked .. origin, stamp, id)
  else
    call('HSET', job, 'status', 'failed', 'queueops_redrives', f[4] or 0, 'queueops_redriven_at', stamp)
    if kind == 'failed' then return 'k' end
    local ttl = tonumber(call('HGET', job, 'failure_ttl') or '') or 31536000
    call('HSET', job, 'ended_at', now_iso)
    call('XADD', prefix .. ':results:' .. id, 'MAXLEN', '10', '*', 'type', '2', 'worker_name', '', 'exc_string', failure)
    call('ZADD', prefix .. ':failed:' .. origin, ttl < 0 and ttl or math.floor(now) + ttl, id)
    if ttl > 0 then
      keep(job, f, ttl)
      call('EXPIRE', prefix .. ':results:' .. id, ttl)
    end
  end
  if slots then
    call('ZREM', slots .. ':allowed', id)
    limited[slots] = most
  end
  count_left = count_left + 1
  leave[count_left] = member
  return 'm'
end

local function settle(kept, whole)
  if #marked > 0 then call('SADD', KEYS[2], unpack(marked)) end
  for _, place in pairs(places) do
    if place and #place.ids > 0 then
      call('SADD', prefix .. ':queues', place.key)
      if kind == 'abandoned' or kind == 'executing' then
        for i = #place.ids, 1, -1 do call('LPUSH', place.key, place.ids[i]) end
      else
        call('RPUSH', place.key, unpack(place.ids))
      end
    end
  end
  if whole and #leave == whole[2] - whole[1] + 1 then
    -- All of them leave from one stretch.
    call('ZREMRANGEBYRANK', KEYS[1], whole[1], whole[2])
  elseif #leave > 0 and (in_set or kind == 'executing') then call('ZREM', KEYS[1], unpack(leave)) end
  for i = 1, #freed, 1000 do call('UNLINK', unpack(freed, i, math.min(i + 999, #freed))) end
  if call('EXISTS', KEYS[2]) == 1 then call('EXPIRE', KEYS[2], kept) end
  for slots, concurrency in pairs(limited) do
    while call('ZCARD', slots .. ':allowed') < concurrency do
      local popped = call('ZPOPMIN', slots .. ':rate_limited')
      if #popped == 0 then break end
      local job = prefix .. ':job:' .. popped[1]
      local f = call('HMGET', job, 'origin', 'status', 'enqueue_at_front')
      if f[1] and f[2] == 'rate_limited' then
        call('ZADD', slots .. ':allowed', stamp, popped[1])
        if f[3] == '1' then call('LPUSH', prefix .. ':queue:' .. f[1], popped[1])
        else call('RPUSH', prefix .. ':queue:' .. f[1], popped[1]) end
        call('HSET', job, 'status', 'queued')
      end
    end
  end
end
"""
)

#: Arguments of ``APPLY`` and ``SWEEP`` before their own: prefix, kind, action, destination or '', queue, run, now (ISO), the text of a
#: failure as RQ packs it, prefix of the parking places, seconds to keep the moved set.
# KEYS: place, moved set. ARGV: the above, where the first and the last were seen, members...
# A letter for each; k: done, and it stays where it is.
APPLY = (
    _ACT
    + """
local outcomes, there = {}, {}
local low = 0
if kind == 'queued' then
  -- Members of a list are found near where they were seen; each is replaced by a mark, and all marks are removed at once.
  low = math.max(0, tonumber(ARGV[11]) - 1000)
  for index, member in ipairs(redis.call('LRANGE', KEYS[1], low, tonumber(ARGV[12]) + 100)) do
    if not there[member] then there[member] = low + index - 1 end
  end
end
local members = {}
for i = 13, #ARGV do members[i - 12] = ARGV[i] end
prepare(members)
for i, member in ipairs(members) do
  local outcome
  if kind == 'queued' then
    if not there[member] then outcome = 'g' end
  elseif kind == 'abandoned' then
    if not redis.call('LPOS', KEYS[1], member) then outcome = 'g' end
  elseif not redis.call('ZSCORE', KEYS[1], member) then
    outcome = 'g'
  end
  outcomes[i] = outcome or act(member, task_of(kind, member), jobs[i], read(jobs[i]))
end
if kind == 'queued' and #leave > 0 then
  for _, member in ipairs(leave) do redis.call('LSET', KEYS[1], there[member], '\\0queueops') end
  local count = #leave
  if low > redis.call('LLEN', KEYS[1]) / 2 then count = -count end
  redis.call('LREM', KEYS[1], count, '\\0queueops')
elseif kind == 'abandoned' then
  for _, member in ipairs(leave) do
    redis.call('LREM', KEYS[1], 1, member)
    redis.call('DEL', KEYS[1] .. ':first_seen:' .. member)
  end
elseif kind == 'executing' then
  -- Until the execution has really begun, the task is in both places.
  for _, member in ipairs(leave) do redis.call('LREM', intermediate, 1, task_of(kind, member)) end
end
settle(tonumber(ARGV[10]))
return table.concat(outcomes)
"""
)

# Acts on the next members of a sorted set, whatever they are.
# KEYS: place, moved set. ARGV: as above, anchor, its score, size, last score, when the redrive began.
# Answers lines of fields: o outcome count; n task worker count; l last member left in place and its score.
SWEEP = (
    _ACT
    + _START
    + """
local start = start_of(KEYS[1], ARGV[11], ARGV[12])
local most = math.min(tonumber(ARGV[13]), call('ZCOUNT', KEYS[1], '-inf', ARGV[14]) - start)
local members = most > 0 and call('ZRANGE', KEYS[1], start, start + most - 1) or {}
local outcomes, counts, lines, left = {}, {}, {}, nil
prepare(members)
-- Neighbours are mostly alike: they are counted together, and their name is cut out once.
local name, call_of, worker, alike, moved = '', '(', '', 0, 0
local function count()
  if alike == 0 then return end
  if not counts[name] then counts[name] = {} end
  counts[name][worker] = (counts[name][worker] or 0) + alike
  alike = 0
end
for i = 1, #members do
  local member, job = members[i], jobs[i]
  local f = read(job)
  local outcome = act(member, member, job, f)
  if outcome == 'm' then moved = moved + 1
  else
    -- Moved by this run before: by an earlier attempt, or it has come back since this one began.
    local since = outcome == 'a' and call('HGET', job, 'queueops_redriven_at')
    if since and tonumber(since) >= tonumber(ARGV[15]) then outcome = 'b' end
    outcomes[outcome] = (outcomes[outcome] or 0) + 1
    left = member
  end
  if outcome == 'm' or outcome == 'k' then
    if string.sub(f[5] or '', 1, #call_of) ~= call_of or (f[6] or '') ~= worker then
      count()
      name, worker = name_of(f[5]), f[6] or ''
      call_of = name .. '('
    end
    alike = alike + 1
  end
end
count()
if moved > 0 then outcomes['m'] = moved end
settle(tonumber(ARGV[10]), #members > 0 and {start, start + #members - 1})
for outcome, count in pairs(outcomes) do lines[#lines + 1] = 'o\\0' .. outcome .. '\\0' .. count end
for name, workers in pairs(counts) do
  for worker, count in pairs(workers) do lines[#lines + 1] = 'n\\0' .. name .. '\\0' .. worker .. '\\0' .. count end
end
if left then lines[#lines + 1] = 'l\\0' .. left .. '\\0' .. call('ZSCORE', KEYS[1], left) end
return table.concat(lines, '\\1')
"""
)

# How many members are still to be swept. KEYS: place. ARGV: anchor, its score, last score.
REST = (
    _START
    + """
return math.max(0, redis.call('ZCOUNT', KEYS[1], '-inf', ARGV[3]) - start_of(KEYS[1], ARGV[1], ARGV[2]))
"""
)

# Members of a place from one position to another, joined. KEYS: place. ARGV: z or l, from, to.
MEMBERS = """
local command = 'LRANGE'
if ARGV[1] == 'z' then command = 'ZRANGE' end
return table.concat(redis.call(command, KEYS[1], ARGV[2], ARGV[3]), '\\1')
"""

# The tasks in workers' hands, each once: while one begins it is in both places. KEYS: intermediate, executions.
IN_HAND = """
local found, seen = {}, {}
for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local id = string.match(member, '^(.*):[^:]*$') or member
  found[#found + 1] = id
  seen[id] = true
end
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  if not seen[id] then found[#found + 1] = id end
end
return table.concat(found, '\\1')
"""

# The states of tasks, joined; empty for one whose record is gone. ARGV: prefix, ids...
STATES = """
local found = {}
for i = 2, #ARGV do found[#found + 1] = redis.call('HGET', ARGV[1] .. ':job:' .. ARGV[i], 'status') or '' end
return table.concat(found, '\\1')
"""
