# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where kombu and Celery keep things in Redis, and the workers' mailbox there.

A queue is a list, with one more list for each step of priority above 0, ``<queue>\\x06\\x16<step>``; new messages are pushed to the left
and taken from the right. A message that a worker holds is in the hash ``unacked`` as ``[message, exchange, routing key]``, with the
time it was taken in the sorted set ``unacked_index``: one pair for all queues of the database. ``_kombu.binding.<exchange>`` is a set
of ``<routing key>\\x06\\x16<pattern>\\x06\\x16<queue>``. Workers listen for control messages on the channel ``/<db>.celery.pidbox``.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any, Mapping

from .._errors import Refused
from .celery_control import Answers, control_body
from .celery_message import new_envelope, read_object
from .redis_connection import RedisConnection
from .redis_scripts import literal

#: At most this many unacknowledged messages are read one by one, and at most this many by their last bytes; beyond, only counted.
READ_WHOLE = 500
READ_TAILS = 5000
#: Of them so many are looked at by one script on the server.
PIECE = 200

# A piece of what is unacknowledged. KEYS: unacked. ARGV: cursor, how many, 1 if ids are wanted.
# Answers the next cursor, then tag, exchange, routing key and id of each message, all joined by NUL.
# Exchange and routing key are the last that is held: they are looked for in the last bytes, and read once where they are the same.
_UNACKED = """
local page, known = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2]), {}
local out = {page[1]}
for i = 2, #page[2], 2 do
  local raw = page[2][i]
  local tail = string.match(string.sub(raw, -80), ', ("[^"]*", "[^"]*")%]$')
  local ends = tail and known[tail]
  if not ends then
    local ok, read = pcall(cjson.decode, tail and '[' .. tail .. ']' or raw)
    ends = ok and {tostring(read[#read - 1]), tostring(read[#read])} or {'', ''}
    if tail then known[tail] = ends end
  end
  local n = #out
  out[n + 1], out[n + 2], out[n + 3] = page[2][i - 1], ends[1], ends[2]
  out[n + 4] = ARGV[3] == '1' and string.match(raw, '.*"correlation_id": "([^"]+)"') or ''
end
return table.concat(out, '\\0')
"""

# KEYS: list. ARGV: how many messages from its right end. Answers the ids of those that a worker had in hand and that kombu put back there.
_PUT_BACK = """
local out, found = {}, redis.pcall('LRANGE', KEYS[1], -tonumber(ARGV[1]), -1)
if found.err then return string.find(found.err, 'WRONGTYPE', 1, true) and '' or found end
for _, raw in ipairs(found) do
  if string.find(raw, '"redelivered": true', 1, true) then out[#out + 1] = string.match(raw, '.*"correlation_id": "([^"]+)"') or '' end
end
return table.concat(out, '\\0')
"""
#: How far from its right end a list is searched for messages that were put back; workers take those first.
PUT_BACK = 300


@dataclass
class Held:
    """Unacknowledged messages. ``by_queue`` None: too many to tell whose they are; ``ids`` (queue -> ids) None: not read."""

    total: int
    by_queue: dict[str, int] | None = None
    ids: dict[str, list[str]] | None = None

    def ids_of(self, queue: str) -> list[str]:
        return (self.ids or {}).get(queue, [])

    def still(self, later: Held) -> Held:
        """Those that are held in both looks: one that came in between cannot be in an answer from before."""
        if self.ids is None or later.ids is None:
            return later
        both = {queue: [task for task in tasks if task in self.ids_of(queue)] for queue, tasks in later.ids.items()}
        return Held(later.total, {queue: len(tasks) for queue, tasks in both.items()}, both)


class CeleryKeys:
    """The names of keys. All carry ``key_prefix``, but the results', which carry ``result_prefix``."""

    def __init__(self, settings: Mapping[str, Any], redis: RedisConnection) -> None:
        self.prefix = str(settings.get("key_prefix") or "")
        self.sep = str(settings.get("sep") or "\x06\x16")
        steps = settings.get("priority_steps") or [0, 3, 6, 9]
        try:
            self.steps = sorted(int(step) for step in steps)
        except (TypeError, ValueError):
            raise Refused("priority_steps is not a list of numbers", option="priority_steps", next_step="Give [0, 3, 6, 9]") from None
        self.unacked_key = self.prefix + "unacked"
        self.index_key = self.prefix + "unacked_index"
        self.db = int(redis.client.connection_pool.connection_kwargs.get("db") or 0)
        self.result_db = int(settings["result_db"]) if settings.get("result_db") is not None else self.db
        result_prefix = settings.get("result_prefix")
        self.meta_prefix = str(self.prefix if result_prefix is None else result_prefix) + "celery-task-meta-"
        self._dead_letter = str(settings.get("dead_letter") or "")
        self.has_dead_letter = bool(self._dead_letter)

    def list_of(self, queue: str, priority: int = 0) -> str:
        """The list that a message of this priority is pushed to."""
        step = max([step for step in self.steps if step <= priority] or [self.steps[0]])
        return self.prefix + (queue + self.sep + str(step) if step else queue)

    def lists(self, queue: str) -> list[str]:
        """All lists of a queue, in the order in which workers take from them."""
        return [self.list_of(queue, step) for step in self.steps]

    def binding(self, exchange: str) -> str:
        return "%s_kombu.binding.%s" % (self.prefix, exchange)

    def parked(self, queue: str) -> str:
        return "%squeueops:parked:%s" % (self.prefix, queue)

    def pause(self, queue: str) -> str:
        return "%squeueops:paused:celery:%s" % (self.prefix, queue)

    def redrives(self, queue: str) -> str:
        return "%squeueops:redrives:%s" % (self.prefix, queue)

    def moved(self, run: str | None) -> str:
        return "%squeueops:redrive:%s:moved" % (self.prefix, run) if run else ""

    def dead_letter(self, queue: str) -> str:
        return self._dead_letter.replace("{queue}", queue)

    def bound(self, client: Any, exchange: str) -> list[tuple[str, str]]:
        """Routing key and queue of each binding of an exchange."""
        found = []
        for member in client.smembers(self.binding(exchange)):
            parts = member.decode("utf-8", "replace").split(self.sep)
            if len(parts) >= 3:
                found.append((parts[0], parts[2]))
        return found

    def find_queues(self, client: Any, most: int) -> list[str] | None:
        """Every queue with a binding, sorted; None if the database has more than ``most`` keys to search."""
        if client.dbsize() > most:
            return None
        lead = len(self.binding(""))
        found: set[str] = set()
        for key in client.scan_iter(match=literal(self.binding("")) + "*", count=5000):
            exchange = key.decode("utf-8", "replace")[lead:]
            if exchange.endswith(".pidbox") or exchange == "celeryev":
                continue
            found.update(queue for _key, queue in self.bound(client, exchange) if queue)
        return sorted(found)

    def exists(self, client: Any, queue: str) -> bool:
        """Whether a queue is bound, or holds a task."""
        pipe = client.pipeline(transaction=False)
        pipe.exists(self.binding(queue), *self.lists(queue))
        return bool(pipe.execute()[0])

    def unacked(self, client: Any) -> Held:
        total = int(client.hlen(self.unacked_key))
        if total > READ_TAILS:
            return Held(total)
        whole = total <= READ_WHOLE
        found: dict[str, tuple[str, str, str]] = {}
        cursor = "0"
        while True:
            answer = client.eval(_UNACKED, 1, self.unacked_key, cursor, PIECE, int(whole))
            cursor, *parts = answer.decode("utf-8", "replace").split("\0")
            # By their tags, for a walk may show one twice.
            found.update((parts[at], (parts[at + 1], parts[at + 2], parts[at + 3])) for at in range(0, len(parts), 4))
            if cursor == "0":
                break
        by_queue: dict[str, int] = {}
        ids: dict[str, list[str]] = {}
        routes: dict[str, dict[str, str]] = {}
        for exchange, key, task in found.values():
            if exchange and exchange not in routes:
                routes[exchange] = dict(self.bound(client, exchange))
            queue = routes.get(exchange, {}).get(key, key)
            by_queue[queue] = by_queue.get(queue, 0) + 1
            ids.setdefault(queue, []).append(task)
        return Held(len(found), by_queue, ids if whole else None)

    def coming_back(self, client: Any, queue: str) -> set[str] | None:
        """Ids of the queue's tasks that were in hand and whose messages are not acknowledged, or put back; None: too many to read."""
        held = self.unacked(client)
        if held.ids is None and held.total:
            return None
        found = set(held.ids_of(queue))
        for key in self.lists(queue):
            found.update(client.eval(_PUT_BACK, 1, key, PUT_BACK).decode("utf-8", "replace").split("\0"))
        return found

    def routing_keys(self, client: Any, queue: str) -> set[str]:
        """The routing keys by which tasks come to a queue, as far as its own exchange tells."""
        return {queue} | {key for key, bound in self.bound(client, queue) if bound == queue and key}


# Ends the private mailbox: later answers are routed nowhere. KEYS: binding of the reply exchange, list. ARGV: member.
_CLOSE = "redis.call('SREM', KEYS[1], ARGV[1]) return redis.call('DEL', KEYS[2])"


class Mailbox:
    """Celery's remote control over Redis.

    :ivar receivers: how many workers got the last question, as PUBLISH told; None: nobody was asked.
    """

    def __init__(self, keys: CeleryKeys, redis: RedisConnection, settings: Mapping[str, Any]) -> None:
        self._keys = keys
        self._redis = redis
        self._name = "%s.pidbox" % (settings.get("control_exchange") or "celery")
        self._timeout = float(settings.get("inspect_timeout") or 1.0)
        self.receivers: int | None = None

    def nodes(self, client: Any) -> list[str]:
        """The nodes that listen, and those that were killed while they did."""
        tail = "." + self._name
        return sorted(queue[: -len(tail)] for _key, queue in self._keys.bound(client, self._name) if queue.endswith(tail))

    def listening(self, client: Any) -> int:
        """How many workers listen, told by a ping that nobody answers."""
        return self._publish(client, "ping", {}, None, None, "", time.time())

    def _publish(
        self, client: Any, question: str, arguments: Mapping[str, Any], nodes: list[str] | None, ticket: str | None, key: str, now: float
    ) -> int:
        body = control_body(question, arguments, nodes, ticket, "reply." + self._name, key)
        headers = {"clock": 1, "expires": now + self._timeout}
        message = new_envelope(body, headers, self._name, "", delivery_mode=1)
        return int(client.publish("%s/%d.%s" % (self._keys.prefix, self._keys.db, self._name), json.dumps(message)))

    def ask(self, client: Any, questions: Mapping[str, Mapping[str, Any]], nodes: list[str] | None = None) -> Answers:
        """Ask ``nodes`` (None: every worker) and wait for as many answers as got the question, at most the time-out.

        A broker that takes no writes has no place for the answers: then nobody is asked, and the answers say why.
        """
        found = Answers(nodes=self.nodes(client))
        private = str(uuid.uuid4())
        reply = "reply." + self._name
        box = "%s.%s" % (private, reply)
        member = self._keys.sep.join((private, "", box))
        binding, where = self._keys.binding(reply), self._keys.prefix + box
        try:
            client.sadd(binding, member)
        except self._redis.redis.exceptions.ResponseError as problem:
            found.why_not = "the workers could not be asked, for the broker takes no writes: %s" % str(problem)[:120]
            return found
        try:
            now = time.time()
            waiting = {
                question: self._publish(client, question, asked, nodes, question, private, now) for question, asked in questions.items()
            }
            self.receivers = max(waiting.values())
            if nodes is not None:
                waiting = {question: min(count, len(nodes)) for question, count in waiting.items()}
            end = time.monotonic() + self._timeout
            while any(waiting.values()) and time.monotonic() < end:
                self._take(client, where, waiting, found)
        finally:
            client.eval(_CLOSE, 2, binding, where, member)
        found.complete = not any(waiting.values())
        return found

    def _take(self, client: Any, where: str, waiting: dict[str, int], found: Answers) -> None:
        popped = client.brpop([where], timeout=0.25)
        envelope = read_object(popped[1]) if popped else None
        if envelope is None:
            return
        try:
            body = read_object(base64.b64decode(str(envelope.get("body"))))
        except (binascii.Error, ValueError):
            return
        question = str((envelope.get("headers") or {}).get("ticket"))
        if body is not None and question in waiting:
            found.add(question, body)
            waiting[question] -= len(body)
