# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users of RabbitMQ, one for each version of the workers. The nodes of a cluster share them."""

from __future__ import annotations

from typing import Any, Mapping

from .._errors import NotFound, Refused, Unavailable
from .fence import BrokerUser, Fence
from .rabbitmq_management import Management, path_part

#: What makes two users alike: the digest of the password, and what it may do in which virtual host.
_LOGIN = ("password_hash", "hashing_algorithm", "tags")
_RIGHTS = {"permissions": ("configure", "write", "read"), "topic-permissions": ("exchange", "write", "read")}


class RabbitmqFence(Fence):
    """Who is logged in as a user goes on when it is deleted, so that its connections are closed after it."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._management = Management(settings)

    def preflight(self) -> list[str]:
        me = self._ask("whoami") or {}
        tags = me.get("tags") or []
        if "administrator" not in (tags.split(",") if isinstance(tags, str) else tags):
            raise Refused(
                "RabbitMQ's user %s may not make and delete users" % me.get("name"),
                option="username",
                next_step="Give it the tag administrator, or use a user that has it",
            )
        return []

    def look(self, user: str) -> BrokerUser:
        exists = self._ask("users/%s" % path_part(user)) is not None
        return BrokerUser(user, exists, len(self._ask("connections/username/%s" % path_part(user)) or ()))

    def is_like(self, user: str, like: str) -> bool:
        return self._described(user) == self._required(like)

    def let_in(self, user: str, like: str) -> None:
        wanted, had = self._required(like), self._described(user)
        # The rights first would be refused, for there is no user yet; it may log in to no virtual host until it has them.
        self._management.tell("PUT", "users/%s" % path_part(user), wanted["login"])
        for kind in _RIGHTS:
            if had is not None and had[kind] != wanted[kind]:
                for vhost in {right["vhost"] for right in had[kind]}:
                    self._management.tell("DELETE", "%s/%s/%s" % (kind, path_part(vhost), path_part(user)))
            for right in wanted[kind]:
                rights = {name: right[name] for name in _RIGHTS[kind]}
                self._management.tell("PUT", "%s/%s/%s" % (kind, path_part(right["vhost"]), path_part(user)), rights)

    def shut_out(self, user: str) -> None:
        self._management.tell("DELETE", "users/%s" % path_part(user))
        self._management.tell("DELETE", "connections/username/%s" % path_part(user))

    def _required(self, like: str) -> dict[str, Any]:
        found = self._described(like)
        if found is None:
            raise NotFound(
                "RabbitMQ has no user %s, which the users of the versions are made like" % like,
                option="like",
                next_step="Make it, with the password and the rights that a worker needs",
            )
        return found

    def _described(self, user: str) -> dict[str, Any] | None:
        login = self._ask("users/%s" % path_part(user))
        if login is None:
            return None
        found: dict[str, Any] = {"login": {name: login.get(name) for name in _LOGIN}}
        for kind, names in _RIGHTS.items():
            rights = self._ask("users/%s/%s" % (path_part(user), kind)) or []
            found[kind] = sorted(({name: right.get(name) for name in ("vhost", *names)} for right in rights), key=str)
        return found

    def _ask(self, path: str) -> Any:
        answer = self._management.ask(path)
        if self._management.reason is not None:
            raise Unavailable(
                self._management.reason, option="management_url", next_step="Check management_url and the user's tags, and run again"
            )
        return answer
