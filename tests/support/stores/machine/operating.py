"""Operators settle, wake, pause and restart."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from longshore.server.model.errors import NotSettling
from longshore.server.model.values import Settlement, State
from longshore.server.store.commands import ExtendLeases, PauseQueue, SettleTask, WakeParked, Woken
from tests.support.stores.machine.ground import POLICY, Ground, picks
from tests.support.stores.statetable import Event
from tests.support.stores.store import LEASE


class Operating(Ground):
    """A rule runs one command of an operator."""

    @rule(
        what=st.sampled_from(["settle", "wake", "wake one", "pause", "resume", "restart"]),
        number=picks,
        settlement=st.sampled_from(list(Settlement)),
    )
    def operate(self, what: str, number: int, settlement: Settlement) -> None:
        match what:
            case "settle":
                self.settle_by_hand(number, settlement)
            case "wake":
                self.wake("")
            case "wake one":
                self.wake("web1")
            case "restart":
                self.restart()
            case _:
                self.pause(paused=what == "pause")

    def settle_by_hand(self, number: int, settlement: Settlement) -> None:
        task = self.pick(number, State.SETTLING)
        assert task is not None
        event: Event = {Settlement.REMOVED: "removed", Settlement.LANDED: "landed", Settlement.NEITHER: "neither"}[
            settlement
        ]  # type: ignore[assignment]  # literals are lost in the dictionary
        try:
            self.do(SettleTask(task_id=task.id, settlement=settlement))
        except NotSettling:
            assert task.state is not State.SETTLING
        else:
            assert task.state is State.SETTLING
            self.model.happen(task, event)
            self.model.promote()

    def wake(self, instance: str) -> None:
        woken = self.do(WakeParked(target="default", project="", instance=instance, running=True))
        parked = [
            task
            for task in self.model.tasks.values()
            if task.state is State.SCHEDULED
            and task.due_at is None
            and task.target == "default"
            and (not instance or task.concurrency_key == f"default/{instance}/")
        ]
        assert woken == Woken(len(parked), more=False)
        for task in parked:
            self.model.happen(task, "due")

    def pause(self, paused: bool) -> None:
        self.do(PauseQueue(queue="nightly", paused=paused))
        (self.model.paused.add if paused else self.model.paused.discard)("nightly")

    def restart(self) -> None:
        self.run(self.store.close())
        self._open()
        for session, peer in self.model.peers.items():
            self.fleet._epochs[session] = peer.epoch
        self.do(ExtendLeases(lease=LEASE))
        for peer in self.model.peers.values():
            peer.lease = self.clock.ticks() + LEASE
        for task in self.model.tasks.values():
            if task.deadline is not None:
                patience = {State.CANCELLING: POLICY.cancel_grace, State.SETTLING: POLICY.settle_timeout}
                task.deadline = self.clock.ticks() + patience.get(task.state, task.run_timeout)
