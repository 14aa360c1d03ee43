# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells people what happens to a fleet. On the controller, which reaches their channels; what cannot be delivered never fails the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.queueops.fleet.plugins.module_utils._adapter import failure
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._journal.events import now
from ansible_collections.queueops.fleet.plugins.module_utils._notify.channels import Channel, Delivery, channels_of, deliver
from ansible_collections.queueops.fleet.plugins.module_utils._notify.message import Message, message_of
from ansible_collections.queueops.fleet.plugins.module_utils._notify.options import NOTIFY_OPTIONS


class ActionModule(ActionBase):
    """Options in, who was told out; the sending itself is in the room ``_notify``."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        # Not ActionBase's own: its errors show the place where the options were written, with the secrets that stand there.
        validated = ArgumentSpecValidator(NOTIFY_OPTIONS).validate(self._task.args)
        if validated.error_messages:
            refused = Refused("The options of fleet_notify are wrong: %s" % "; ".join(validated.error_messages))
            return dict(result, **failure(refused))
        options = validated.validated_parameters
        try:
            channels = channels_of(options["channels"])
        except Refused as error:
            return dict(result, **failure(error))
        if options["event"] is None:
            return dict(result, changed=False, msg="%d channels can be used" % len(channels))
        message = message_of(options)
        asked = [channel for channel in channels if channel.wants(message)]
        deliveries = [] if self._task.check_mode else deliver(asked, message)
        return dict(result, **_told(options["fleet"], options["event"], message, asked, deliveries))


def _told(fleet: str, event: str, message: Message, asked: Sequence[Channel], deliveries: Sequence[Delivery]) -> dict[str, Any]:
    """The module's return values."""
    failed = [delivery for delivery in deliveries if delivery.problem]
    told = [delivery.channel.name for delivery in deliveries if not delivery.problem]
    would = [channel.name for channel in asked] if not deliveries else []
    told_line = "told %s: %s" if deliveries else "would tell %s: %s"
    return {
        "changed": False,
        "text": message.text,
        "trouble": message.trouble,
        "delivered": told,
        "would_tell": would,
        "failed_channels": [{"channel": delivery.channel.name, "problem": delivery.problem} for delivery in failed],
        "undelivered": [_event(event, delivery) for delivery in failed],
        "warnings": [_warning(event, fleet, delivery) for delivery in failed],
        "board": {"subject": fleet, "text": [told_line % (", ".join(told or would), message.title)] if told or would else []},
    }


def _event(event: str, delivery: Delivery) -> dict[str, Any]:
    """The failure as an event of the journal."""
    return {
        "kind": "notification_failed",
        "at": now(),
        "reason": delivery.problem,
        "data": {"channel": delivery.channel.name, "event": event},
    }


def _warning(event: str, fleet: str, delivery: Delivery) -> str:
    sentences = (
        "%s was not told of the event %s of fleet %s: %s" % (delivery.channel.name, event, fleet, delivery.problem),
        "The operation goes on",
        delivery.next_step,
    )
    return " ".join(sentence.rstrip(".") + "." for sentence in sentences if sentence)
