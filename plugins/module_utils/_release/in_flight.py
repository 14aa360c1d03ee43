# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On the way back: the workers drained, and what is in their hands when the time is up given up or not, as the rules of the fleet say.

The host does not know the rules, and the broker does not stop workers. So a host tells who still has something in hand (``drain``),
and is told by the run either to kill them (``kill``) or that a task of theirs has to finish (``spare``).
"""

from __future__ import annotations

from typing import Any

from .._errors import OutOfTime
from .._worker.api import WorkerManager, executing
from .orders import Order, Result
from .transaction import HostTransaction

#: Seconds in which killed processes are gone.
KILL_LIMIT = 15.0


class InFlight(HostTransaction):
    """What comes before ``revert``, where the fleet has rules for tasks in flight."""

    def drain(self, number: int, order: Order) -> Result:
        """Quiet the workers of a host that has to go to a release, and wait for their tasks. Time that is up is told, and is no failure.

        On a host that is on the release nothing is done.
        """
        self._preflight(order)
        record = self._ready(number)
        manager = self._manager()
        with self.record.locked():
            found = Result(any(not worker.ended for worker in manager.workers()), record.public(), pending=True)
            try:
                state = self._recovered(order)
                compared = self._compared(state, record, changed=self._mended)
                if not compared.pending:
                    return compared
                self._learn_epoch(state, order)
                manager.quiet()
                manager.wait_stopped(float(self._settings.worker["drain_timeout"]))
            except OutOfTime as late:
                # It may be the drain of a switch that was interrupted, and whose way back comes first.
                if late.option != "worker.drain_timeout":
                    raise
                found.in_hand = _in_hand(manager)
            # One that was written down and is still there was not killed yet.
            alive = {(worker["hostname"], pid) for worker in found.in_hand for pid in worker["pids"]}
            earlier = self.record.killed(order.operation)
            found.killed = [one for one in earlier if not any((one["hostname"], pid) in alive for pid in one["pids"])]
            return found

    def kill(self, number: int, order: Order) -> Result:
        """Kill the workers that :meth:`drain` left executing. Who they were is on the disk before, so that a later run can tell."""
        self._preflight(order)
        record = self._ready(number)
        manager = self._manager()
        with self.record.locked():
            found = self._compared(self.record.state(), record, changed=False)
            left = [worker for worker in _in_hand(manager) if worker["state"] == "stopping" or manager.settings.quiet_by() is not None]
            if found.pending and left:
                self.record.save_killed(order.operation, [{name: worker[name] for name in ("name", "hostname", "pids")} for worker in left])
                manager.kill()
                manager.wait_stopped(KILL_LIMIT)
                found.changed = True
                self._note("workers_killed", number, order, {}, "the drain's time was up: %s" % ", ".join(one["name"] for one in left))
            found.killed = self.record.killed(order.operation)
            return found

    def spare(self, number: int, order: Order, why: str) -> Result:
        """Go to the release if the workers have ended by now; else not, since a task in their hands has to finish.

        :param why: which task that is and which rule says so, as a sentence without its full stop.
        :raises OutOfTime: the workers still execute.
        """
        left = _in_hand(self._manager())
        if not left:
            return self.revert(number, order)
        self._preflight(order)
        raise OutOfTime(
            "%s cannot go to release %d yet, because the drain's time was up: %s" % (self._settings.host, number, why),
            option="worker.drain_timeout",
            still_true="Release %s is live there; its workers take no new task, and end when they have finished what is in hand"
            % self.record.state().live,
            next_step="Run the same playbook again when they have ended; raise worker.drain_timeout, or give such tasks a rule of in_flight"
            " with another action",
            details={"executing": left},
        )


def _in_hand(manager: WorkerManager) -> list[dict[str, Any]]:
    """The workers that have a process: as :func:`executing` and :meth:`seen_as` tell of each, with its state."""
    left = [worker for worker in manager.workers() if not worker.ended]
    return [{**executing(worker), **manager.seen_as(worker), "state": worker.state} for worker in left]
