# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the systems on Redis share: how long they remember, words for outcomes, pieces of scripts, and reading JSON without trusting it."""

from __future__ import annotations

import json
import re
from typing import Any

#: How long the record of which tasks a run has moved is kept (s).
RUN_KEPT_S = 7 * 24 * 3600
#: How long after a queue's last redrive it is remembered how often its tasks were redriven (s).
COUNTS_KEPT_S = 30 * 24 * 3600
#: A window of tasks ends with the one that reaches this many bytes.
WINDOW_BYTES = 1 << 20
#: At most this many tasks are in hand while the breaker asks for their fate, before one is taken to be still queued.
FATE_DEPTH = 5000

TAKEN = "taken by somebody else meanwhile"
MOVED_BEFORE = "already moved by this run"
NO_DESTINATION = "its destination is gone"
LOST_ENTRY = "its entry has been deleted or trimmed"
#: Why a task was not acted on, by the letter that the scripts answer with.
REASONS = {"m": "", "g": TAKEN, "a": MOVED_BEFORE, "d": NO_DESTINATION, "e": LOST_ENTRY}

_decoder: Any = json.JSONDecoder()
_scan = _decoder.scan_once

# What is remembered of tasks: whether this run has moved them, and how often they were redriven. KEYS: moved set, counts. ARGV: ids.
RECALL = """
local told = {}
for i = 1, #ARGV do
  told[i] = redis.call('SISMEMBER', KEYS[1], ARGV[i]) .. ':' .. (redis.call('HGET', KEYS[2], ARGV[i]) or '0')
end
return table.concat(told, ',')
"""

# The rank behind (score, member) of the last one seen, whether that is still in the sorted set or not.
# Members of one score are compared byte by byte, as the server sorts them; Lua's own < goes by the server's language.
BEHIND = """
local function after(one, other)
  for i = 1, math.min(#one, #other) do
    local mine, theirs = string.byte(one, i), string.byte(other, i)
    if mine ~= theirs then return mine > theirs end
  end
  return #one > #other
end
local function behind(key, score, member)
  if score == '' then return 0 end
  local low, high = redis.call('ZCOUNT', key, '-inf', '(' .. score), redis.call('ZCOUNT', key, '-inf', score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if after(redis.call('ZRANGE', key, middle, middle)[1], member) then high = middle else low = middle + 1 end
  end
  return low
end
"""


def moved_key(run: str | None, source: str) -> str:
    """The set of what ``run`` moved from ``source``, within which ids are unique: a list, a stream, or a system's own prefix of keys."""
    return "queueops:redrive:%s:moved:%s" % (run, source)


def literal(name: str) -> str:
    """``name`` as a pattern for SCAN that nothing else matches: a queue called ``a*b`` must not match others."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", name)


def text(value: Any) -> str:
    """What Redis answered, as text; bytes that are no UTF-8 come back as they were by :func:`raw`."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def raw(value: str) -> bytes:
    """The bytes of :func:`text`."""
    return value.encode("utf-8", "surrogateescape")


def loads(payload: bytes) -> Any:
    """The payload, if it is a JSON object or array; else None. JSON is data; nothing else is ever decoded."""
    if payload[:1] not in (b"{", b"[", b" ", b"\t", b"\n", b"\r"):
        return None
    try:
        told = payload.decode("utf-8").strip(" \t\n\r")
        # Half as long as json.loads, of which most is to look for spaces.
        found, end = _scan(told, 0)
    except (ValueError, RecursionError, StopIteration):
        return None
    return found if end == len(told) and isinstance(found, (dict, list)) else None


def sound(name: str) -> bool:
    """Whether a text of a payload can be told and stored: half a character, which JSON can spell, cannot."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
