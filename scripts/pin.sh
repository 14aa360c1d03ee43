#!/usr/bin/env bash
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# pin.sh NAME...: resolve requirements/NAME.in in a fresh environment and write what pip chose to requirements/NAME.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
for name in "$@"; do
    folder=$(mktemp -d)
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/python" -m pip install -qq --disable-pip-version-check -r "requirements/$name.in" 2>/dev/null
    {
        sed -n 1,3p "requirements/$name.in"
        echo "# Written by scripts/pin.sh from requirements/$name.in: change that file, then run \`make requirements\`."
        "$folder/venv/bin/python" -m pip freeze --disable-pip-version-check 2>/dev/null
    } >"requirements/$name.txt.new"
    mv "requirements/$name.txt.new" "requirements/$name.txt"
    rm -rf "$folder"
done
