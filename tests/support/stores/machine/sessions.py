"""Sessions connect, leave and are lost."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from longshore.server.model.values import State
from longshore.server.store.commands import Disconnect, OpenSession, ReapSessions, RenewLeases
from tests.support.stores.machine.ground import Ground
from tests.support.stores.store import LEASE
from tests.support.stores.storemodel import ModelSession, ModelTask

SESSIONS = ("s1", "s2", "s3")
KINDS: dict[str, dict[str, bool]] = {
    "s1": {"file_push": True, "report": False},
    "s2": {"file_push": True, "report": True},
    "s3": {"report": True},
}
KNOWS = {"s2": 2}
"""The revision of the contract that the workers of these sessions know; those of the others know none."""


class Sessions(Ground):
    """Rules open sessions, renew their leases and end them."""

    def connect(self, session: str, keep: bool) -> None:
        """Connect anew, with everything that it holds or with nothing."""
        known = self.model.peers.get(session)
        mine = self.model.held_by(session)
        held = [(task.id, task.attempt) for task in mine] if keep else []
        opened = self.do(
            OpenSession(
                session_id=session,
                worker=session,
                principal="fleet",
                targets={"default": "daemon"},
                kinds=KINDS[session],
                version="1",
                held=(*held, ("0" * 26, 1)),
                dead_sessions=(),
                lease=LEASE,
                revision=KNOWS.get(session, 0),
            )
        ).session
        epoch = 1 if known is None else known.epoch + 1
        assert (opened.epoch, opened.held) == (epoch, tuple(held))
        self.fleet._epochs[session] = epoch
        self.model.peers[session] = ModelSession(
            session,
            epoch,
            frozenset({"default"}),
            KINDS[session],
            self.clock.ticks() + LEASE,
            revision=KNOWS.get(session, 0),
        )
        if not keep:
            for task in mine:
                self.lose(task, crash=False)
        self.model.promote()

    def lose(self, task: ModelTask, *, crash: bool) -> None:
        if task.state is State.SETTLING:
            self.model.settle_again(task)
        else:
            self.model.happen(task, "lost", crash=crash)

    def renew(self, renew: set[str]) -> None:
        asked = tuple((session, self.fleet.epoch(session)) for session in sorted(renew))
        renewed = self.do(RenewLeases(sessions=asked, lease=LEASE))
        assert renewed == {session for session in renew if self.model.peers[session].alive}
        for session in renewed:
            self.model.peers[session].lease = self.clock.ticks() + LEASE

    def reap(self) -> None:
        reaped = self.do(ReapSessions())
        over = {peer.id for peer in self.model.peers.values() if peer.alive and peer.lease <= self.model.ticks}
        assert set(reaped) == over
        for session in over:
            self.end(session, crash=True)

    def end(self, session: str, *, crash: bool) -> None:
        for task in self.model.held_by(session):
            self.count("lost", task)
            self.lose(task, crash=crash)
        self.model.peers[session].alive = False
        self.model.promote()

    @rule(session=st.sampled_from(SESSIONS), what=st.sampled_from(["keep", "keep", "lose", "leave", "goodbye"]))
    def connection(self, session: str, what: str) -> None:
        if what in ("keep", "lose"):
            self.connect(session, keep=what == "keep")
        else:
            self.disconnect(session, goodbye=what == "goodbye")

    def disconnect(self, session: str, goodbye: bool) -> None:
        self.do(Disconnect(session_id=session, epoch=self.fleet.epoch(session), goodbye=goodbye))
        if goodbye and self.model.peers[session].alive:
            self.end(session, crash=False)
