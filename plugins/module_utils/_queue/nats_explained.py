# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the errors of NATS and of its client mean for the operator."""

from __future__ import annotations

import socket

from .._errors import FleetError, Refused, Unavailable

CHECK = "Check url, and that the broker is up and reachable from %s" % socket.gethostname()

# Marks in the error's text (in small letters), our error, what to say, the option at fault, what to do. The first that fits.
EXPLAINED: tuple[tuple[tuple[str, ...], type[FleetError], str, str | None, str], ...] = (
    (
        ("authorization", "authentication", "invalid user credentials", "nkey", "user info missing"),
        Refused,
        "the broker wants another user name, password or token (%s)",
        "password",
        "Set username and password (or password alone for a token) to what the broker expects",
    ),
    (
        ("permissions violation",),
        Refused,
        "the broker's user may not do this (%s)",
        "username",
        "Grant it to the user (publish on $JS.API.> and on the subjects, subscribe on _INBOX.>), or use another user",
    ),
    (
        ("certificate", "tls", "ssl"),
        Refused,
        "TLS failed (%s)",
        "tls_ca",
        "Give the CA that signed the broker's certificate in tls_ca, write url with tls://, and check that this port speaks TLS",
    ),
    (
        ("jetstream not enabled", "no responders"),
        Unavailable,
        "JetStream does not answer there (%s)",
        "url",
        "Wait if the broker is just starting; else enable JetStream for this account, or give the address of a server that has it",
    ),
    (
        ("insufficient resources", "insufficient storage", "resource limits exceeded", "storage limits exceeded", "no space"),
        Unavailable,
        "NATS refuses writes (%s)",
        None,
        "Free storage on the broker, or raise its JetStream limits, and run again",
    ),
    (
        ("temporarily unavailable", "no leader", "leader"),
        Unavailable,
        "the cluster has no leader for it at the moment (%s)",
        None,
        "Run again when the cluster has settled",
    ),
    (("no answer in time",), Unavailable, "%s", "url", CHECK),
)
