#!/usr/bin/env bash
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# trixie.sh: see that build/trixie is a root folder of Debian 13 with the newer brokers that the contract tests start from it
# (RabbitMQ 4, Redis 8, Valkey 8, PostgreSQL 17). Made once, by debootstrap, as root on Debian or Ubuntu; prints the folder.
set -euo pipefail
cd "$(dirname "$0")/.."
packages=(rabbitmq-server redis-server valkey-server postgresql-17)
root=$PWD/build/trixie
mark=.queueops
wanted="${packages[*]}"

mkdir -p build
exec 9>build/trixie.lock
flock 9
if [ "$(cat "$root/$mark" 2>/dev/null)" = "$wanted" ]; then
    echo "$root"
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Making $root with debootstrap needs root on Debian or Ubuntu: run scripts/trixie.sh there once as root." >&2
    exit 1
fi
if ! command -v debootstrap >/dev/null; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=600 debootstrap >&2
fi
# The source that this machine itself installs Debian from; none (Ubuntu) leaves it to debootstrap.
mirror=$(apt-get indextargets 'Created-By: Packages' |
    awk '/^Repo-URI: / { uri = $2 } /^Label: Debian$/ { debian = 1 } /^$/ { if (debian) { print uri; exit } debian = 0 }')
echo "Making $root (Debian 13 with $wanted) with debootstrap, once ..." >&2
tree=$(mktemp -d "$PWD/build/trixie.XXXXXX")
log=$PWD/build/trixie.log
trap 'rm -rf --one-file-system "$tree"' EXIT
failed() {
    tail -n 20 "$log" >&2 || true
    echo "debootstrap failed: see $log." >&2
    exit 1
}
# Older debootstraps do not know trixie by name: any Debian release is set up by the same script.
script=/usr/share/debootstrap/scripts/trixie
if [ ! -e "$script" ]; then script=/usr/share/debootstrap/scripts/sid; fi
debootstrap --variant=minbase trixie "$tree" ${mirror:+"$mirror"} "$script" >"$log" 2>&1 || failed
# No package's script may start its service: the tests start their own, on private ports.
printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
chmod 755 "$tree/usr/sbin/policy-rc.d"
mkdir -p "$tree/etc/postgresql-common"
echo "create_main_cluster = false" >"$tree/etc/postgresql-common/createcluster.conf"
apt-config dump Acquire | { grep -v '^Acquire ' || true; } >"$tree/etc/apt/apt.conf.d/90build"
{
    # A mount namespace of its own, so that no mount outlives this.
    unshare --mount --propagation private bash -euc "
        mount -t proc proc '$tree/proc'
        mount --bind /dev '$tree/dev'
        chroot '$tree' apt-get update -qq
        chroot '$tree' env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $wanted"
} >>"$log" 2>&1 </dev/null || failed
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* "$tree/etc/apt/apt.conf.d/90build"
chmod 755 "$tree"
echo "$wanted" >"$tree/$mark"
if [ -e "$root" ]; then rm -rf --one-file-system "$root"; fi
mv "$tree" "$root"
trap - EXIT
echo "$root"
