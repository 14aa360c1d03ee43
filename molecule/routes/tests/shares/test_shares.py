# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of RQ workers, whose producer asks a flag in Redis for each task's queue: one story on three hosts, in this order.

When the tasks were divided anew is seen from what the producer did, which is at most its poll interval late.
"""

from __future__ import annotations

import json
from collections import Counter

from lab import POLL_S, Lab, check_share_before_hosts, moment, on, tell

OLD, BAD, GOOD = "1.0.0", "2.0.0", "3.0.0"


def sent_to(lab: Lab, version: str) -> dict[int, float]:
    """The tasks that were published to a version's queue: number to when, unix time."""
    return {number: at for number, (queue, at) in lab.published().items() if queue == f"mail-{version}"}


def sent_between(lab: Lab, begin: float, end: float) -> Counter[str]:
    """How many tasks were published meanwhile, by queue."""
    return Counter(queue for queue, at in lab.published().values() if begin <= at <= end)


def went_back(lab: Lab) -> float:
    """When the first host had gone back, unix time."""
    return min(moment(event) for event in lab.events("host_reverted"))


def let_in() -> int:
    """For how many of a hundred the gate of the release is on, as it stands in Redis."""
    flag = json.loads(on("broker", "redis-cli GET mailer:gates"))["flags"]["new-invoice"]
    return int(flag["targeting"]["fractional"][0][1])


def test_a_bad_version_loses_its_share_before_its_hosts_and_its_tasks_are_done_by_the_good_one(mailer: Lab) -> None:
    mailer.check_release(1, OLD)
    mailer.publish()
    done = mailer.run("deploy", version=BAD, new_invoice=50)
    assert done.code != 0 and "rolled_back" in done.output
    mailer.check_release(1, OLD)
    # It comes last, and the deploy did not get so far.
    assert let_in() == 0 and not mailer.events("feature_gates_set")
    assert mailer.divided() == [{OLD: 90, BAD: 10}, {OLD: 100}]
    check_share_before_hosts(mailer)

    rows = mailer.check_tasks()
    given = sent_to(mailer, BAD)
    assert max(given.values()) < went_back(mailer)
    by_the_bad_one = {number for number, row in rows.items() if row.version == BAD}
    assert by_the_bad_one < set(given) and {rows[number].host for number in by_the_bad_one} == {"worker1"}
    # It fails a third of them: those whose relay its config does not define.
    assert {rows[number].version for number in set(given) - by_the_bad_one} == {OLD}
    late = {number for number, at in sent_to(mailer, OLD).items() if at > max(given.values())}
    assert late and {rows[number].version for number in late} == {OLD}
    sent = sent_between(mailer, min(given.values()), max(given.values()))
    tell(
        f"bad {BAD}: of {sent.total()} tasks that were published while it had 10 %, {sent[f'mail-{BAD}']} were for it; it did "
        f"{len(by_the_bad_one)} of them, and {OLD} the other {len(given) - len(by_the_bad_one)}; {len(rows)} tasks in all, each done once"
    )


def test_a_good_version_gets_its_shares_and_the_old_one_works_off_its_queue_before_the_last_wave(mailer: Lab) -> None:
    mailer.publish()
    mailer.must("deploy", version=GOOD, new_invoice=25)
    mailer.check_release(3, GOOD)
    (put,) = mailer.events("feature_gates_set")
    assert let_in() == 25 and moment(put) > max(moment(event) for event in mailer.events("host_switched"))
    assert mailer.divided() == [{OLD: 90, GOOD: 10}, {OLD: 75, GOOD: 25}, {GOOD: 100}]

    rows = mailer.check_tasks()
    old, new = sent_to(mailer, OLD), sent_to(mailer, GOOD)
    switched = {event["host"]: moment(event) for event in mailer.events("host_switched")}
    assert max(old.values()) < switched["worker3"]
    assert max(row.at for row in rows.values() if row.version == OLD) < switched["worker3"]
    # At most what the producer sent before it had looked at the flag again.
    assert all(old[number] > max(old.values()) - POLL_S for number in old if rows[number].version == GOOD)
    assert {rows[number].version for number in new} == {GOOD}
    waves = [moment(event) for event in mailer.events("wave_started")]
    quarter = moment(mailer.events("tasks_divided")[1])
    for share, begin, end in ((10, min(new.values()), switched["worker2"]), (25, quarter + POLL_S, waves[2])):
        sent = sent_between(mailer, begin, end)
        assert sent[f"mail-{GOOD}"] > 0 and sent[f"mail-{OLD}"] > sent[f"mail-{GOOD}"]
        tell(f"good {GOOD}: of {sent.total()} tasks that were published while it had {share} %, {sent[f'mail-{GOOD}']} were for it")
    after = sent_between(mailer, max(old.values()) + 0.001, float("inf"))
    assert set(after) == {f"mail-{GOOD}"}
    tell(f"good {GOOD}: then all {after.total()}; {len(rows)} tasks since the beginning, each done once")


def test_back_to_release_1_by_its_number(mailer: Lab) -> None:
    mailer.publish()
    mailer.must("rollback", release=1)
    mailer.check_release(1, OLD)
    assert mailer.divided() == [{OLD: 100}]
    check_share_before_hosts(mailer)
    (put,) = mailer.events("feature_gates_set")
    assert let_in() == 0 and moment(put) < went_back(mailer)
    rows = mailer.check_tasks()
    back = max(sent_to(mailer, GOOD).values())
    assert back < went_back(mailer)
    late = {rows[number].version for number, at in sent_to(mailer, OLD).items() if at > back}
    assert late == {OLD}
    tell(f"back to release 1: {len(rows)} tasks since the beginning, each done once")
    mailer.must("status")
