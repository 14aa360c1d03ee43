# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a redrive of streams runs on the Redis server."""

from __future__ import annotations

# Counts entries after an id without answering them. KEYS: stream. ARGV: id, how many at most, bytes after which to stop.
# Answers how many, the last one's id, and whether there may be more.
COUNT = """
local last, most, limit, found, bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), 0, 0
while found < most and bytes < limit do
  local some = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', math.min(100, most - found))
  if #some == 0 then return {found, last, 0} end
  found, last = found + #some, some[#some][1]
  for _, entry in ipairs(some) do
    for _, part in ipairs(entry[2]) do bytes = bytes + #part end
  end
end
return {found, last, 1}
"""

# Reads entries after an id. KEYS: stream. ARGV: id, last id, how many, bytes, group if only its pending entries are meant, whether all
# fields are wanted, names of wanted fields...
# Answers for each entry the lengths of its id, its consumer, and of each wanted field's name and value, then after a line break all of
# these. An entry that is pending and deleted has "-" for its number of fields.
READ = """
local last, stop, size, limit, group, all = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6] == '1'
local wanted, heads, parts, bytes, chunk, count = {}, {}, {}, 0, 10, 0
for i = 7, #ARGV do wanted[ARGV[i]] = true end
local function add(id, consumer, fields)
  local lengths = {#id, #consumer}
  parts[#parts + 1], parts[#parts + 2] = id, consumer
  if not fields then lengths[3] = '-' end
  for i = 1, #(fields or {}), 2 do
    bytes = bytes + #fields[i] + #fields[i + 1]
    if all or wanted[fields[i]] then
      parts[#parts + 1], parts[#parts + 2] = fields[i], fields[i + 1]
      lengths[#lengths + 1], lengths[#lengths + 2] = #fields[i], #fields[i + 1]
    end
  end
  heads[#heads + 1] = table.concat(lengths, ',')
  last, count = id, count + 1
end
while count < size and bytes < limit do
  local most = math.min(chunk, size - count)
  local some
  if group == '' then
    some = redis.call('XRANGE', KEYS[1], '(' .. last, stop, 'COUNT', most)
    for _, entry in ipairs(some) do add(entry[1], '', entry[2]) end
  else
    some = redis.call('XPENDING', KEYS[1], group, '(' .. last, stop, most)
    for _, entry in ipairs(some) do
      local found = redis.call('XRANGE', KEYS[1], entry[1], entry[1])
      add(entry[1], entry[2], found[1] and found[1][2])
    end
  end
  if #some < most then break end
  chunk = math.max(1, math.min(100, math.floor((limit - bytes) * count / math.max(1, bytes))))
end
return table.concat(heads, ';') .. '\\n' .. table.concat(parts)
"""

# Moves entries, each checked again here. KEYS: source, moved set, destinations... ARGV: run, seconds to keep the moved set, group or '',
# queued | pending | '', least idle time (ms), then for each task: entry id, its id as a task, number of its destination (0: none,
# -1: it stays), what to do (c: counted as a redrive, n: the destination has to exist; p: it is set aside).
# Put down, marked, taken away: whatever the server refuses in between, a task is in two places and never in none.
# Answers one letter a task: m done, g gone, a moved by this run before, d destination gone, e entry deleted; then the new ids.
MOVE = """
local source, run, group, mode, idle = KEYS[1], ARGV[1], ARGV[3], ARGV[4], tonumber(ARGV[5])
local function parts(id)
  local millis, number = string.match(id, '^(%d+)%-(%d+)$')
  return millis, number
end
local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end
local function after(a, b)
  local a1, a2 = parts(a)
  local b1, b2 = parts(b)
  if a1 ~= b1 then return less(b1, a1) end
  return less(b2, a2)
end
local delivered
if mode == 'queued' then
  for _, told in ipairs(redis.call('XINFO', 'GROUPS', source)) do
    local found = {}
    for i = 1, #told, 2 do found[told[i]] = told[i + 1] end
    if found['name'] == group then delivered = found['last-delivered-id'] end
  end
end
local function check(id, task)
  if run ~= '' and redis.call('SISMEMBER', KEYS[2], task) == 1 then return 'a' end
  if mode == 'queued' and not (delivered and after(id, delivered)) then return 'g' end
  if mode == 'pending' then
    local held = redis.call('XPENDING', source, group, id, id, 1)
    if #held == 0 or held[1][3] < idle then return 'g' end
  end
  local found = redis.call('XRANGE', source, id, id)
  if #found == 0 then return mode == 'pending' and 'e' or 'g' end
  return 'm', found[1][2]
end
local outcomes, added = {}, {}
for i = 6, #ARGV, 4 do
  local id, task, to, what = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
  local outcome, fields = check(id, task)
  local new = ''
  if outcome == 'm' and to > 0 then
    local entry, redrives, ended = {}, 0, string.match(id, '^%d+')
    for j = 1, #fields, 2 do
      if fields[j] == 'queueops_redrives' then redrives = tonumber(fields[j + 1]) or 0
      elseif fields[j] == 'queueops_ended' then ended = fields[j + 1]
      elseif fields[j] ~= 'queueops_id' and fields[j] ~= 'queueops_run' then
        entry[#entry + 1], entry[#entry + 2] = fields[j], fields[j + 1]
      end
      if fields[j] == 'queueops_id' then new = fields[j + 1] end
    end
    if string.find(what, 'c') then redrives = redrives + 1 end
    local own = {'queueops_id', new ~= '' and new or id, 'queueops_redrives', tostring(redrives), 'queueops_run', run}
    if string.find(what, 'p') then own[#own + 1], own[#own + 2] = 'queueops_ended', ended end
    for _, part in ipairs(own) do entry[#entry + 1] = part end
    if string.find(what, 'n') and redis.call('EXISTS', KEYS[2 + to]) == 0 then outcome = 'd'
    elseif #entry < 7000 then new = redis.call('XADD', KEYS[2 + to], '*', unpack(entry))
    else return redis.error_reply('ERR the entry ' .. id .. ' has too many fields') end
  end
  if outcome == 'm' and to >= 0 then
    if run ~= '' then redis.call('SADD', KEYS[2], task) end
    if mode == 'pending' then redis.call('XACK', source, group, id) end
    redis.call('XDEL', source, id)
  end
  outcomes[#outcomes + 1], added[#added + 1] = outcome, outcome == 'm' and new or ''
end
if run ~= '' then redis.call('EXPIRE', KEYS[2], ARGV[2]) end
return table.concat(outcomes) .. '\\n' .. table.concat(added, ',')
"""
