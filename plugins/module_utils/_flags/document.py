# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A document of flag definitions as flagd and the OpenFeature SDKs read it: parsed strictly, checked, and written down again."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Mapping, NoReturn

from .._errors import Refused

#: What a new document says of its own format.
SCHEMA = "https://flagd.dev/schema/v0/flags.json"

_KINDS: tuple[tuple[str, Any], ...] = (("boolean", bool), ("text", str), ("number", (int, float)), ("object", dict), ("list", list))
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Broken(Refused):
    """What a store holds is no document of flags; readers would not take it either."""

    code = "broken"


class _Twice(ValueError):
    """A name stands twice in one object, so that readers may differ in which they take."""


def empty() -> dict[str, Any]:
    """A document without flags."""
    return {"$schema": SCHEMA, "flags": {}}


def parse(content: bytes, where: str, option: str) -> dict[str, Any]:
    """The document in ``content``, in its order, with everything that is not understood here.

    :param where: the store, for the message.
    :param option: the option that names it.
    :raises Broken: it is no JSON (with line and column), or no document of flags (with the place in it).
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        before = content[: problem.start]
        _broken(where, option, "it is not UTF-8", before.count(b"\n") + 1, problem.start - (before.rfind(b"\n") + 1) + 1)
    try:
        document = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as problem:
        _broken(where, option, problem.msg, problem.lineno, problem.colno)
    except (ValueError, RecursionError) as problem:
        _broken(where, option, str(problem) if isinstance(problem, ValueError) else "it is nested too deep")
    wrong = _wrong(document)
    if wrong is not None:
        _broken(where, option, wrong)
    found: dict[str, Any] = document
    return found


def render(document: Mapping[str, Any]) -> bytes:
    """The document as it is stored."""
    return (as_text(document) + "\n").encode("utf-8")


def as_text(value: Any) -> str:
    """JSON for people; the order stays."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # Half a pair is allowed in JSON, but has no UTF-8.
    return _LONE_SURROGATE.sub(lambda half: "\\u%04x" % ord(half.group()), text)


def _broken(where: str, option: str, what: str, line: int | None = None, column: int | None = None) -> NoReturn:
    place = "" if line is None else " in line %d, column %d" % (line, column or 0)
    raise Broken(
        "What is in %s is not a document of flags%s: %s" % (where, place, what),
        option=option,
        next_step="Put it right, or take it away, and run again",
        details={"where": where, "line": line, "column": column},
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _value in pairs]
        raise _Twice("the name %s stands twice in one object" % next(name for name in names if names.count(name) > 1))
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError("%s is not JSON" % name)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("the number %s is too large" % text)
    return number


def _wrong(document: Any) -> str | None:
    """What readers would object to, with its place; None if nothing."""
    if not isinstance(document, dict):
        return "it is not an object with flags in it"
    flags = document.get("flags")
    if not isinstance(flags, dict):
        return "flags is not an object of flags by name"
    if not isinstance(document.get("$evaluators", {}), dict):
        return "$evaluators is not an object"
    if "" in flags:
        return "there is a flag without a name"
    wrong = _wrong_metadata(document, "metadata")
    for name, flag in flags.items():
        wrong = wrong or _wrong_flag(flag, "flags.%s" % name)
    return wrong


def _wrong_flag(flag: Any, place: str) -> str | None:
    if not isinstance(flag, dict):
        return "%s is not an object" % place
    if flag.get("state") not in ("ENABLED", "DISABLED"):
        return "%s.state is neither ENABLED nor DISABLED" % place
    variants = flag.get("variants")
    if not isinstance(variants, dict) or not variants:
        return "%s.variants is not an object of at least one variant" % place
    kinds = {_kind(value) for value in variants.values()}
    if len(kinds) > 1 or None in kinds:
        return "the values of %s.variants are not all of one kind" % place
    if not isinstance(flag.get("defaultVariant"), (str, type(None))):
        return "%s.defaultVariant is not the name of a variant" % place
    if not isinstance(flag.get("targeting"), (dict, type(None))):
        return "%s.targeting is not an object" % place
    return _wrong_metadata(flag, place + ".metadata")


def _wrong_metadata(owner: Mapping[str, Any], place: str) -> str | None:
    metadata = owner.get("metadata", {})
    if not isinstance(metadata, dict) or not all(metadata):
        return "%s is not an object of values by name" % place
    for name, value in metadata.items():
        if not isinstance(value, (str, int, float)):
            return "%s.%s is neither text nor a number nor true or false" % (place, name)
    return None


def _kind(value: Any) -> str | None:
    return next((kind for kind, types in _KINDS if isinstance(value, types)), None)
