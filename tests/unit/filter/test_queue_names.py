# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of queues that each version has for itself."""

from __future__ import annotations

import pytest
from ansible_collections.queueops.fleet.plugins.filter.queue_names import fleet_queues, versioned
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import BACKENDS


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_version_is_written_as_its_queue_system_takes_it(backend: str) -> None:
    written = "2_0_0" if backend == "nats" else "2.0.0"
    assert versioned("mail-{version}/v{version}", "2.0.0", backend) == f"mail-{written}/v{written}"
    assert versioned("mail.news", "2.0.0", backend) == "mail.news"


def test_a_fleet_has_a_queue_for_each_version_and_each_queue_once() -> None:
    queue = {"backend": "rq", "names": ["mail-{version}", "news", "bulk-{version}", "mail-2.0.0", "news"]}
    assert fleet_queues(queue, ["2.0.0", "", "1.9.0", "2.0.0"]) == ["mail-2.0.0", "mail-1.9.0", "news", "bulk-2.0.0", "bulk-1.9.0"]
    assert fleet_queues(queue, []) == ["news", "mail-2.0.0"]
    assert fleet_queues({"backend": "nats", "names": ["MAIL-{version}/worker"]}, ["2.0.0"]) == ["MAIL-2_0_0/worker"]
