# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception tree. Each error carries what an operator needs in order to act."""

from __future__ import annotations

from typing import Any


class FleetError(Exception):
    """Something went wrong.

    :param message: what happened, in one sentence that names the host, the queue or the path it happened to.
    :param option: the module option that the operator has to change, if one is at fault.
    :param still_true: what is still true now, for example "nothing was changed".
    :param next_step: what to do next, in the imperative.
    :param details: the partial result so far; becomes part of the module's return value. No payloads, no secrets.
    """

    code = "error"
    #: Whether the same call may succeed later without anybody changing anything.
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        option: str | None = None,
        still_true: str | None = None,
        next_step: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.option = option
        self.still_true = still_true
        self.next_step = next_step
        self.details = details or {}

    def sentence(self) -> str:
        """The whole error as the on-call reads it: what happened, what is still true, what to do next."""
        told = "%s %s" % (self.message, self.next_step or "")
        at_fault = "(option %s)" % self.option if self.option and self.option not in told else ""
        message = " ".join(part for part in (self.message.rstrip("."), at_fault) if part)
        parts = [message, self.still_true, self.next_step]
        return " ".join(part.rstrip(".") + "." for part in parts if part)


class Refused(FleetError):
    """Refused before the first change: an option, a file or a permission is wrong."""

    code = "refused"

    def __init__(self, message: str, **kwargs: Any) -> None:
        kwargs.setdefault("still_true", "Nothing was changed")
        super().__init__(message, **kwargs)


class NotFound(Refused):
    """Refused because a named thing (release, snapshot, version, queue, unit) does not exist."""

    code = "not_found"


class MissingLibrary(Refused):
    """Refused because the host that runs the module lacks a library or a program."""

    code = "missing_library"


class Unavailable(FleetError):
    """A broker, a service manager or a source of artifacts did not answer. Could not measure is not failing."""

    code = "unavailable"
    retryable = True

    def __init__(self, message: str, **kwargs: Any) -> None:
        kwargs.setdefault("still_true", "Nothing was changed")
        super().__init__(message, **kwargs)


class OutOfTime(FleetError):
    """The time given was up first. The details say what is still executing, where and since when."""

    code = "out_of_time"
    retryable = True


class PutBack(FleetError):
    """A change failed and the host put its earlier state back by itself."""

    code = "put_back"


class HalfDone(FleetError):
    """A change failed and the earlier state could not be put back either. A person has to look."""

    code = "half_done"


class Conflict(FleetError):
    """Another operation holds the fleet, or a newer one has been here (older epoch)."""

    code = "conflict"
