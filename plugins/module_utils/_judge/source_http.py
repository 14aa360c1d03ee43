# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTP probe: the status of an answer, or a number in its JSON."""

from __future__ import annotations

import json
from typing import Any, Mapping

from .._errors import Refused, Unavailable
from .source import Answer, Source, number
from .web import Place


class HttpStatus(Source):
    """Passes with one status, and fails with any other."""

    def __init__(self, place: Place, status: int) -> None:
        self._place = place
        self._status = status

    def ask(self) -> Answer:
        status, _body = self._place.ask()
        if status != self._status:
            return Answer("%s answers %d, not %d" % (self._place.shown, status, self._status), outcome="fail")
        return Answer("%s answers %d" % (self._place.shown, status), outcome="pass")


class HttpField(Source):
    """The number at a place in a JSON answer, such as ``latency.p95`` or ``results.0.value``. ``status`` is the only one that has it."""

    def __init__(self, place: Place, status: int, field: str) -> None:
        self._place = place
        self._status = status
        self._field = field

    def ask(self) -> Answer:
        status, body = self._place.ask()
        shown = self._place.shown
        if status != self._status:
            raise Unavailable("%s answers %d, not %d" % (shown, status, self._status), option="http.status")
        try:
            found = json.loads(body)
        except ValueError:
            return Answer("%s does not answer in JSON" % shown)
        for name in self._field.split("."):
            try:
                found = found[int(name)] if isinstance(found, list) else found[name]
            except (KeyError, IndexError, TypeError, ValueError):
                return Answer("the JSON of %s has no field %s" % (shown, self._field))
        value = number(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None
        if value is None:
            return Answer("the field %s of %s is not a number" % (self._field, shown))
        return Answer("the field %s is %g" % (self._field, value), value=value)


def open_source(options: Mapping[str, Any], wants_number: bool) -> Source:
    """See :func:`.sources.open_source`."""
    place = Place.of(options, "http")
    status = int(options.get("status") or 200)
    if not 100 <= status < 600:
        raise Refused("%d is no HTTP status" % status, option="http.status")
    field = str(options.get("field") or "")
    if wants_number and not field:
        raise Refused("There is a limit and no number to hold against it", option="http.field", next_step="Give http.field, or no limit")
    if field and not wants_number:
        raise Refused("There is a number and no limit to hold it against", option="limit", next_step="Give limit, or no http.field")
    return HttpField(place, status, field) if field else HttpStatus(place, status)
