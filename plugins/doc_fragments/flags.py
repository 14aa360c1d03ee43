# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # Where flags are kept.
    DOCUMENTATION = r"""
options:
  fleet:
    description: The fleet, by the name that it has in its specification. It is written into the metadata of its gates.
    type: str
    required: true
  path:
    description:
      - The file of flags on the host, in flagd's JSON format. Its folder has to be there.
      - A symbolic link is refused, for a swap would put a file in its place; give the path that it leads to.
    type: path
  redis_key:
    description:
      - The key in Redis or Valkey that holds the flags as text, in the same format. Needs O(url).
      - An application that reads it gives the text to flagd's evaluator, in Python C(FlagdCore.set_flags) of C(openfeature-flagd-core).
    type: str
  url:
    description:
      - Where Redis or Valkey is, as the host sees it that runs this task, for example V(redis://broker:6379/0), V(rediss://broker:6380/0)
        with TLS, V(unix:///run/redis/redis.sock?db=0), or V(redis+sentinel://sentinel1:26379,sentinel2:26379/mymaster/0).
      - Give a password in O(password), not here.
    type: str
  username:
    description: User at Redis, where it has users.
    type: str
  password:
    description: Password at Redis.
    type: str
  tls_ca:
    description: File on the host with the CA that signed the server's certificate. Default is the system's CAs.
    type: path
  tls_verify:
    description: Whether the server's certificate and name are checked.
    type: bool
    default: true
  connect_timeout:
    description: Seconds to wait for a connection to Redis, and for each answer.
    type: float
    default: 5.0
  sentinel_username:
    description: User at the sentinels, for an O(url) with V(redis+sentinel).
    type: str
  sentinel_password:
    description: Password at the sentinels.
    type: str
requirements:
  - For O(redis_key) the Python library C(redis), 4.3 or newer (C(python3-redis) of Debian and Ubuntu), on the host that runs the task.
"""
