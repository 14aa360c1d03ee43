# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Prometheus instant query, which has to give one number."""

from __future__ import annotations

import json
from typing import Any, Mapping
from urllib.parse import urlencode

from .._errors import Refused, Unavailable
from .source import Answer, Source, number
from .web import Place


class Prometheus(Source):
    """A server with Prometheus' HTTP API: Prometheus itself, Thanos, Mimir, VictoriaMetrics."""

    def __init__(self, place: Place, query: str) -> None:
        self._place = place
        self._query = query

    def ask(self) -> Answer:
        # By POST: a query may be longer than a server takes an address to be.
        status, body = self._place.ask("/api/v1/query", urlencode({"query": self._query}).encode())
        try:
            told = json.loads(body)
        except ValueError:
            told = None
        if status == 200 and isinstance(told, dict) and told.get("status") == "success" and isinstance(told.get("data"), dict):
            return _answer(told)
        said = told.get("error") if isinstance(told, dict) else None
        self._refuse(status, said)
        return Answer("Prometheus could not evaluate the query: %s" % (said or "it gave no reason"))

    def _refuse(self, status: int, said: Any) -> None:
        """:raises FleetError: unless the query was understood and only could not be evaluated (422)."""
        if status == 422:
            return
        shown = self._place.shown
        if status == 400:
            raise Refused(
                "Prometheus at %s does not understand the query: %s" % (shown, said or "it gave no reason"), option="prometheus.query"
            )
        if status in (401, 403):
            raise Refused(
                "Prometheus at %s refuses the access (%d)" % (shown, status),
                option="prometheus.token",
                next_step="Check prometheus.token, or prometheus.username and prometheus.password",
            )
        if status >= 500 or status in (408, 429):
            raise Unavailable("Prometheus at %s answers %d: %s" % (shown, status, said or "it gave no reason"), option="prometheus.url")
        raise Refused(
            "%s answers %d to a query, as no Prometheus does" % (shown, status),
            option="prometheus.url",
            next_step="Give the address before /api/v1, without a redirect",
        )


def _answer(told: Mapping[str, Any]) -> Answer:
    """The one number in a successful answer, or why there is none."""
    if told.get("warnings"):
        # As when a part of the data could not be read: the number is of the rest.
        return Answer("Prometheus answered with a warning: %s" % str(told["warnings"][0])[:200])
    kind, result = told["data"].get("resultType"), told["data"].get("result")
    if kind == "scalar":
        pair = result
    elif kind != "vector":
        raise Refused(
            "The query gives a %s, not a number" % kind,
            option="prometheus.query",
            next_step="Ask for an instant vector with one sample, for example with rate(), or a scalar",
        )
    elif not result:
        return Answer("the query gives no sample")
    elif len(result) > 1:
        return Answer("the query gives %d samples, not one; join them, for example with sum()" % len(result))
    elif "value" not in result[0]:
        return Answer("the query gives a histogram; take a number from it, for example with histogram_quantile()")
    else:
        pair = result[0]["value"]
    value = number(pair[1])
    if value is None:
        return Answer("the query gives %s, which is not a number" % str(pair[1])[:40])
    return Answer("the query gives %g" % value, value=value)


def open_source(options: Mapping[str, Any], wants_number: bool) -> Source:
    """See :func:`.sources.open_source`."""
    query = str(options.get("query") or "").strip()
    if not query:
        raise Refused("There is no query", option="prometheus.query")
    place = Place.of(dict(options, url=str(options.get("url") or "").rstrip("/")), "prometheus")
    if "?" in place.url:
        raise Refused("prometheus.url has a query part", option="prometheus.url", next_step="Give the address before /api/v1")
    return Prometheus(place, query)
