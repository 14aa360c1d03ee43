# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of Celery workers on RabbitMQ, where the broker divides the tasks; forth and back under a producer with confirms."""

from __future__ import annotations

from collections import Counter

from lab import Lab, check_share_before_hosts, moment, tell

OLD, NEW = "1.0.0", "2.0.0"


def test_forth_and_back_without_loss(parcel: Lab) -> None:
    parcel.check_release(1, OLD)
    parcel.publish()
    parcel.must("deploy", version=NEW)
    parcel.check_release(2, NEW)
    assert parcel.divided() == [{OLD: 90, NEW: 10}, {OLD: 75, NEW: 25}, {NEW: 100}]
    switched = [moment(event) for event in parcel.events("host_switched") if event["host"] == "worker3"]
    rows = parcel.check_tasks()
    assert max(row.at for row in rows.values() if row.version == OLD) < switched[0]
    forth = Counter(row.version for row in rows.values())

    back = Lab("parcel")
    back.publish()
    back.must("rollback")
    back.check_release(1, OLD)
    assert back.divided() == [{OLD: 100}]
    check_share_before_hosts(back)
    rows = back.check_tasks()
    assert {outcome for outcome, _at in back.published().values()} == {"routed"}
    tell(
        f"parcel: {forth.total()} tasks while {NEW} went out, {forth[OLD]} done by {OLD} and {forth[NEW]} by {NEW}; {len(rows)} with "
        "those of the rollback; each confirmed, none unroutable, each done once"
    )
