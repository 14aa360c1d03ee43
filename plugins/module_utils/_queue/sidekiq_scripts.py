# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done on the Redis server for Sidekiq's tasks, by the dozen; what is done to one of them is in ``sidekiq_text.py``."""

from __future__ import annotations

from .redis_scripts import BEHIND
from .sidekiq_text import ACT, MEMBERS, OURS

# Tells a window of a sorted set, of one queue's tasks alone: "length of the task, length of its score, flag" and both, each time.
# KEYS: source, moved. ARGV: queue or '', run, pass, last score, late, score or '', member, size, bytes.
# Answers {where it ended: score, member, 1 when nothing comes behind; the tasks}. Flag a: already moved by this run.
WINDOW = (
    MEMBERS
    + OURS
    + BEHIND
    + """
local QUEUE, RUN, PASS, LATE = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])
local size = tonumber(ARGV[8])
local start = behind(KEYS[1], ARGV[6], ARGV[7])
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
    MEMBERS
    + OURS
    + BEHIND
    + ACT
    + """
local QUEUE, LATE, most, size = ARGV[10], tonumber(ARGV[12]), tonumber(ARGV[18]), tonumber(ARGV[19])
local action, destination, name = ARGV[15], ARGV[16], ARGV[17]
local start = behind(SOURCE, ARGV[13], ARGV[14])
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

# Calls visit for each chosen task. From an argument on: action, destination (JSON), its name, how many, and so many tasks' texts; again.
_EACH = """
local function each(from, visit)
  while from <= #ARGV do
    local last = from + 3 + ARGV[from + 3]
    for i = from + 4, last do visit(ARGV[i], ARGV[from], ARGV[from + 1], ARGV[from + 2]) end
    from = last + 1
  end
end
"""

# Acts on chosen tasks of a sorted set. KEYS: source, moved. ARGV: HEAD, then the tasks as for each().
# Answers one letter a task: m moved, g gone, a already moved by this run, f the dead set is full, i it has no id, q it names no queue.
APPLY = (
    MEMBERS
    + ACT
    + _EACH
    + """
local outcomes, seen = {}, {}
each(10, function(s, action, destination, name)
  local outcome = 'g'
  if not seen[s] and redis.call('ZSCORE', SOURCE, s) then
    seen[s] = true
    outcome = act(s, members(s), action, destination, name)
  end
  outcomes[#outcomes + 1] = outcome
end)
finish()
return table.concat(outcomes)
"""
)

# Where in a list some tasks are, counted from its right end (-1 is the last), which what enters at the left does not change.
# Workers take there, so each can only have come nearer to it: searched from behind.
_FIND = """
local function search(list, most, wanted, count)
  local found, from = {}, most
  while from > 0 and count > 0 do
    local to = math.max(1, from - 999)
    local part = redis.call('LRANGE', list, -from, -to)
    for i = 1, #part do
      if wanted[part[i]] and not found[part[i]] then
        found[part[i]] = i - #part - to
        count = count - 1
      end
    end
    from = to - 1
  end
  return found
end
"""

# Tells a window of a list, the oldest (rightmost) first, from behind the last one that was left in it; like WINDOW.
# KEYS: source, moved. ARGV: pass, text of the last one left or '', how many were left up to it, size, bytes.
# Answers {how many are left up to there now, how many were looked at, 1 at a task that came back in this pass; the tasks}.
LIST_WINDOW = (
    MEMBERS
    + _FIND
    + """
local left, size = tonumber(ARGV[3]), tonumber(ARGV[4])
if left > 0 and redis.call('LINDEX', KEYS[1], -left) ~= ARGV[2] then
  local found = search(KEYS[1], left, {[ARGV[2]] = true}, 1)
  left = -(found[ARGV[2]] or 0)
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

# Like APPLY, for a list. KEYS: source, moved. ARGV: HEAD, how many to search from the right, then the tasks as for each().
LIST_APPLY = (
    MEMBERS
    + ACT
    + _FIND
    + _EACH
    + """
local wanted, count, outcomes, seen = {}, 0, {}, {}
each(11, function(s) wanted[s], count = true, count + 1 end)
places = search(SOURCE, tonumber(ARGV[10]), wanted, count)
each(11, function(s, action, destination, name)
  local outcome = 'g'
  if not seen[s] and places[s] then
    seen[s] = true
    outcome = act(s, members(s), action, destination, name)
  end
  outcomes[#outcomes + 1] = outcome
end)
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
    MEMBERS
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
