# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Extended attributes and ACLs: which of them belong to a snapshot, and how they are read and put back.

Recorded are ``user.*`` and the ACLs (``system.posix_acl_access``, ``system.posix_acl_default``), and by root also
``trusted.*`` and ``security.*``. Left out is what the kernel computes itself (``security.ima``, ``security.evm``) and all other
``system.*``. Nobody but root can set ``trusted.*`` and ``security.*``: another user neither records, compares nor sets them.
"""

from __future__ import annotations

import base64
import errno
import os
import struct
from typing import Mapping, Tuple

from .._errors import Refused
from .watch import printable, to_text

#: Name and base64 of the value, sorted by name.
Attributes = Tuple[Tuple[str, str], ...]

ACCESS_ACL, DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"

#: Computed by the kernel from content and attributes.
COMPUTED = ("security.ima", "security.evm")

#: A label that every file has where the kernel hands them out: set where it was recorded, never removed.
LABEL = "security.selinux"

#: "There is no such attribute" and "there are no attributes here".
_NONE = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)

_ACL_TAGS = {0x01: "user:", 0x02: "user:", 0x04: "group:", 0x08: "group:", 0x10: "mask:", 0x20: "other:"}
_OWNER, _MASK, _OTHER = 0x01, 0x10, 0x20
_ACL_NAMED = (0x02, 0x08)


def is_ours(name: str) -> bool:
    """Whether this process records, compares and sets the attribute."""
    if name.startswith("user.") or name in (ACCESS_ACL, DEFAULT_ACL):
        return True
    return os.geteuid() == 0 and name.startswith(("trusted.", "security.")) and name not in COMPUTED


def read(path: bytes) -> Attributes:
    """The recorded attributes of a path itself, not of what it leads to.

    :raises OSError: one of them may not be read.
    """
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NONE:
            return ()
        raise
    found = []
    for name in sorted(names):
        if is_ours(name):
            try:
                value = os.getxattr(path, name, follow_symlinks=False)
            except OSError as error:
                if error.errno in _NONE:
                    continue  # removed since it was listed: the change time tells that it was
                raise
            found.append((name, base64.b64encode(value).decode("ascii")))
    return tuple(found)


def same(one: Attributes | None, other: Attributes | None) -> bool:
    """Whether two paths have the same attributes, of those that this process may set; what was not recorded is not judged."""
    if one == other or one is None or other is None:
        return True
    ours, theirs = ({name: value for name, value in each if is_ours(name)} for each in (one, other))
    if LABEL not in ours or LABEL not in theirs:
        ours.pop(LABEL, None)
        theirs.pop(LABEL, None)
    return ours == theirs


def put(path: bytes, wanted: Attributes | None) -> None:
    """Give the path just these attributes.

    :raises OSError: one cannot be set or removed; the error names it.
    """
    if wanted is None:
        return
    there, ours = dict(read(path)), {name: value for name, value in wanted if is_ours(name)}
    for name in [*there, *ours]:
        try:
            if name not in ours and name != LABEL:
                os.removexattr(path, name, follow_symlinks=False)
            elif name in ours and there.get(name) != ours[name]:
                os.setxattr(path, name, base64.b64decode(ours[name]), follow_symlinks=False)
        except OSError as error:
            raise OSError(error.errno, f"its attribute {name} cannot be set: {error.strerror}", path) from error


def check(path: str, parent: bytes, wanted: Attributes | None) -> None:
    """Refuse beforehand what the file system below ``parent`` does not have at all; reads only.

    :raises Refused: with the path and the attribute.
    """
    for name, _value in wanted or ():
        try:
            if is_ours(name):
                os.getxattr(parent, name)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOTSUP):
                raise Refused(
                    f"{printable(path)} cannot get its attribute {name} back: the file system there has no such attributes",
                    next_step="Mount it with attributes and ACLs, or exclude the path (option `exclude`)",
                ) from error


def inherited(parent: Attributes | None, mode: int, is_folder: bool) -> Attributes:
    """What a new file or directory gets from the default ACL of the directory that it is made in, with these permission bits."""
    default = dict(parent or ()).get(DEFAULT_ACL)
    if default is None:
        return ()
    # One that names nobody says no more than the mode does.
    names_somebody = any(tag == _MASK for tag, _rights, _number in _rows(default))
    found = with_mode(((ACCESS_ACL, default),), mode) if names_somebody else ()
    return tuple(sorted((*found, (DEFAULT_ACL, default)))) if is_folder else found


def with_mode(attributes: Attributes, mode: int) -> Attributes:
    """The attributes after a chmod: where somebody is named in an ACL, the group's bits of a mode are its mask."""
    bits = {_OWNER: mode >> 6 & 7, _MASK: mode >> 3 & 7, _OTHER: mode & 7}
    return tuple((name, _with_rights(value, bits) if name == ACCESS_ACL else value) for name, value in attributes)


def _with_rights(acl: str, bits: Mapping[int, int]) -> str:
    """The ACL with other rights in the rows with these tags."""
    rows = [struct.pack("<HHI", tag, bits.get(tag, rights), number) for tag, rights, number in _rows(acl)]
    return base64.b64encode(base64.b64decode(acl)[:4] + b"".join(rows)).decode("ascii")


def _rows(value: str) -> list[tuple[int, int, int]]:
    """Tag, rights and number of each row of an ACL."""
    return list(struct.iter_unpack("<HHI", base64.b64decode(value)[4:]))


def shown(attributes: Attributes | None, secret: bool) -> str:
    """One line an attribute, for a diff; ``secret``: without the values."""
    lines = []
    for name, value in attributes or ():
        raw = base64.b64decode(value)
        if name in (ACCESS_ACL, DEFAULT_ACL):
            lines.append(f"{'default acl' if name == DEFAULT_ACL else 'acl'} {_acl(raw)}\n")
        else:
            lines.append(f"attribute {printable(name)}{'' if secret else ' = ' + printable(to_text(raw))}\n")
    return "".join(lines)


def _acl(raw: bytes) -> str:
    """An ACL in the short text form of getfacl(1), with numbers for names."""
    words = []
    for tag, rights, number in struct.iter_unpack("<HHI", raw[4:]):
        letters = "".join(letter if rights & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
        words.append(f"{_ACL_TAGS.get(tag, '?:')}{number if tag in _ACL_NAMED else ''}:{letters}")
    return ",".join(words)
