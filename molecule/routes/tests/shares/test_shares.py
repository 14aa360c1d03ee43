# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of RQ workers, whose producer asks a flag in Redis for each task's queue: one story on three hosts, in this order."""

from __future__ import annotations

from collections import Counter

from lab import POLL_S, Lab, check_share_before_hosts, moment, tell

OLD, BAD, GOOD = "1.0.0", "2.0.0", "3.0.0"


def test_a_bad_version_loses_its_share_before_its_hosts_and_its_tasks_are_done_by_the_good_one(mailer: Lab) -> None:
    mailer.check_release(1, OLD)
    mailer.publish()
    done = mailer.run("deploy", version=BAD)
    assert done.code != 0 and "rolled_back" in done.output
    mailer.check_release(1, OLD)
    assert mailer.divided() == [{OLD: 90, BAD: 10}, {OLD: 100}]
    check_share_before_hosts(mailer)

    rows = mailer.check_tasks()
    published = mailer.published()
    given, back = (moment(event) for event in mailer.events("tasks_divided"))
    for_the_bad_one = {number for number, (queue, _at) in published.items() if queue == f"mail-{BAD}"}
    by_the_bad_one = {number for number, row in rows.items() if row.version == BAD}
    assert by_the_bad_one < for_the_bad_one and {rows[number].host for number in by_the_bad_one} == {"worker1"}
    # It fails a third of them: those whose relay its config does not define.
    assert {rows[number].version for number in for_the_bad_one - by_the_bad_one} == {OLD}
    late = {number for number, (_queue, at) in published.items() if at > back + POLL_S}
    assert late and {published[number][0] for number in late} == {f"mail-{OLD}"} and {rows[number].version for number in late} == {OLD}
    while_shared = [queue for queue, at in published.values() if given + POLL_S < at < back]
    tell(
        f"bad {BAD}: {len(while_shared)} tasks were published while it had 10 %, {while_shared.count(f'mail-{BAD}')} of them for it; "
        f"{len(for_the_bad_one)} were for it, of which it did {len(by_the_bad_one)} and {OLD} the other "
        f"{len(for_the_bad_one - by_the_bad_one)}; {len(rows)} tasks in all, each done once"
    )


def test_a_good_version_gets_its_shares_and_the_old_one_works_off_its_queue_before_the_last_wave(mailer: Lab) -> None:
    mailer.publish()
    mailer.must("deploy", version=GOOD)
    mailer.check_release(3, GOOD)
    assert mailer.divided() == [{OLD: 90, GOOD: 10}, {OLD: 75, GOOD: 25}, {GOOD: 100}]

    rows = mailer.check_tasks()
    published = mailer.published()
    ten, quarter, everything = (moment(event) for event in mailer.events("tasks_divided"))
    switched = [moment(event) for event in mailer.events("host_switched") if event["host"] == "worker3"]
    assert len(switched) == 1 and max(row.at for row in rows.values() if row.version == OLD) < switched[0]
    by_the_other = [number for number, (queue, _at) in published.items() if queue == f"mail-{OLD}" and rows[number].version == GOOD]
    # At most what a producer sent before it had looked at the flag again.
    assert all(everything < published[number][1] < everything + 2 * POLL_S for number in by_the_other)
    assert all(rows[number].version == GOOD for number, (queue, _at) in published.items() if queue == f"mail-{GOOD}")
    late = {queue for queue, at in published.values() if at > everything + POLL_S}
    assert late == {f"mail-{GOOD}"}
    for share, begin, end in ((10, ten, quarter), (25, quarter, everything)):
        sent = Counter(queue for queue, at in published.values() if begin + POLL_S < at < end)
        assert sent[f"mail-{GOOD}"] > 0
        tell(f"good {GOOD}: {sent.total()} tasks were published while it had {share} %, {sent[f'mail-{GOOD}']} of them for it")
    tell(f"good {GOOD}: {len(rows)} tasks since the beginning, each done once")


def test_back_to_release_1_by_its_number(mailer: Lab) -> None:
    mailer.publish()
    mailer.must("rollback", release=1)
    mailer.check_release(1, OLD)
    assert mailer.divided() == [{OLD: 100}]
    check_share_before_hosts(mailer)
    rows = mailer.check_tasks()
    back = moment(mailer.events("tasks_divided")[0])
    assert {rows[number].version for number, (_queue, at) in mailer.published().items() if at > back + POLL_S} == {OLD}
    tell(f"back to release 1: {len(rows)} tasks since the beginning, each done once")
    mailer.must("status")
