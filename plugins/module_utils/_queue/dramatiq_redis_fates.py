# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of the tasks that a redrive gave back to Dramatiq's workers, for its breaker.

A task failed again when it waits for another attempt or is a dead letter, and completed when it is gone otherwise. Another attempt has
a key of its own on the broker, so tasks are known by their ids. Every step here is a piece of what is to be looked at.
"""

from __future__ import annotations

from typing import Any, Callable

from .dramatiq_redis_keys import Keys
from .dramatiq_redis_scripts import IDENTITY
from .redis_connection import RedisConnection
from .redis_scripts import BEHIND, RUN_KEPT_S

#: Tasks looked at by one script on the server: some milliseconds, during which it serves nobody else.
PIECE = 500
#: By so much the clock of a worker may be behind the broker's (ms), when it says when a task died.
SKEW_MS = 60000
#: So many tasks that others publish meanwhile may stand between those that are tried again.
TAIL = 1000

# Which redriven tasks are in nobody's hands any more. KEYS: pending, hashes they were put into... ARGV: cursor, how many.
# Answers the next cursor, then key and id of each.
_SETTLED = """
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local found = {page[1]}
for i = 1, #page[2], 2 do
  local held = false
  for j = 2, #KEYS do held = held or redis.call('HEXISTS', KEYS[j], page[2][i]) == 1 end
  if not held then
    found[#found + 1] = page[2][i]
    found[#found + 1] = page[2][i + 1]
  end
end
return table.concat(found, '\\0')
"""

# What the scripts that note failures share. KEYS: moved, pending, failed again, completed.
_FAILED = (
    IDENTITY
    + """
local function failed(id)
  if redis.call('SISMEMBER', KEYS[1], id) == 1 then
    redis.call('SADD', KEYS[3], id)
    redis.call('SREM', KEYS[4], id)
  end
end
"""
)

# Notes which redriven tasks are tried again. With a cursor all of a hash, a piece a call.
# KEYS: moved, pending, failed again, completed, messages. ARGV: how many, cursor or '', else keys... Answers the next cursor.
_RETRIED = (
    _FAILED
    + """
local function note(key, data)
  if redis.call('HEXISTS', KEYS[2], key) == 0 then failed(identity(key, data)) end
end
local cursor = '0'
if ARGV[2] ~= '' then
  local page = redis.call('HSCAN', KEYS[5], ARGV[2], 'COUNT', ARGV[1])
  for i = 1, #page[2], 2 do note(page[2][i], page[2][i + 1]) end
  cursor = page[1]
else
  for i = 3, #ARGV do note(ARGV[i], redis.call('HGET', KEYS[5], ARGV[i])) end
end
return cursor
"""
)

# Notes which redriven tasks are dead letters again, a piece a call. KEYS: moved, pending, failed again, completed, dead letters, their
# messages. ARGV: score and member of the last one looked at, how many. Answers score and member of the last one; nothing at the end.
_DIED = (
    _FAILED
    + BEHIND
    + """
local start = behind(KEYS[5], ARGV[1], ARGV[2])
local dead = redis.call('ZRANGE', KEYS[5], start, start + ARGV[3] - 1, 'WITHSCORES')
for i = 1, #dead, 2 do failed(identity(dead[i], redis.call('HGET', KEYS[6], dead[i]))) end
return {dead[#dead], dead[#dead - 1]}
"""
)

# Settles those that are in nobody's hands. KEYS: moved, pending, failed again, completed, dead letters...
# ARGV: seconds to keep what is known, then key and id of each. Answers how many completed and how many failed again, of all.
_SETTLE = """
for i = 2, #ARGV, 2 do
  local died = redis.call('SISMEMBER', KEYS[3], ARGV[i + 1]) == 1
  for j = 5, #KEYS do died = died or redis.call('ZSCORE', KEYS[j], ARGV[i]) end
  redis.call('SADD', died and KEYS[3] or KEYS[4], ARGV[i + 1])
  redis.call('HDEL', KEYS[2], ARGV[i])
end
for i = 3, 4 do redis.call('EXPIRE', KEYS[i], ARGV[1]) end
return {redis.call('SCARD', KEYS[4]), redis.call('SCARD', KEYS[3])}
"""


class Fates:
    """Counts on the server, in sets beside the record of what this run has moved.

    :param tracks: the keys of what was moved, is pending, failed again and completed.
    :param queues: where the tasks were given to.
    :param living: answers the names of the workers that live.
    :param since: when it began, seconds since 1970 by the broker's clock.
    """

    def __init__(
        self, redis: RedisConnection, keys: Keys, tracks: list[str], queues: list[str], living: Callable[[], list[str]], since: float
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._tracks = tracks
        self._queues = queues
        self._living = living
        self._since = since
        client = redis.client
        self._settled, self._retried = client.register_script(_SETTLED), client.register_script(_RETRIED)
        self._died, self._settle = client.register_script(_DIED), client.register_script(_SETTLE)
        with redis.asking("open the queue"):
            # What an earlier part of this run found out is not about the tasks that are moved from now on.
            client.delete(*tracks[1:])

    def known(self, moved: int) -> tuple[int, int]:
        """Of ``moved`` tasks: of how many the fate is known, and how many of those failed again."""
        keys = self._keys
        with self._redis.asking("ask what became of the redriven tasks") as client:
            gone = self._gone()
            # A worker publishes the next attempt before it lets go of the last one: looked for in the direction in which it goes.
            for name in self._queues:
                self._note_delayed(name)
                self._note_queued(client, name, moved)
                self._note_delayed(name)
            for name in self._queues:
                self._note_dead(name)
            completed = failed = 0
            dead = [keys.dead(name) for name in self._queues]
            for first in range(0, max(1, len(gone)), 2 * PIECE):
                answer = self._settle(keys=[*self._tracks, *dead], args=[RUN_KEPT_S, *gone[first : first + 2 * PIECE]])
                completed, failed = answer
        return completed + failed, failed

    def _gone(self) -> list[bytes]:
        """Key and id of each that is in nobody's hands."""
        held = [self._keys.messages(key) for name in self._queues for key in (self._keys.queue(name), self._keys.delayed(name))]
        found: list[bytes] = []
        cursor = b"0"
        while True:
            cursor, *some = self._settled(keys=[self._tracks[1], *held], args=[cursor, PIECE]).split(b"\0")
            found += some
            if cursor == b"0":
                return found

    def _note_delayed(self, name: str) -> None:
        """Note what waits for another attempt."""
        cursor = b"0"
        while True:
            keys = [*self._tracks, self._keys.messages(self._keys.delayed(name))]
            cursor = self._retried(keys=keys, args=[PIECE, cursor])
            if cursor == b"0":
                return

    def _note_queued(self, client: Any, name: str, moved: int) -> None:
        """Note what is queued for another attempt, near the end of the queue, or in a worker's hand."""
        queue = self._keys.queue(name)
        found = client.lrange(queue, -(2 * moved + TAIL), -1)
        for worker in self._living():
            found += client.smembers(self._keys.acks(worker, name))
        for first in range(0, len(found), PIECE):
            keys = [*self._tracks, self._keys.messages(queue)]
            self._retried(keys=keys, args=[PIECE, "", *found[first : first + PIECE]])

    def _note_dead(self, name: str) -> None:
        """Note what has died since it began."""
        dead = self._keys.dead(name)
        last: list[Any] = [int(self._since * 1000) - SKEW_MS, ""]
        while last:
            last = self._died(keys=[*self._tracks, dead, self._keys.messages(dead)], args=[*last, PIECE])
