#!/usr/bin/env bash
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# venv.sh NAME: make .venv/NAME hold exactly what requirements/NAME.txt pins. Does nothing when it already does.
set -euo pipefail
cd "$(dirname "$0")/.."
name=$1
venv=.venv/$name
wanted=$(cat "requirements/$name.txt" scripts/venv.sh | sha256sum | cut -c1-16)
# The path is part of the stamp: a venv does not survive being moved.
wanted="$wanted $PWD"

if [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

python=
for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "This needs Python 3.11 or newer: install python3 (sudo apt install python3 python3-venv) or name one with PYTHON=/path/to/python3." >&2
    exit 1
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    echo "$python cannot make virtual environments: install its venv module (sudo apt install python3-venv)." >&2
    exit 1
fi

echo "Setting up $venv from requirements/$name.txt (once) ..." >&2
rm -rf "$venv"
"$python" -m venv "$venv"
if ! "$venv/bin/python" -m pip install -qq --disable-pip-version-check -r "requirements/$name.txt" >"$venv/pip.log" 2>&1; then
    cat "$venv/pip.log" >&2
    echo "pip could not install requirements/$name.txt into $venv: see above." >&2
    exit 1
fi
echo "$wanted" >"$venv/.stamp"
