# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redriving Redis streams: an entry is added to its destination and deleted where it was in one script, with all its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping

from .._errors import Refused
from .api import Census, Decision, RedriveRequest, Task, TaskStore, version_and_host
from .redis_connection import RedisConnection
from .redis_scripts import FATE_DEPTH, REASONS, RECALL, RUN_KEPT_S, WINDOW_BYTES, loads, moved_key, raw, sound, text
from .redrive import field_text

#: Tasks handled by one script on the server: about 5 ms there, during which it serves nobody else.
BATCH = 200
#: Tasks read at a time.
WINDOW = 500

#: Fields that a redrive adds to an entry: its first id, how often it was redriven, by which run last, and when it failed (ms).
ID, REDRIVES, RUN, ENDED = "queueops_id", "queueops_redrives", "queueops_run", "queueops_ended"
_OWN = (ID, REDRIVES, ENDED)

# Counts entries after an id without answering them. KEYS: stream. ARGV: id, how many at most, bytes after which to stop.
# Answers how many, the last one's id, and whether there may be more.
_COUNT = """
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
_READ = """
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
# The new entry is written first, so that a destination which takes no more leaves everything where it was.
# Answers one letter a task: m done, g gone, a moved by this run before, d destination gone, e entry deleted; then the new ids.
_MOVE = """
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
    if mode == 'pending' then redis.call('XACK', source, group, id) end
    redis.call('XDEL', source, id)
    if run ~= '' then redis.call('SADD', KEYS[2], task) end
  end
  outcomes[#outcomes + 1], added[#added + 1] = outcome, outcome == 'm' and new or ''
end
if run ~= '' then redis.call('EXPIRE', KEYS[2], ARGV[2]) end
return table.concat(outcomes) .. '\\n' .. table.concat(added, ',')
"""


@dataclass(frozen=True)
class Source:
    """What a redrive takes from.

    :ivar name: as in the option.
    :ivar group: the consumer group whose entries are meant; None: the whole stream.
    :ivar delivered: the last entry that the group had been given when it began.
    :ivar gone: only entries of these consumers; None: of all.
    :ivar idle: and only if they have been pending this long (ms).
    """

    name: str
    key: str
    group: str | None = None
    delivered: str = "0-0"
    gone: frozenset[str] | None = None
    idle: int = 0

    @property
    def mode(self) -> str:
        """``queued``, ``pending`` or "" for a whole stream, as the scripts know it."""
        return "" if self.group is None else "queued" if self.name == "queued" else "pending"


class Entry:
    """One entry, as much of it as was read. ``fields`` None: it is pending, and has been deleted."""

    __slots__ = ("consumer", "fields", "id")

    def __init__(self, entry_id: str, consumer: str, fields: dict[str, bytes] | None) -> None:
        self.id = entry_id
        self.consumer = consumer
        self.fields = fields

    def told(self) -> dict[str, Any]:
        """The fields; what holds JSON is decoded."""
        found = {}
        for name, value in (self.fields or {}).items():
            decoded = loads(value)
            found[name] = text(value) if decoded is None else decoded
        return found


class Streams:
    """The streams of one queue, and what is read of them.

    :param failed_of: the stream of failed tasks of a queue.
    :param id_field: the entry's field that identifies a task, or ``<field>.<name>`` for a place in one that holds JSON.
    """

    def __init__(
        self,
        redis: RedisConnection,
        queue: str = "",
        parked: str = "",
        failed_of: Callable[[str], str] = str,
        id_field: str | None = None,
    ) -> None:
        self.redis = redis
        self.queue = queue
        self.parked = parked
        self.failed_of = failed_of
        self.id_field = id_field
        self._read_script = redis.client.register_script(_READ)

    def exists(self, key: str) -> bool:
        with self.redis.asking("look for the stream %s" % key) as client:
            kind = text(client.type(key))
            if kind not in ("none", "stream"):
                raise self.redis.redis.exceptions.ResponseError("WRONGTYPE %s" % kind)
        return kind == "stream"

    def groups(self, key: str) -> dict[str, str]:
        """The stream's consumer groups with the last entry that each was given."""
        with self.redis.asking("look for consumer groups") as client:
            return {text(entry["name"]): text(entry["last-delivered-id"]) for entry in client.xinfo_groups(key)}

    def last_id(self, key: str) -> str:
        """The last id that the stream gave; 0-0 if it is not there."""
        if not self.exists(key):
            return "0-0"
        with self.redis.asking("look at the stream %s" % key) as client:
            return text(client.xinfo_stream(key)["last-generated-id"])

    def count_after(self, key: str, entry_id: str, most: int) -> int | None:
        """How many entries come after ``entry_id``; None if more than ``most``. Called within :meth:`RedisConnection.asking`."""
        found, more = 0, 1
        while more and found <= most:
            some, entry_id, more = self.redis.client.eval(_COUNT, 1, key, entry_id, 1000, WINDOW_BYTES)
            found += some
        return found if found <= most and not more else None

    def destination(self, action: str, named: str | None) -> str | None:
        """The stream to which ``action`` moves a task; None: to none."""
        fixed: dict[str, str | None] = {"discard": None, "park": self.parked, "fail": self.failed_of(self.queue)}
        return fixed.get(action, named or self.queue)

    def read(self, key: str, after: str, until: str, group: str = "", everything: bool = False) -> Iterator[list[Entry]]:
        """Entries in windows, in the order of their ids: each once, whatever is added or deleted meanwhile."""
        wanted = [*_OWN, (self.id_field or "").partition(".")[0]]
        while True:
            with self.redis.asking("read the tasks") as client:
                arguments = [after, until, WINDOW, WINDOW_BYTES, group, int(everything), *wanted]
                answer: bytes = self._read_script(keys=[key], args=arguments, client=client)
            head, _line, body = answer.partition(b"\n")
            if not head:
                return
            window, at = [], 0
            for numbers in head.split(b";"):
                parts = []
                deleted = numbers.endswith(b"-")
                for length in (numbers[:-2] if deleted else numbers).split(b","):
                    parts.append(body[at : at + int(length)])
                    at += int(length)
                fields = None if deleted else {text(name): value for name, value in zip(parts[2::2], parts[3::2])}
                window.append(Entry(text(parts[0]), text(parts[1]), fields))
            yield window
            after = window[-1].id

    def identity(self, entry: Entry) -> str:
        """What a task is known by, wherever it goes."""
        if entry.fields is None:
            return entry.id
        if self.id_field is not None:
            named = field_text(entry.told(), self.id_field)
            if named is not None and sound(named):
                return named
        first = entry.fields.get(ID)
        return text(first) if first else entry.id


class StreamStore(TaskStore):
    """The tasks of one stream, or of one group's part of it."""

    batch = BATCH

    def __init__(self, streams: Streams, request: RedriveRequest, check: bool, source: Source) -> None:
        self._streams = streams
        self._redis = streams.redis
        self._request = request
        self._source = source
        self._all_fields = any(rule.match.header is not None or rule.match.field is not None for rule in request.rules)
        found = {streams.destination(rule.action, rule.destination): None for rule in request.rules}
        if request.max_redrives is not None:
            found[streams.parked] = None
        self._destinations = [key for key in found if key is not None]
        self._moved_key = moved_key(request.run, "%s:%s" % (source.key, source.name) if source.group is not None else source.key)
        self._failed_at: dict[str, str] = {}
        #: Where each stream ended when it began: what comes after is new, or came back.
        self._ends = {key: streams.last_id(key) for key in self._places().values()}
        for rule in request.rules if request.breaker is not None else ():
            failed = streams.failed_of(rule.destination or streams.queue)
            self._failed_at[failed] = streams.last_id(failed)
        with self._redis.asking("look at the tasks") as client:
            seconds, micros = client.time()
            self._remembered = request.run is not None and bool(client.exists(self._moved_key))
            self._move_script = client.register_script(_MOVE)
            self._recall_script = client.register_script(RECALL)
        self._now = float(seconds + micros / 1e6)
        #: New entry -> task and queue, for those whose fate is not known; and the tasks that failed since it began.
        self._sent: dict[str, tuple[str, str]] = {}
        self._failed: set[str] = set()
        self._settled = self._again = 0

    def now(self) -> float:
        return self._now

    def _places(self) -> dict[str, str]:
        """The streams that are counted, in the order in which a task goes through them."""
        streams = self._streams
        failed = streams.failed_of(streams.queue)
        names = {streams.queue: "queued", failed: "failed", streams.parked: "parked"}
        found = {} if self._source.mode == "pending" else {self._source.name: self._source.key}
        for key in [streams.queue, *self._destinations, failed]:  # The source's stream is among them, or has just been named.
            if key not in found.values():
                found[names.get(key, key)] = key
        return found

    def census(self) -> Census:
        places, source = self._places(), self._source
        group = source.group if source.mode == "pending" else None

        def ask(pipe: Any) -> None:
            for key in places.values():
                pipe.xlen(key)
            if group is not None:
                pipe.xpending(source.key, group)

        with self._redis.asking("count the tasks") as client:
            answers = self._redis.together(client, ask)
        counts = dict(zip(places, answers))
        if group is None:
            return Census(counts)
        pending = answers[-1]["pending"]
        return Census({source.name: pending, **counts, "queued": counts["queued"] - pending})

    def identities(self) -> Iterator[list[str]] | None:
        return self._identities()

    def _identities(self) -> Iterator[list[str]]:
        """Of the source all, and of the others what was added since it began: this redrive takes nothing away from them."""
        source, streams = self._source, self._streams
        if source.mode == "pending":
            for window in streams.read(source.key, "0-0", "+", source.group or ""):
                yield [streams.identity(entry) for entry in window]
        for key in self._places().values():
            begin = self._ends[key]
            if key == source.key and source.mode != "pending":
                begin = source.delivered
            for window in streams.read(key, begin, "+"):
                yield [streams.identity(entry) for entry in window]

    def windows(self) -> Iterator[list[Task]]:
        source, streams = self._source, self._streams
        pending = source.mode == "pending"
        begin = "0-0" if pending else source.delivered
        until = source.delivered if pending else self._ends[source.key]
        for window in streams.read(source.key, begin, until, (source.group or "") if pending else "", self._all_fields):
            tasks = [self._task(entry) for entry in window if source.gone is None or entry.consumer in source.gone]
            if tasks:
                self._recall(tasks)
                yield tasks

    def _task(self, entry: Entry) -> Task:
        fields = entry.fields or {}
        ended = fields.get(ENDED, b"")
        millis = int(ended) if ended.isdigit() else int(entry.id.partition("-")[0])
        redrives = fields.get(REDRIVES, b"0")
        return Task(
            self._streams.identity(entry),
            version=version_and_host(entry.consumer)[0],
            ended_at=millis / 1000,
            redrives=int(redrives) if redrives.isdigit() else 0,
            obstacle=REASONS["e"] if entry.fields is None else None,
            handle=entry,
        )

    def _recall(self, tasks: list[Task]) -> None:
        if not self._remembered:
            return
        with self._redis.asking("read what was redriven before") as client:
            told = self._recall_script(keys=[self._moved_key, self._moved_key + ":"], args=[raw(task.id) for task in tasks], client=client)
        for task, words in zip(tasks, told.split(b",")):
            if words.startswith(b"1"):
                task.obstacle = REASONS["a"]

    def load(self, tasks: list[Task], what: frozenset[str]) -> None:
        for task in tasks:
            fields: Mapping[str, bytes] | None = task.handle.fields
            if fields is not None and "headers" in what:
                task.headers = {name: text(value) for name, value in fields.items()}
            if fields is not None and "fields" in what:
                task.fields = task.handle.told()

    def apply(self, decisions: list[Decision]) -> list[str]:
        source = self._source
        keys = [source.key, self._moved_key]
        arguments: list[Any] = [self._request.run or "", RUN_KEPT_S, source.group or "", source.mode, source.idle]
        numbers: dict[str, int] = {}
        for decision in decisions:
            into = self._streams.destination(decision.action, decision.destination)
            again = decision.action in ("requeue", "compensate")
            if into is None:
                number = 0
            elif into == source.key and source.mode != "pending":
                number = -1
            else:
                number = numbers.setdefault(into, len(numbers) + 1)
            what = "cn" if again else "p" if source.name in ("failed", "parked") else ""
            arguments += [decision.task.handle.id, raw(decision.task.id), number, what]
        with self._redis.asking("redrive") as client:
            answer = self._move_script(keys=keys + list(numbers), args=arguments, client=client)
        letters, _line, added = answer.partition(b"\n")
        outcomes = [chr(letter) for letter in letters]
        if self._request.breaker is not None:
            for decision, outcome, new in zip(decisions, outcomes, added.split(b",")):
                if outcome == "m" and decision.action in ("requeue", "compensate"):
                    self._sent[text(new)] = (decision.task.id, decision.destination or self._streams.queue)
        return [REASONS[outcome] for outcome in outcomes]

    # The breaker

    def fates(self, moved: int) -> tuple[int, int]:
        """A task is settled once every group has been given it and has acknowledged it; it failed again if it is among the failed."""
        for queue in sorted({queue for _task, queue in self._sent.values()}):
            self._settle(queue, [entry for entry, (_task, named) in self._sent.items() if named == queue])
        return self._settled, self._again

    def _settle(self, queue: str, sent: list[str]) -> None:
        groups = self._streams.groups(queue)
        if not groups:
            raise Refused(
                "The consumer groups of the stream %s were removed meanwhile" % queue,
                option="breaker",
                still_true="The redrive has stopped",
            )
        open_ones: set[str] = set()
        with self._redis.asking("look what became of the tasks") as client:
            for group, delivered in groups.items():
                held = client.xpending_range(queue, group, sent[0], sent[-1], FATE_DEPTH)
                pending = {text(entry["message_id"]) for entry in held}
                # Beyond what was listed it is not known.
                known = order(text(held[-1]["message_id"])) if len(held) == FATE_DEPTH else order(delivered)
                open_ones.update(entry for entry in sent if entry in pending or order(entry) > min(known, order(delivered)))
        failed = self._streams.failed_of(queue)
        for window in self._streams.read(failed, self._failed_at[failed], "+"):
            self._failed.update(self._streams.identity(entry) for entry in window)
            self._failed_at[failed] = window[-1].id
        for entry in sent:
            if entry not in open_ones:
                task, _queue = self._sent.pop(entry)
                self._settled += 1
                if task in self._failed:
                    self._failed.discard(task)
                    self._again += 1


def order(entry_id: str) -> tuple[int, int]:
    """An entry's id as what it is ordered by."""
    millis, _dash, number = entry_id.partition("-")
    return int(millis), int(number or 0)
