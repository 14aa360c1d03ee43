# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTML and SVG as a tree of elements. Text is escaped where it enters; only what an element made is taken as markup."""

from __future__ import annotations

import html
from typing import Union

#: Elements that have no end.
_VOID = ("br", "link", "meta")


class Markup(str):
    """Text that is markup already."""


# Not with |, which Python 3.8 cannot evaluate.
Child = Union[str, None]
Value = Union[str, int, float, None]


def element(tag: str, /, *children: Child, **attributes: Value) -> Markup:
    """``<tag attributes>children</tag>``. None is left out, among the children and as the value of an attribute.

    Of an attribute's name, an underscore at the end is dropped (``class_``) and others become hyphens (``text_anchor``).
    """
    given = "".join(
        ' %s="%s"' % (key.rstrip("_").replace("_", "-"), html.escape(str(value), quote=True))
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup("<%s%s>" % (tag, given))
    return Markup("<%s%s>%s</%s>" % (tag, given, joined(*children), tag))


def joined(*children: Child) -> Markup:
    """The children one after the other."""
    return Markup(
        "".join(child if isinstance(child, Markup) else html.escape(child, quote=True) for child in children if child is not None)
    )
