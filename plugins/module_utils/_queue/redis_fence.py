# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users of Redis and Valkey (ACL), one for each version of the workers."""

from __future__ import annotations

from typing import Any, Mapping

from .._errors import NotFound, Refused
from .fence import BrokerUser, Fence
from .redis_connection import RedisConnection

_DOING = "look at the broker's users"
_NEEDED = (("ACL", "SETUSER", "x"), ("ACL", "DELUSER", "x"), ("ACL", "SAVE"))


class RedisFence(Fence):
    """``ACL DELUSER`` disconnects who is logged in; ``ACL SETUSER … off`` would not."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._connection = RedisConnection(settings)
        self._where = self._connection.where

    def preflight(self) -> list[str]:
        with self._connection.asking(_DOING) as client:
            if not client.config_get("aclfile").get("aclfile"):
                raise Refused(
                    "Redis at %s has no file for its users, so that a restart would forget those of the versions, and no worker could log"
                    " in any more" % self._where,
                    option="url",
                    next_step="Set aclfile in its configuration and restart it, or leave queue.fence out",
                )
            self._require_rights(client)
            default = self._rules(client).get("default", [])
        if "on" in default and "nopass" in default:
            return [
                "At Redis %s whoever does not log in is the user default, which needs no password: a worker that does not log in is not"
                " shut out. Give default a password, or switch it off" % self._where
            ]
        return []

    def _require_rights(self, client: Any) -> None:
        """Ask before the first change whether all commands are allowed, where the server can be asked (Redis 7)."""
        me = client.execute_command("ACL", "WHOAMI")
        for command in _NEEDED:
            try:
                answer = _text(client.execute_command("ACL", "DRYRUN", me, *command))
            except self._connection.redis.exceptions.ResponseError as problem:
                if "subcommand" not in str(problem).lower():
                    raise
                return
            if answer != "OK":
                raise Refused(
                    "Could not prepare to shut a version out at %s: %s" % (self._where, answer),
                    option="username",
                    next_step="Grant +acl to the user %s, with which the fleet's queue is reached, or use another" % _text(me),
                )

    def _rules(self, client: Any) -> dict[str, list[str]]:
        """Each user's rules, as the server writes them. They hold no password, only digests of them."""
        lines = [_text(line).split(" ") for line in client.execute_command("ACL", "LIST")]
        # It is the default, which is written down for some users and for others not.
        return {line[1]: [rule for rule in line[2:] if rule != "sanitize-payload"] for line in lines}

    def look(self, user: str) -> BrokerUser:
        with self._connection.asking(_DOING) as client:
            exists = user in self._rules(client)
            connections = sum(_text(entry.get("user", "")) == user for entry in client.client_list())
        return BrokerUser(user, exists, connections)

    def is_like(self, user: str, like: str) -> bool:
        with self._connection.asking(_DOING) as client:
            rules = self._rules(client)
        return rules.get(user) == self._rules_of(like, rules)

    def _rules_of(self, like: str, rules: dict[str, list[str]]) -> list[str]:
        if like not in rules:
            raise NotFound(
                "Redis at %s has no user %s, which the users of the versions are made like" % (self._where, like),
                option="like",
                next_step="Make it with ACL SETUSER and ACL SAVE, with the password and the rights that a worker needs",
            )
        return rules[like]

    def let_in(self, user: str, like: str) -> None:
        with self._connection.asking("let the user %s in" % user) as client:
            client.execute_command("ACL", "SETUSER", user, "reset", *self._rules_of(like, self._rules(client)))
            client.execute_command("ACL", "SAVE")

    def shut_out(self, user: str) -> None:
        with self._connection.asking("shut the user %s out" % user) as client:
            client.execute_command("ACL", "DELUSER", user)
            client.execute_command("ACL", "SAVE")


def _text(answer: Any) -> str:
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)
