# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs an operator's command on a staged file before anything live changes."""

from __future__ import annotations

import fnmatch
import subprocess
from typing import Mapping, Sequence, Union

from .._errors import Refused
from .watch import Watch, printable, to_bytes

#: A command that must exit 0 for each staged file (``%s`` is the staged copy), or such commands by glob of the live path.
Validate = Union[Sequence[str], Mapping[str, Sequence[str]], None]

VALIDATE_SECONDS = 300


def check_staged(staged: Mapping[str, str], validate: Validate, watch: Watch) -> None:
    """Run the command on each staged file.

    :param staged: live path by staged path.
    :param watch: tells which paths are sensitive.
    :raises Refused: it did not exit 0 for one of them.
    """
    if not validate:
        return
    for copy, path in staged.items():
        command = _command_for(path, validate)
        if command:
            check_file(command, copy, path, watch.is_sensitive(path))


def _command_for(path: str, validate: Validate) -> Sequence[str]:
    if not isinstance(validate, Mapping):
        return validate or ()
    for glob, command in validate.items():
        if path == glob or fnmatch.fnmatchcase(path, glob):
            return command
    return ()


def check_file(command: Sequence[str], staged: str, path: str, sensitive: bool) -> None:
    """Run one validating command on a staged file.

    :raises Refused: it did not exit 0; its words are in the error unless the file is sensitive.
    """
    if not any("%s" in word for word in command):
        raise Refused("The command of `validate` has no %s for the staged file", option="validate", next_step="Put %s where the path goes")
    argv = [to_bytes(word.replace("%s", staged)) for word in command]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=VALIDATE_SECONDS, check=False
        )
        failed = f"exited {done.returncode}" if done.returncode else ""
        words = done.stdout.decode("utf-8", "replace").strip()[-1000:]
    except subprocess.TimeoutExpired:
        failed, words = f"did not end within {VALIDATE_SECONDS} s", ""
    except OSError as error:
        failed, words = f"could not be started: {error.strerror}", ""
    if failed:
        said = "" if sensitive or not words else f": {words.replace(staged, path)}"
        raise Refused(
            f"The new content of {printable(path)} is not valid: `{command[0]}` {failed}{said}",
            option="validate",
            next_step="Mend the content, or the command",
        )
