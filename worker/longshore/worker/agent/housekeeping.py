"""A worker does two things besides attempts: it watches instances that tasks wait for, and pays debts.

Each target has two threads of its own for them, so that a daemon that hangs holds up nobody else's, and debts on one
instance that hangs keep no other instance's tasks asleep.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Final

import structlog

from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.agent.outbox import Outbox
from longshore.worker.agent.target_conditions import TargetConditions
from longshore.worker.attempts.mailbox import Mailbox
from longshore.worker.attempts.threads import Threads
from longshore.worker.errors import AttemptError
from longshore.worker.file_push.push import remove_temps
from longshore.worker.targets.base import InstanceChange, InstanceState, Target, Watch

_log: Final = structlog.stdlib.get_logger("longshore.worker")

_InstanceKey = tuple[str, str]
"""Real project and instance."""


class Housekeeping:
    """The housekeeping belongs to the agent's loop. Threads do its work, and their results come back through the
    mailbox."""

    def __init__(
        self, targets: Mapping[str, Target], *, conditions: TargetConditions, mailbox: Mailbox, outbox: Outbox
    ) -> None:
        self._targets = targets
        self._conditions = conditions
        self._mailbox = mailbox
        self._outbox = outbox
        self._threads = {name: Threads(f"longshore-housekeeping-{name}", limit=1) for name in targets}
        self._payers = {name: Threads(f"longshore-debts-{name}", limit=1) for name in targets}
        self._paying: set[str] = set()
        """Debts that are being paid. The server asks again and again until it has an answer."""
        self._parked: dict[str, dict[_InstanceKey, set[str]]] = {}
        self._watches: dict[str, Watch] = {}
        """Each entry is touched by its target's thread only."""

    def forget(self) -> None:
        """Forget what the last connection said: the server tells the new one which instances tasks wait for. A watch
        that is not needed any more ends by itself."""
        self._parked.clear()
        self._conditions.tell()

    def recheck(self, target: str) -> None:
        """Ask this target whether it can be used, because an attempt failed because of it."""
        self._conditions.recheck(target)

    def park(self, parked: ws.ParkedInstances) -> None:
        """Watch these instances of the target, and look at them once at once: they may be ready already."""
        target = self._targets.get(parked.target)
        if target is None:
            return
        parked_here: dict[_InstanceKey, set[str]] = defaultdict(set)
        for ref in parked.instances:
            # The answer names the project as the task did, empty or not.
            parked_here[ref.project or target.default_project, ref.instance].add(ref.project)
        known = self._parked.get(parked.target, {})
        self._parked[parked.target] = dict(parked_here)
        threads = self._threads[parked.target]
        threads.run(partial(self._tend, target, wanted=bool(parked_here)))
        new = [instance for instance in parked_here if instance not in known]
        if new:
            threads.run(partial(self._probe, target, new))

    def pay(self, debt: ws.Debt) -> None:
        """Remove temps, and tell the server later whether that worked."""
        target = self._targets.get(debt.instance.target)
        if target is None:
            self._outbox.debt(debt.debt_id, paid=False)
            return
        if debt.debt_id not in self._paying:
            self._paying.add(debt.debt_id)
            self._payers[debt.instance.target].run(partial(self._pay, target, debt))

    def close(self) -> None:
        """End every watch, without waiting for daemons that hang."""
        for name, threads in self._threads.items():
            threads.run(partial(self._tend, self._targets[name], wanted=False))
            threads.close()
            self._payers[name].close()

    # -- in the target's thread --------------------------------------------------------------------------------------

    def _tend(self, target: Target, *, wanted: bool) -> None:
        watch = self._watches.get(target.name)
        if wanted and watch is None:
            self._watches[target.name] = target.watch(partial(self._seen, target.name))
        elif not wanted and watch is not None:
            del self._watches[target.name]
            watch.close()

    def _probe(self, target: Target, parked_here: list[_InstanceKey]) -> None:
        for project, instance in parked_here:
            try:
                state = target.probe(project, instance)
            except AttemptError as error:
                # The watch goes on looking.
                _log.debug("parked_probe_failed", target=target.name, instance=instance, error=str(error))
                continue
            self._seen(target.name, InstanceChange(project, instance, state))

    def _pay(self, target: Target, debt: ws.Debt) -> None:
        where = debt.instance
        paid = False
        try:
            removed = remove_temps(target, project=where.project, instance=where.instance, temps=tuple(debt.temps))
            paid = True
            _log.info("debt_paid", debt=debt.debt_id, target=where.target, instance=where.instance, removed=removed)
        except AttemptError as error:
            _log.warning(
                "debt_unpaid", debt=debt.debt_id, target=where.target, instance=where.instance, error=str(error)
            )
        finally:
            self._mailbox.post(partial(self._paid, debt.debt_id, paid=paid))

    def _seen(self, target: str, change: InstanceChange) -> None:
        self._mailbox.post(partial(self._tell, target, change))

    # -- in the loop again -------------------------------------------------------------------------------------------

    def _paid(self, debt_id: str, *, paid: bool) -> None:
        self._paying.discard(debt_id)
        self._outbox.debt(debt_id, paid=paid)

    def _tell(self, target: str, change: InstanceChange) -> None:
        parked_here = self._parked.get(target)
        if not parked_here:
            # Nobody waits any more. An answer that is on its way to the loop may be the last of many: once is enough.
            if target not in self._parked:
                self._parked[target] = {}
                self._threads[target].run(partial(self._tend, self._targets[target], wanted=False))
            return
        if change.state is InstanceState.ABSENT:
            return
        for project in parked_here.get((change.project, change.instance), ()):
            self._outbox.ready(target, project, change.instance, running=change.state is InstanceState.RUNNING)
