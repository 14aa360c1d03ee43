# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs inside Redis for BullMQ: reading windows of tasks, and the acts, each of which checks, marks and moves at once.

Keys are built from a base, ``<prefix>:<queue>:``; parked tasks live under a base of their own, ``queueops:parked:<prefix>:<queue>:``.
Answers are one JSON text: Redis' client is slow at thousands of array elements.
"""

from __future__ import annotations

from .redis_rights import LACKING

# Where new tasks of a queue go, and whether its workers may be woken. BullMQ before 6 keeps the tasks of a paused queue in a list of
# their own, and renames it over `wait` when it is resumed: what stood in `wait` would be lost.
PLACES = """
local call = redis.call
local function place(base)
  local f = call('HMGET', base .. 'meta', 'paused', 'concurrency', 'version', 'opts.maxLenEvents')
  local found = {base = base, list = base .. 'wait', events = base .. 'events', most = f[4] or '10000', quiet = false}
  if f[1] then
    found.quiet = true
    local major = tonumber(string.match(f[3] or '', '^bullmq:(%d+)%.') or '0')
    if major < 6 then found.list = base .. 'paused' end
  elseif f[2] then found.quiet = call('LLEN', base .. 'active') >= (tonumber(f[2]) or 0) end
  return found
end
local function wake(to) if not to.quiet then call('ZADD', to.base .. 'marker', 0, '0') end end
local function told(to, event, id, previous)
  call('XADD', to.events, 'MAXLEN', '~', to.most, '*', 'event', event, 'jobId', id, 'prev', previous)
end
-- Of a job's options only this is asked, and decoding them costs more than all else.
local function last_in_first_out(options) return options and string.find(options, '"lifo":true', 1, true) ~= nil end
local function enqueue(to, id, priority, front, previous)
  priority = tonumber(priority or '0') or 0
  if priority > 0 then
    local turn = 0
    if not front then turn = call('INCR', to.base .. 'pc') % 4294967296 end
    call('ZADD', to.base .. 'prioritized', priority * 4294967296 + turn, id)
  else
    call(front and 'RPUSH' or 'LPUSH', to.list, id)
  end
  told(to, 'waiting', id, previous)
end
-- A failed child that is retried counts again for its parent, as in BullMQ's own retry.
local function back_to_parent(job, parent)
  if call('EXISTS', parent) == 0 then return end
  local failed = call('TYPE', parent .. ':failed').ok
  if call('ZREM', parent .. ':unsuccessful', job) == 1 or (failed == 'hash' and call('HDEL', parent .. ':failed', job) == 1) then
    call('SADD', parent .. ':dependencies', job)
  end
end
-- The runs that had a task in hand stand in its own record: '+' and the run's name where it was put back, '=' where it was not.
local function met(runs, run)
  return runs and (string.find(runs, '+' .. run .. ' ', 1, true) or string.find(runs, '=' .. run .. ' ', 1, true))
end
local function json(list) if #list == 0 then return '[]' end return cjson.encode(list) end
"""

# Where a walk over a sorted set goes on: after the last of its anchors that is still there, so that removals by others make it
# neither skip nor stop. If all of them are gone, at the first with the last anchor's score.
_START = """
local function start_of(key, anchors, score)
  for _, anchor in ipairs(anchors) do
    local rank = call('ZRANK', key, anchor)
    if rank then return rank + 1 end
  end
  if score ~= '' then return call('ZCOUNT', key, '-inf', '(' .. score) end
  return 0
end
"""

_CARD = """
local function card(cards, base, id, score, run)
  local f = call('HMGET', base .. id, 'name', 'pb', 'finishedOn', 'queueops_runs')
  local n = #cards
  cards[n + 1], cards[n + 2], cards[n + 3] = id, score, f[1] and '1' or '0'
  cards[n + 4], cards[n + 5], cards[n + 6] = f[1] or '', f[2] or '', f[3] or ''
  cards[n + 7] = tostring(f[4] and select(2, string.gsub(f[4], '%+', '')) or 0)
  cards[n + 8] = run ~= '' and met(f[4], run) and '1' or '0'
end
"""

#: A window of a sorted set, oldest first.
#: KEYS: set. ARGV: base, run or '', size, highest score or '', score of the last anchor or '', anchors (latest first)...
WINDOW = (
    PLACES
    + _START
    + _CARD
    + """
local anchors = {}
for i = 6, #ARGV do anchors[#anchors + 1] = ARGV[i] end
local start = start_of(KEYS[1], anchors, ARGV[5])
local entries = call('ZRANGE', KEYS[1], start, start + tonumber(ARGV[3]) - 1, 'WITHSCORES')
local cards, highest = {}, tonumber(ARGV[4])
for i = 1, #entries, 2 do
  if highest and tonumber(entries[i + 1]) > highest then break end
  card(cards, ARGV[1], entries[i], entries[i + 1], ARGV[2])
end
return json(cards)
"""
)

#: The same for named tasks; the score is empty where the task is not in the set.
#: KEYS: set. ARGV: base, run or '', ids...
CARDS = (
    PLACES
    + _CARD
    + """
local cards = {}
for i = 3, #ARGV do card(cards, ARGV[1], ARGV[i], call('ZSCORE', KEYS[1], ARGV[i]) or '', ARGV[2]) end
return json(cards)
"""
)

#: A window of a list whose oldest task is its last. The score is the task's place, counted from that end.
#: KEYS: list. ARGV: base, run or '', size, place to begin at if no anchor is found, anchors (latest first)...
LIST_WINDOW = (
    PLACES
    + _CARD
    + """
local start = tonumber(ARGV[4])
-- Others take from the same end, so an anchor is where it was or nearer to that end.
for i = 5, #ARGV do
  local at = call('LPOS', KEYS[1], ARGV[i], 'RANK', -1, 'MAXLEN', start + 1)
  if at then start = call('LLEN', KEYS[1]) - at; break end
end
local ids = call('LRANGE', KEYS[1], -(start + tonumber(ARGV[3])), -(start + 1))
local cards = {}
for i = #ids, 1, -1 do card(cards, ARGV[1], ids[i], tostring(start + #ids - i), ARGV[2]) end
return json(cards)
"""
)

#: Tasks that are active, by whether a worker still holds their lock. Never more than a fleet works on at once.
#: KEYS: active. ARGV: base, run or '', '1' locked or '0' not, most
ACTIVE_WINDOW = (
    PLACES
    + _CARD
    + """
local ids = call('LRANGE', KEYS[1], -tonumber(ARGV[4]), -1)
local cards = {}
for i = #ids, 1, -1 do
  if tostring(call('EXISTS', ARGV[1] .. ids[i] .. ':lock')) == ARGV[3] then card(cards, ARGV[1], ids[i], '0', ARGV[2]) end
end
return json(cards)
"""
)

#: What was said when tasks failed: for each the message and the line before the stack. ARGV: base, ids...
ERRORS = """
local found = {}
for i = 2, #ARGV do
  local f = redis.call('HMGET', ARGV[1] .. ARGV[i], 'failedReason', 'stacktrace')
  local line = ''
  if f[2] and #f[2] < 1048576 then
    local good, stacks = pcall(cjson.decode, f[2])
    if good and type(stacks) == 'table' and type(stacks[#stacks]) == 'string' then
      line = string.sub(string.match(stacks[#stacks], '^[^\\n]*'), 1, 200)
    end
  end
  found[#found + 1] = f[1] and '1' or '0'
  found[#found + 1] = string.sub(f[1] or '', 1, 8192)
  found[#found + 1] = line
end
return cjson.encode(found)
"""

#: Payloads, '' where there is none or it is longer than allowed. ARGV: base, longest, ids...
PAYLOADS = """
local found = {}
for i = 3, #ARGV do
  local key = ARGV[1] .. ARGV[i]
  found[#found + 1] = redis.call('HSTRLEN', key, 'data') <= tonumber(ARGV[2]) and redis.call('HGET', key, 'data') or ''
end
return found
"""

#: Ids of a list by index, or of a sorted set by rank among those above a score, joined by NUL. KEYS: key. ARGV: first, last, score or ''
IDS = """
local first, last = tonumber(ARGV[1]), tonumber(ARGV[2])
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return '' end
if kind == 'list' then return table.concat(redis.call('LRANGE', KEYS[1], first, last), '\\0') end
local before = ARGV[3] ~= '' and redis.call('ZCOUNT', KEYS[1], '-inf', ARGV[3]) or 0
return table.concat(redis.call('ZRANGE', KEYS[1], before + first, before + last), '\\0')
"""

#: Everything of the source, oldest first, back to its queue, as BullMQ's own `retryJobs` does it (`lifo` of a task counts for nothing, as
#: there), but with priorities kept.
#: KEYS: source set. ARGV: base of the source, base of the queue, highest score, most, score of the anchor or '', anchor or '', run,
#: '1' to tell the ids, name of the source
#: most=0 only counts. Answers a JSON object: matched, moved, because (letter -> count), pb and name (text -> count), anchor, score, ids.
SWEEP = (
    LACKING
    + PLACES
    + _START
    + """
local source, base, home, run = KEYS[1], ARGV[1], ARGV[2], ARGV[7]
local start = start_of(source, ARGV[6] ~= '' and {ARGV[6]} or {}, ARGV[5])
local most = tonumber(ARGV[4])
if most == 0 then return cjson.encode({matched = math.max(0, call('ZCOUNT', source, '-inf', ARGV[3]) - start)}) end
local ids = call('ZRANGEBYSCORE', source, '-inf', ARGV[3], 'LIMIT', start, most)
if #ids == 0 then return '{"matched":0}' end
local to = place(home)
local refused = lacking({'HSET', home, 'a', 'b'}, {'HDEL', home, 'a'}, {'XADD', to.events, '*', 'a', 'b'}, {'LPUSH', to.list, 'a'},
  {'ZADD', to.base .. 'prioritized', '0', 'a'}, {'INCR', to.base .. 'pc'}, {'ZREM', source, 'a'}, {'ZREMRANGEBYRANK', source, '0', '0'},
  {'XTRIM', to.events, 'MAXLEN', '1'}, {'RENAME', base, home}, {'SADD', home, 'a'})
if refused then return refused end
local because, workers, names, moved, pushed = {}, {}, {}, {}, {}
local count_moved, count_pushed = 0, 0
-- Neighbours are mostly alike, and are counted together.
local name, worker, same = '', '', 0
local function count(into, what, by)
  if by > 0 then into[what or ''] = (into[what or ''] or 0) + by end
end
local kept
local relocated, events, previous, mark = base ~= home, to.events, ARGV[9], '+' .. run .. ' '
for i = 1, #ids do
  local id = ids[i]
  local job = home .. id
  local f = call('HMGET', relocated and base .. id or job, 'name', 'pb', 'priority', 'parentKey', 'queueops_runs')
  local why
  if met(f[5], run) then why = 'a'
  elseif not f[1] then why = 'e'
  elseif relocated and call('EXISTS', job) == 1 then why = 'x' end
  if why then
    because[why] = (because[why] or 0) + 1
    kept = id
  else
    count_moved = count_moved + 1
    moved[count_moved] = id
    -- The first change of a task is one that a server without memory refuses.
    call('HSET', relocated and base .. id or job, 'queueops_runs', f[5] and f[5] .. mark or mark)
    if relocated then
      call('RENAME', base .. id, job)
      if call('EXISTS', base .. id .. ':logs') == 1 then call('RENAME', base .. id .. ':logs', job .. ':logs') end
    end
    call('HDEL', job, 'finishedOn', 'processedOn', 'failedReason')
    if f[4] and f[4] ~= '' then back_to_parent(job, f[4]) end
    if f[3] and f[3] ~= '0' then
      enqueue(to, id, f[3], false, ARGV[9])
    else
      count_pushed = count_pushed + 1
      pushed[count_pushed] = id
      -- Trimmed once, below.
      call('XADD', events, '*', 'event', 'waiting', 'jobId', id, 'prev', previous)
    end
    if f[1] ~= name or f[2] ~= worker then
      count(names, name, same)
      count(workers, worker, same)
      name, worker, same = f[1], f[2], 0
    end
    same = same + 1
  end
end
count(names, name, same)
count(workers, worker, same)
if count_moved > 0 then
  -- They arrive before they leave: an error in between could double, never lose.
  if count_pushed > 0 then call('LPUSH', to.list, unpack(pushed)) end
  if count_moved == #ids then call('ZREMRANGEBYRANK', source, start, start + #ids - 1) else call('ZREM', source, unpack(moved)) end
  call('XTRIM', events, 'MAXLEN', '~', to.most)
  wake(to)
end
local found = {matched = #ids, moved = count_moved, because = because, pb = workers, name = names}
if kept then found.anchor, found.score = kept, call('ZSCORE', source, kept) end
if ARGV[8] == '1' and count_moved > 0 then found.ids = moved end
return cjson.encode(found)
"""
)

#: Acts on tasks of one source, each checked again here. Every check comes before the first change of a task, and the first change is one
#: that a server without memory refuses.
#: ARGV: base of the source, base of the queue, kind of the source, action, base of the destination or '', name of the queue, now (ms),
#: run, text of a failure, farthest place in a list, base of the parked, ids...
#: Answers one letter a task: m done, a done before by this run, g gone, e expired, x the place has one of the same id, f of a flow,
#: s of a job scheduler, l held by a worker.
ACT = (
    LACKING
    + PLACES
    + """
local base, home, kind, action, there = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local queue, now, run, parked = ARGV[6], ARGV[7], ARGV[8], ARGV[11]
local previous = ({failed = 'failed', parked = 'failed', queued = 'wait', executing = 'active', abandoned = 'active'})[kind]
local source = ({failed = home .. 'failed', parked = string.sub(parked, 1, -2)})[kind]
local in_list, held = {}, 'queueops:gone'

-- Takes the named tasks out of a list in two walks, rather than one walk for each of them. The places of those still there are looked
-- at from the farthest to the nearest end, from which others take.
local function locate(list)
  local wanted, left = {}, 0
  for i = 12, #ARGV do
    if not in_list[ARGV[i]] then wanted[ARGV[i]] = true; left = left + 1 end
  end
  local far = math.min(call('LLEN', list), tonumber(ARGV[10]) + 1)
  while far > 0 and left > 0 do
    local near = math.max(0, far - 1000)
    local ids = call('LRANGE', list, -far, -(near + 1))
    for i, id in ipairs(ids) do
      if wanted[id] then
        in_list[id] = {list, -(far - i + 1)}
        wanted[id] = nil
        left = left - 1
      end
    end
    far = near
  end
end
if kind == 'queued' then locate(home .. 'wait'); locate(home .. 'paused') end

local function here(id)
  if source then return call('ZSCORE', source, id) end
  if kind == 'queued' then return in_list[id] or call('ZSCORE', home .. 'prioritized', id) end
  return call('LPOS', home .. 'active', id)
end

local emptied = {}
local function take(id)
  if source then call('ZREM', source, id)
  elseif kind == 'queued' then
    if in_list[id] then
      -- Places stay as they are until the marks are taken out at the end of this script.
      call('LSET', in_list[id][1], in_list[id][2], held)
      emptied[in_list[id][1]] = (emptied[in_list[id][1]] or 0) + 1
    else call('ZREM', home .. 'prioritized', id) end
  else
    call('LREM', home .. 'active', 1, id)
    call('SREM', home .. 'stalled', id)
    call('DEL', base .. id .. ':lock')
  end
end

local function of_flow(job, parent)
  if parent and parent ~= '' then return true end
  return call('EXISTS', job .. ':dependencies', job .. ':processed', job .. ':failed', job .. ':unsuccessful') > 0
end
local function relocate(from, to)
  call('RENAME', from, to)
  if call('EXISTS', from .. ':logs') == 1 then call('RENAME', from .. ':logs', to .. ':logs') end
end
local function free_deduplication(id, deduplication, removed)
  if not deduplication then return end
  local key = home .. 'de:' .. deduplication
  if (removed or call('PTTL', key) == -1) and call('GET', key) == id then
    call('DEL', key)
    if removed then call('DEL', home .. 'dn:' .. deduplication) end
  end
end

local target = there ~= '' and there or home
local to = place(target)
local refused = lacking({'HSET', base, 'a', 'b'}, {'HDEL', base, 'a'}, {'HINCRBY', base, 'a', '1'}, {'XADD', to.events, '*', 'a', 'b'},
  {'LPUSH', to.list, 'a'}, {'RPUSH', to.list, 'a'}, {'ZADD', to.base, '0', 'a'}, {'INCR', to.base}, {'RENAME', base, target}, {'DEL', base},
  {'ZREM', home, 'a'}, {'LSET', home, '0', 'a'}, {'LREM', home, '1', 'a'}, {'SREM', home, 'a'}, {'SADD', home, 'a'})
if refused then return refused end
local outcomes, woken = {}, false
for i = 12, #ARGV do
  local id = ARGV[i]
  local job = base .. id
  local f = call('HMGET', job, 'name', 'priority', 'parentKey', 'opts', 'rjk', 'deid', 'finishedOn', 'queueops_runs')
  local new = id
  -- Numbers are given out by each queue's own counter, so a number would meet another task there.
  if target ~= home and string.find(id, '^%d+$') then new = queue .. '-' .. id end
  local moves = target ~= home or action == 'park'
  local final = (action == 'park' and parked or target) .. new
  local outcome = 'm'
  if met(f[8], run) then outcome = 'a'
  elseif not here(id) then outcome = 'g'
  elseif not f[1] then outcome = 'e'
  elseif kind == 'abandoned' and call('EXISTS', job .. ':lock') == 1 then outcome = 'l'
  elseif (moves or action == 'discard') and of_flow(job, f[3]) then outcome = 'f'
  elseif action == 'fail' and f[3] and f[3] ~= '' then outcome = 'f'
  elseif target ~= home and f[5] then outcome = 's'
  elseif final ~= job and call('EXISTS', final) == 1 and action ~= 'discard' then outcome = 'x' end
  local back = action == 'requeue' or action == 'compensate'
  if outcome == 'm' then call('HSET', job, 'queueops_runs', (f[8] or '') .. (back and '+' or '=') .. run .. ' ') end
  -- What is where the rule wants it stays as it is, and the run remembers that it was decided.
  if outcome == 'm' and not ((kind == 'parked' and action == 'park') or (kind == 'failed' and action == 'fail')) then
    if action == 'discard' then
      take(id)
      free_deduplication(id, f[6], true)
      call('DEL', job, job .. ':logs')
      told(place(home), 'removed', id, previous)
    else
      -- It arrives before it leaves: an error in between could double, never lose.
      if final ~= job then relocate(job, final) end
      if action == 'park' then
        if not f[7] then call('HSET', final, 'finishedOn', now) end
        call('ZADD', string.sub(parked, 1, -2), f[7] or now, id)
      elseif action == 'fail' then
        if previous == 'active' then call('HINCRBY', final, 'atm', 1) end
        if not f[7] then call('HSET', final, 'failedReason', ARGV[9], 'finishedOn', now) end
        call('ZADD', home .. 'failed', f[7] or now, id)
        free_deduplication(id, f[6], false)
        call('XADD', to.events, 'MAXLEN', '~', to.most, '*', 'event', 'failed', 'jobId', id, 'failedReason', ARGV[9], 'prev', previous)
      else
        if previous == 'failed' then
          call('HDEL', final, 'finishedOn', 'processedOn', 'failedReason')
          if f[3] and f[3] ~= '' then back_to_parent(final, f[3]) end
        end
        if target ~= home then
          call('HSET', final, 'queueops_from', queue)
          if action == 'compensate' then call('HSET', final, 'queueops_compensates', id) end
        end
        enqueue(to, new, f[2], previous == 'active' or last_in_first_out(f[4]), previous)
        woken = true
      end
      take(id)
    end
  end
  outcomes[#outcomes + 1] = outcome
end
for list, count in pairs(emptied) do call('LREM', list, -count, held) end
if woken then wake(to) end
return table.concat(outcomes)
"""
)

#: What became of redriven tasks, one letter each: f failed again, c completed (or no longer recorded), ? not known yet.
#: ARGV: base, ids...
FATES = """
local found = {}
for i = 2, #ARGV do
  local id, fate = ARGV[i], '?'
  if redis.call('ZSCORE', ARGV[1] .. 'failed', id) then fate = 'f'
  elseif redis.call('ZSCORE', ARGV[1] .. 'completed', id) or redis.call('EXISTS', ARGV[1] .. id) == 0 then fate = 'c' end
  found[#found + 1] = fate
end
return table.concat(found)
"""
