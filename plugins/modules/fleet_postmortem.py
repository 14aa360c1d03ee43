#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_postmortem
short_description: Make the post-mortem of a deploy or a rollback from the journal alone
version_added: 0.1.0
description:
  - Reads the journal on the fleet's home, verifies it, and makes of one operation's events one HTML page that needs nothing but itself,
    and the same as Markdown. They have the times to detect, to decide and to revert, the decision points with what was measured and what
    else could have been done, the timeline to the second with the number of each event, plots, what happened on each host, the tasks by
    outcome, the config's differences, and headings for what a person has to fill in.
  - What the journal does not have is said to be not known. Nothing is asked of a host, a broker or a clock, and later operations do not
    matter, so that the pages of an operation that has ended are the same to the byte whenever they are made.
  - All texts in the journal are taken as untrusted. They are shown as they are, never as markup.
  - It writes no file. The role P(queueops.fleet.postmortem#role) does.
extends_documentation_fragment:
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
  - queueops.fleet.journal
attributes:
  check_mode:
    support: full
    details: Only reads.
  diff_mode:
    support: N/A
    details: Changes nothing.
  idempotent:
    support: full
options:
  operation:
    description:
      - The id of the operation.
      - By default it is the newest one that was rolled back, failed or was taken over. If there is none, it is the newest.
    type: str
seealso:
  - module: queueops.fleet.fleet_journal_info
author:
  - The queueops.fleet contributors (@queueops)
"""

EXAMPLES = r"""
- name: Make the page of what went wrong last
  queueops.fleet.fleet_postmortem:
    fleet: mailer
  register: made

- name: Write it on the controller
  ansible.builtin.copy:
    content: "{{ made.html }}"
    dest: /srv/postmortems/{{ made.operation }}.html
    mode: "0640"
  delegate_to: localhost

- name: Make the page of one operation
  queueops.fleet.fleet_postmortem:
    fleet: mailer
    operation: op-0002-deploy
"""

RETURN = r"""
operation:
  description: The operation that it tells of.
  returned: success
  type: str
  sample: op-0002-deploy
html:
  description: The page. UTF-8, no script, nothing fetched.
  returned: success
  type: str
  sample: <!DOCTYPE html>...
markdown:
  description: The same without the plots, as CommonMark with GitHub's tables.
  returned: success
  type: str
  sample: "# Post-mortem of op-0002-deploy, fleet mailer..."
facts:
  description: What both say.
  returned: success
  type: dict
  contains:
    operation:
      description: The operation.
      type: str
    kind:
      description: V(deploy) or V(rollback).
      type: str
    outcome:
      description: How it ended. Null while it is open.
      type: str
    sentence:
      description: What it came to.
      type: str
    opened_at:
      description: When it was opened, ISO 8601 in UTC.
      type: str
    closed_at:
      description: When it ended. Null while it is open.
      type: str
    times:
      description:
        - Seconds. C(detect_s) is from the first switch to the release that was left until the first gate or host failed, C(decide_s) from
          there until the rollback was ordered, C(revert_s) from there until the last host was back, and C(in_service_s) from that switch
          until that return.
        - Null where an event is missing.
      type: dict
    not_known:
      description: Why a time is null.
      type: dict
    decisions:
      description: The decision points, with C(seq), C(at), C(what), C(by) and C(reason).
      type: list
      elements: dict
    hosts:
      description: The hosts, with C(host), C(release), C(phase), C(ok) and C(reason) as the operation's end had them.
      type: list
      elements: dict
    last_seq:
      description: The number of the operation's last event.
      type: int
    last_hash:
      description: Its hash.
      type: str
  sample:
    operation: op-0002-deploy
    kind: deploy
    outcome: rolled_back
    times: {detect_s: 10.464, decide_s: 10.874, revert_s: 9.859, in_service_s: 31.197}
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._journal.options import JOURNAL_OPTIONS, journal_of
from ansible_collections.queueops.fleet.plugins.module_utils._postmortem.facts import as_dict, choose, gather
from ansible_collections.queueops.fleet.plugins.module_utils._postmortem.markdown import markdown
from ansible_collections.queueops.fleet.plugins.module_utils._postmortem.page import page

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def body(module: AnsibleModule) -> Outcome:
    params: dict[str, Any] = module.params
    events = journal_of(params).read()
    operation = choose(events, params["operation"])
    facts = gather(events, params["fleet"], operation)
    return Outcome(result={"operation": operation, "html": page(facts), "markdown": markdown(facts), "facts": as_dict(facts)})


def main() -> None:
    spec: dict[str, Any] = {"operation": {"type": "str"}}
    spec.update(JOURNAL_OPTIONS)
    run_module(body, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
