#!/usr/bin/env bash
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# browser.sh: see that a Chromium is there, in which the unit tests look at the post-mortem's page, and a font to show it in.
# As root on Debian it installs them; elsewhere it says in one line what to install.
set -euo pipefail

missing=()
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
    missing+=(chromium)
    if ! compgen -G "/usr/share/fonts/truetype/*" >/dev/null; then missing+=(fonts-dejavu-core); fi
fi

if [ "${#missing[@]}" = 0 ]; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "make unit needs ${missing[*]}: install with sudo apt install ${missing[*]}, then run it again." >&2
    exit 1
fi
echo "Installing ${missing[*]} ..." >&2
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
