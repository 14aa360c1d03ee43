# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deleting the originals of moved tasks on NATS: one by one, or by one purge where nothing that stays lies between them."""

from __future__ import annotations

import json
from collections import deque
from typing import Any, Sequence

from .nats_connection import NO_MESSAGE, ApiError, NatsSession
from .nats_places import Target, removes
from .nats_routes import Item
from .nats_source import Source

#: A deletion has no code of its own for it.
_NO_MESSAGE_TEXTS = ("no message found", "message not found", "stream message not found", "no message for that sequence")


class Originals:
    """The messages of a source that are read and not yet deleted."""

    def __init__(self, session: NatsSession, source: Source, home: Target) -> None:
        self._session = session
        self._source = source
        self._home = home
        #: The sequences of those, as long as they may be purged.
        self._ahead: deque[int] = deque()
        config = source.info["config"]
        # One act for all, where nothing between is left behind. With replicas a new leader may not have seen the last message yet.
        self._purges = (
            source.label != "queued"
            and len(source.subjects) == 1
            and not config.get("deny_purge")
            and int(config.get("num_replicas") or 1) == 1
        )

    def read(self, sequences: list[int]) -> None:
        """These were read, in the order of the stream."""
        if self._purges:
            self._ahead.extend(sequences)

    def delete(self, items: Sequence[Item], stored: bool) -> list[bool]:
        """Delete originals; whether each was gone already. ``stored``: their copies are, so that it does not matter who deletes them."""
        if not items:
            return []
        # The task itself first: while the advisory is there, a second run finds what is left to do.
        named = [item for item in items if item.message is not item.letter]
        if named and removes(self._home.info):
            self._delete_many(self._home.stream, [item.message.seq for item in named])
        sequences = [item.letter.seq for item in items]
        if stored and self._purges and len(sequences) > 1 and self._leading(sequences):
            body: dict[str, Any] = {"seq": sequences[-1] + 1}
            if self._source.subjects[0] != ">":
                body["filter"] = self._source.subjects[0]
            (answer,) = self._session.ask_many([("$JS.API.STREAM.PURGE." + self._source.stream, json.dumps(body).encode(), None)])
            if isinstance(answer, bytes) and not json.loads(answer).get("error"):
                self._forget(sequences)
                return [False] * len(items)
            # It may not be allowed to us, or not here; or whether it was done is not known.
            self._stop_purging()
        gone = self._delete_many(self._source.stream, sequences)
        self._forget(sequences)
        return gone

    def _leading(self, sequences: list[int]) -> bool:
        """Whether nothing else of the source lies before or between them."""
        return len(self._ahead) >= len(sequences) and all(mine == theirs for mine, theirs in zip(sequences, self._ahead))

    def _forget(self, sequences: list[int]) -> None:
        if self._leading(sequences):
            for _seq in sequences:
                self._ahead.popleft()
        else:
            self._stop_purging()

    def _stop_purging(self) -> None:
        self._purges = False
        self._ahead.clear()

    def _delete_many(self, stream: str, sequences: list[int]) -> list[bool]:
        # Without no_erase the server overwrites each message on disk and syncs, which is a hundred times slower.
        gone = []
        for answer in self._session.api_many([("STREAM.MSG.DELETE." + stream, {"seq": seq, "no_erase": True}) for seq in sequences]):
            if isinstance(answer, ApiError) and answer.code != NO_MESSAGE and str(answer) not in _NO_MESSAGE_TEXTS:
                raise answer
            gone.append(isinstance(answer, ApiError))
        return gone
