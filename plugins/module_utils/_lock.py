# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file lock that many writers share, waited for with a limit."""

from __future__ import annotations

import errno
import fcntl
import time

from ._errors import Unavailable

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.25


def lock_file(descriptor: int, what: str, path: str, exclusive: bool, patience: float) -> None:
    """Take the lock on an open file; it is given back when the file is closed.

    :param what: what it guards, for the message: ``journal``.
    :param exclusive: for a writer; readers share.
    :param patience: s to wait for whoever holds it.
    """
    wanted = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    end = time.monotonic() + patience
    pause = _FIRST_PAUSE
    while True:
        try:
            fcntl.flock(descriptor, wanted | fcntl.LOCK_NB)
            return
        except OSError as problem:
            if problem.errno not in (errno.EAGAIN, errno.EACCES, errno.EINTR):
                raise
        if time.monotonic() > end:
            raise Unavailable(
                "Another process has held the %s %s for more than %g s" % (what, path, patience),
                next_step="Run again; `fuser %s` names the process when it lasts" % path,
            )
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
