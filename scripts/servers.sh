#!/usr/bin/env bash
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# servers.sh: see that the queue systems' servers, the languages of their workers, and Prometheus are there, for the contract tests.
# As root on Debian or Ubuntu it installs what is missing; elsewhere it says in one line what to install.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
# want PATH-PATTERN PACKAGE...: the packages are needed unless a file is there under that name.
want() {
    if ! compgen -G "$1" >/dev/null; then missing+=("${@:2}"); fi
}

want "/usr/lib/rabbitmq/bin/rabbitmq-server" rabbitmq-server
want "/usr/lib/postgresql/*/bin/postgres" postgresql
want "/usr/bin/sidekiq" ruby-sidekiq
want "/usr/bin/prometheus" prometheus
if ! command -v redis-server >/dev/null; then missing+=(redis-server); fi
if ! command -v node >/dev/null; then missing+=(nodejs); fi
if ! command -v npm >/dev/null; then missing+=(npm); fi

if [ "${#missing[@]}" = 0 ]; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "make contract needs ${missing[*]}: install with sudo apt install ${missing[*]}, then run it again." >&2
    exit 1
fi
echo "Installing ${missing[*]} ..." >&2
# None of them is to run by itself: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 0755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
# The postgresql packages would make a cluster of their own.
mkdir -p /etc/postgresql-common
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf; fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
