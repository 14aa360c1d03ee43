#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_notify
short_description: Tell people what happens to a fleet
version_added: 0.1.0
description:
  - Sends a message by webhook, to Slack or what takes the same, and by mail, to all channels at the same time.
  - What cannot be delivered never fails the task. It becomes a warning that says who was not told, why, and what to do. A channel whose
    options are wrong fails it, and so does so before anything is sent.
  - What is sent is plain text, escaped for each channel. Long texts are cut, and say how much of them is missing; so are long lists of
    hosts. No result, warning or difference holds an address of a webhook, a header, a body or a password.
  - Runs on the controller, and connects to no host of the inventory. Run it once for the fleet. Proxies for webhooks are taken from the
    environment of the controller. Redirects are not followed.
extends_documentation_fragment:
  - queueops.fleet.attributes
attributes:
  check_mode:
    support: full
    details: Sends nothing, and returns what would be sent to whom.
  diff_mode:
    support: N/A
    details: Changes nothing of the fleet.
  idempotent:
    support: none
    details: Each run sends the messages again.
options:
  channels:
    description: Who is told, and how. Each is exactly one of O(channels[].webhook), O(channels[].slack) and O(channels[].mail).
    type: list
    elements: dict
    required: true
    suboptions:
      webhook:
        description: A JSON document, posted. It is delivered when the answer's status is 2xx.
        type: dict
        suboptions:
          url:
            description: Where to, by http or https. Without a user name and password; give these as a header.
            type: str
            required: true
          headers:
            description: More headers, such as C(Authorization).
            type: dict
          body:
            description:
              - The document. In its texts C({name}) stands for a fact of the event, and a text that is C({name}) alone becomes the fact
                itself, a number, a list or null.
              - There are C(event), C(title) (one line), C(text) (all of the message), C(trouble) (whether somebody may have to look),
                C(fleet), C(operation) (its id), C(kind) (V(deploy) or V(rollback)), C(release), C(version), C(from_release), C(actor),
                C(taken_over) (whether the operation goes on after a controller that died), C(reason), C(gate), C(verdict) and C(wave) (of a
                gate), C(outcome), C(hosts) (a list of C(host), C(release), C(phase), C(ok) and C(reason), those that differ first),
                C(hosts_left_out), C(opened_at), C(closed_at) and C(took_s).
              - By default all of them.
            type: dict
          tls_ca:
            description: File on the controller with the CA that signed the server's certificate. By default the CAs that the system trusts.
            type: path
      slack:
        description: An incoming webhook of Slack, or of a system that takes the same, such as Mattermost or Rocket.Chat.
        type: dict
        suboptions:
          url:
            description: The webhook's address, which is a secret. Keep it in Ansible Vault.
            type: str
            required: true
          tls_ca:
            description: As O(channels[].webhook.tls_ca).
            type: path
      mail:
        description: Mail, by SMTP.
        type: dict
        suboptions:
          server:
            description: Name or address of the mail server.
            type: str
            required: true
          port:
            description: Its port. By default V(587) with V(starttls), V(465) with V(tls), V(25) with V(none).
            type: int
          tls:
            description: How the connection is encrypted - V(starttls) after it was made, V(tls) from its first byte, or V(none).
            type: str
            choices: [starttls, tls, none]
            default: starttls
          tls_ca:
            description: As O(channels[].webhook.tls_ca).
            type: path
          username:
            description: User name at the mail server. Refused where the connection is not encrypted.
            type: str
          password:
            description: Password at the mail server. Keep it in Ansible Vault.
            type: str
          from:
            description: Address of the sender, without a name.
            type: str
            required: true
          to:
            description: Addresses that it goes to, without names.
            type: list
            elements: str
            required: true
      events:
        description:
          - What this channel is told of.
          - V(rolling_back) is a deploy that goes back, and a rollback that is opened. V(gate) is each gate's verdict; where the fleet goes
            back for it, both are told in one message.
        type: list
        elements: str
        choices: [opened, gate, rolling_back, ended]
        default: [opened, gate, rolling_back, ended]
      only_trouble:
        description:
          - Of these only what somebody may have to look at - a gate that did not pass, a deploy that goes back, and an operation that did
            not end as it was meant to.
        type: bool
        default: false
      timeout:
        description:
          - Seconds within which it has to be delivered. A connection that was lost, an answer of 5xx or 429, and a temporary refusal of a
            mail server are tried once more within them.
        type: float
        default: 5
  event:
    description: What happened. Without it nothing is sent, and only O(channels) is checked.
    type: str
    choices: [opened, gate, rolling_back, ended]
  fleet:
    description: The name of the fleet.
    type: str
    required: true
  operation:
    description: What M(queueops.fleet.fleet_operation) returned, when it opened the operation or, for V(ended), closed it.
    type: dict
    default: {}
  actor:
    description: Who acts.
    type: str
  reason:
    description: Why.
    type: str
  gate:
    description: For O(event=gate) and O(event=rolling_back), what M(queueops.fleet.fleet_gate) returned.
    type: dict
    default: {}
  wave:
    description: The hosts that the gate judged.
    type: list
    elements: str
    default: []
  verdict:
    description: For O(event=ended), what M(queueops.fleet.fleet_verdict) returned.
    type: dict
    default: {}
author:
  - The queueops.fleet contributors (@queueops)
"""

EXAMPLES = r"""
- name: Tell the team's channel and the on-call that a deploy was opened
  queueops.fleet.fleet_notify:
    fleet: mailer
    event: opened
    operation: "{{ opened }}"
    actor: alice
    channels:
      - slack:
          url: "{{ vault_slack_url }}"
      - mail:
          server: smtp.example.com
          username: fleet
          password: "{{ vault_smtp_password }}"
          from: fleet@example.com
          to: [oncall@example.com]
        only_trouble: true
      - webhook:
          url: https://events.pagerduty.com/v2/enqueue
          body:
            routing_key: "{{ vault_routing_key }}"
            event_action: trigger
            dedup_key: "{operation}"
            payload:
              summary: "{title}"
              source: "{fleet}"
              severity: error
              custom_details: {reason: "{reason}", hosts: "{hosts}"}
        events: [rolling_back, ended]
        only_trouble: true
  run_once: true
"""

RETURN = r"""
text:
  description: The message.
  returned: if O(event) is given
  type: str
  sample: "mailer: deploy of release 2 (2.0.0) opened\nop-0002-deploy, from release 1, by alice"
trouble:
  description: Whether somebody may have to look.
  returned: if O(event) is given
  type: bool
  sample: false
delivered:
  description: The channels that took it, by kind, server and place in O(channels), from 1.
  returned: if O(event) is given
  type: list
  elements: str
  sample: ["slack hooks.slack.com (channel 1)"]
would_tell:
  description: In check mode, the channels that would be told.
  returned: if O(event) is given
  type: list
  elements: str
  sample: []
failed_channels:
  description: The channels that did not take it.
  returned: if O(event) is given
  type: list
  elements: dict
  contains:
    channel:
      description: The channel.
      type: str
    problem:
      description: Why not.
      type: str
  sample:
    - {channel: "mail smtp.example.com (channel 2)", problem: "smtp.example.com does not accept the login (535)"}
undelivered:
  description: The same as events for M(queueops.fleet.fleet_journal), of the kind V(notification_failed).
  returned: if O(event) is given
  type: list
  elements: dict
  sample:
    - kind: notification_failed
      at: "2026-03-01T07:41:22.123Z"
      reason: smtp.example.com does not accept the login (535)
      data: {channel: "mail smtp.example.com (channel 2)", event: opened}
"""

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._notify.options import NOTIFY_OPTIONS


def body(module: object) -> Outcome:
    """It is sent from the controller; being here means that its action plugin was passed over."""
    raise Refused(
        "queueops.fleet.fleet_notify runs on the controller, but was sent to a host as a module",
        next_step="Call it as the task queueops.fleet.fleet_notify, from an installed collection",
    )


def main() -> None:
    run_module(body, NOTIFY_OPTIONS, supports_check_mode=True)


if __name__ == "__main__":
    main()
