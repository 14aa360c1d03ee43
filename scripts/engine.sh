#!/usr/bin/env bash
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# engine.sh: see that a Docker engine answers and that the image the containers are built on is there.
# As root on Debian or Ubuntu it installs and starts what is missing; elsewhere it says in one line what to install.
set -euo pipefail
cd "$(dirname "$0")/.."
base=queueops-base:trixie
log=build/dockerd.log

installs=no
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then installs=yes; fi

# install PROGRAM=PACKAGE...: install the packages whose program is not here yet.
install() {
    local packages=() pair
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
    done
    if [ "${#packages[@]}" = 0 ]; then return; fi
    if [ "$installs" = no ]; then
        echo "make molecule needs ${packages[*]}: install with sudo apt install ${packages[*]}, then run it again." >&2
        exit 1
    fi
    echo "Installing ${packages[*]} ..." >&2
    apt-get update -qq
    # Docker's command line is a package of its own in newer releases only.
    if [[ " ${packages[*]} " == *" docker.io "* ]] && apt-cache show docker-cli >/dev/null 2>&1; then packages+=(docker-cli); fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
}

engine_answers() { docker info >/dev/null 2>&1; }

install ssh=openssh-client docker=docker.io
if ! engine_answers; then
    if [ "$(id -u)" != 0 ]; then
        echo "make molecule needs a Docker engine that $(id -un) may use: sudo apt install docker.io && sudo usermod -aG docker $(id -un), then log in again; or run it as root." >&2
        exit 1
    fi
    install dockerd=docker.io iptables=iptables
fi
if ! engine_answers; then
    if [ -d /run/systemd/system ]; then
        systemctl start docker || true
    fi
    if ! engine_answers; then
        echo "Starting dockerd by hand, log in $log ..." >&2
        mkdir -p build
        setsid nohup dockerd >"$log" 2>&1 </dev/null &
    fi
    for _ in $(seq 120); do
        if engine_answers; then break; fi
        sleep 0.5
    done
    if ! engine_answers; then
        tail -n 20 "$log" >&2 || true
        echo "The Docker engine did not answer within 60 s: see $log." >&2
        exit 1
    fi
fi

if docker image inspect "$base" >/dev/null 2>&1; then exit 0; fi

# Where a container registry answers, its image serves as well.
if timeout 60 docker pull -q debian:trixie >/dev/null 2>&1; then
    docker tag debian:trixie "$base"
    exit 0
fi

install debootstrap=debootstrap
if [ "$(id -u)" != 0 ]; then
    echo "No container registry answers, and building the base image here needs root: run make molecule as root once." >&2
    exit 1
fi
# The source that this machine itself installs Debian from; none (Ubuntu) leaves it to debootstrap.
mirror=$(apt-get indextargets 'Created-By: Packages' |
    awk '/^Repo-URI: / { uri = $2 } /^Label: Debian$/ { debian = 1 } /^$/ { if (debian) { print uri; exit } debian = 0 }')
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
echo "Building the base image (Debian 13) with debootstrap, once ..." >&2
# Older debootstraps do not know trixie by name: any Debian release is set up by the same script.
script=/usr/share/debootstrap/scripts/trixie
if [ ! -e "$script" ]; then script=/usr/share/debootstrap/scripts/sid; fi
if ! debootstrap --variant=minbase --include=ca-certificates trixie "$tree/root" ${mirror:+"$mirror"} "$script" >"$tree/log" 2>&1; then
    tail -n 20 "$tree/log" "$tree/root/debootstrap/debootstrap.log" >&2 || true
    exit 1
fi
rm -rf "$tree"/root/var/cache/apt/archives/*.deb "$tree"/root/var/lib/apt/lists/*
tar -C "$tree/root" --numeric-owner -c . | docker import - "$base" >/dev/null
