"""Sessions of workers: this server knows the open connections, what each holds, and what each must be told.

The state that matters is the store's. Only the open connections are here; what they hold is what their hello and the
commits since then say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Final

import structlog

from longshore.contract.version import REVISION
from longshore.server.engine.servers import ServerRegistry
from longshore.server.engine.sessions.commits import Commits
from longshore.server.engine.sessions.connection import WorkerConnection
from longshore.server.engine.sessions.debts import Debts
from longshore.server.engine.sessions.fleet import Fleet
from longshore.server.engine.sessions.leases import LeaseKeeper
from longshore.server.engine.sessions.messages import AttemptRef, Hello, Revocation, Welcome, WorkerSays
from longshore.server.engine.sessions.parking import Parking
from longshore.server.engine.sessions.progress import ProgressBoard
from longshore.server.engine.sessions.remarks import Remarks
from longshore.server.engine.sessions.small_payloads import SmallPayloads
from longshore.server.model.clock import Clock
from longshore.server.model.errors import Draining, EpochSuperseded, SlowConsumer, StoreUnavailable
from longshore.server.model.events import Policy
from longshore.server.model.remarks import Problem
from longshore.server.model.task import Session
from longshore.server.spool.protocol import Spool
from longshore.server.store.commands import Disconnect, DrainSession, OpenSession
from longshore.server.store.protocol import Store

_log = structlog.get_logger("longshore.sessions")

OUTBOX_LIMIT: Final = 10_000
"""Entries that may wait for one worker: several times what the most credits can bring."""
DRAINED: Final = "An operator drains this worker."
LOOK_AGAIN: Final = 10.0
"""Seconds between two looks for drains that were asked for at another server."""
LAST_WORDS: Final = 5.0
"""Seconds for the last reports of a leaving worker to be committed."""


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """Shows a session as the store knows it, and what its connection here says. Credits are 0 where it has none."""

    session: Session
    credits: int
    held: int


class Sessions:
    """All connections of this server. `run` must be running while connections are opened. Times in seconds.

    With `share_spool` workers on this machine are told where payloads lie, instead of downloading them. With `servers`
    payloads may be in the spools of other servers. `small_payloads` has contents that go along with their assignments.
    """

    def __init__(
        self,
        *,
        store: Store,
        spool: Spool,
        clock: Clock,
        progress: ProgressBoard,
        lease: float = 6.0,
        cancel_grace: float = Policy().cancel_grace,
        share_spool: bool = True,
        outbox_limit: int = OUTBOX_LIMIT,
        look_again: float = LOOK_AGAIN,
        servers: ServerRegistry | None = None,
        small_payloads: SmallPayloads | None = None,
    ) -> None:
        self.store = store
        self.spool = spool
        self.servers = servers
        self.fleet = Fleet()
        self.commits = Commits(
            store=store,
            fleet=self.fleet,
            progress=progress,
            clock=clock,
            cancel_grace=cancel_grace,
            spool=spool if share_spool else None,
            small_payloads=small_payloads,
        )
        self.clock = clock
        self._progress = progress
        self._lease = lease
        self._outbox_limit = outbox_limit
        self._look_again = look_again
        self._lease_keeper = LeaseKeeper(store=store, clock=clock, lease=lease, connections=self.fleet.connections)
        self._parking = Parking(store=store, fleet=self.fleet)
        self.remarks = Remarks(store=store, clock=clock, credits=servers is not None, pause=lease / 6)
        self._debts = Debts(store=store, fleet=self.fleet, clock=clock)
        self._streams: set[WorkerConnection] = set()
        self._runners: dict[WorkerConnection, asyncio.Task[None]] = {}
        self._partings: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._leaving = False
        self._unsubscribe = store.subscribe(self.commits.on_commit, wants=self.commits.wants)

    async def run(self) -> None:
        """Renew leases, look after parked tasks and debts, until cancelled; every connection ends with it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._lease_keeper.run(), name="sessions: leases")
                group.create_task(self._parking.run(), name="sessions: parking")
                group.create_task(self._debts.run(), name="sessions: debts")
                group.create_task(self._hear_of_drains(), name="sessions: drains")
        finally:
            self._leaving = True
            self._unsubscribe()
            for connection in tuple(self._streams):
                connection.end(_draining())
            tasks = [*self._runners.values(), *self._partings]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # Connections ----------------------------------------------------------------------------------------------------

    async def open(self, hello: Hello, *, principal: str, local: bool) -> WorkerConnection:
        """Open a connection after a worker's hello, as a new epoch of its session. The caller must call `closed` in the
        end.

        Raises Draining, Forbidden (another principal's session), TargetIdentity, EpochSuperseded, StoreUnavailable.
        """
        if self._leaving:
            raise _draining()
        older = self.fleet.connection(hello.session_id)
        if older is not None and older.session.principal == principal:
            if 0 < hello.epoch <= older.epoch:
                raise _superseded()
            # Before the command: what the old epoch still says must not be taken for the new one's word.
            self._end(older, _superseded())
        opened = await self.store.run(
            OpenSession(
                session_id=hello.session_id,
                worker=hello.worker,
                principal=principal,
                targets=hello.targets,
                kinds=hello.kinds,
                version=hello.version,
                held=tuple((ref.task_id, ref.attempt) for ref in hello.held),
                dead_sessions=hello.dead_sessions,
                lease=self._lease,
                epoch=hello.epoch,
                revision=min(hello.revision, REVISION),
            )
        )
        # Two at once: the one that was committed last has the session, whichever comes back here first.
        other = self.fleet.connection(hello.session_id)
        if other is not None and other.epoch > opened.session.epoch:
            raise _superseded()
        if self._leaving:
            raise _draining()
        if other is not None:
            self._end(other, _superseded())
        # What a worker said of its targets stays, until it says otherwise.
        known = other or older
        problems = known.problems if known is not None and known.session.principal == principal else {}
        connection = self._register(opened.session, hello, local=local, problems=problems)
        try:
            await self.commits.recall(connection, tuple(connection.held))
        except BaseException:
            self.closed(connection)
            raise
        return connection

    def _register(
        self, session: Session, hello: Hello, *, local: bool, problems: Mapping[str, Problem]
    ) -> WorkerConnection:
        connection = WorkerConnection(
            session=session,
            local=local,
            store=self.store,
            ticks=self.clock.ticks(),
            on_room=self.fleet.room,
            begins=hello.begins,
            problems=problems,
        )
        connection.outbox.welcome(Welcome(session.epoch, self._lease, tuple(connection.held)))
        for ref in hello.held:
            if ref not in connection.held:
                connection.outbox.revoke(Revocation(ref, "UNKNOWN_ATTEMPT"))
        if session.draining:
            connection.outbox.drain(DRAINED)
        self._streams.add(connection)
        self._empty.clear()
        runner = asyncio.create_task(connection.run(), name=f"session {session.id}")
        runner.add_done_callback(lambda task: _pass_on(task, connection))
        self._runners[connection] = runner
        self.fleet.add(connection)
        _log.info(
            "worker_connected",
            session_id=session.id,
            principal=session.principal,
            worker=session.worker,
            epoch=session.epoch,
            targets=sorted(session.targets),
            kinds=sorted(session.kinds),
            held=len(connection.held),
        )
        return connection

    def closed(self, connection: WorkerConnection) -> None:
        """Note that the stream is gone. The lease runs on, unless the worker has said goodbye."""
        if connection not in self._streams:
            return
        if connection.parting:
            # The worker's last words are being committed; `_part` ends the connection.
            self._forget(connection)
            return
        self._end(connection, None)
        self._forget(connection)
        self._later(self._disconnect(connection, goodbye=False), name=f"disconnect {connection.id}")
        _log.info("worker_disconnected", session_id=connection.id, worker=connection.session.worker)

    def _forget(self, connection: WorkerConnection) -> None:
        self._streams.discard(connection)
        if not self._streams:
            self._empty.set()

    def _end(self, connection: WorkerConnection, error: BaseException | None) -> None:
        connection.end(error)
        if self.fleet.connection(connection.id) is connection:
            self.fleet.remove(connection)
            for ref in connection.held:
                self._progress.forget(ref.task_id, ref.attempt)
        runner = self._runners.pop(connection, None)
        if runner is not None:
            runner.cancel()

    async def _disconnect(self, connection: WorkerConnection, *, goodbye: bool) -> None:
        """Tell the store, for as long as it matters: after a lease it finds out by itself."""
        command = Disconnect(session_id=connection.id, epoch=connection.epoch, goodbye=goodbye)
        until = self.clock.ticks() + self._lease
        while True:
            try:
                await self.store.run(command)
            except StoreUnavailable:
                if self.clock.ticks() > until:
                    return
                await asyncio.sleep(self._lease / 12)
            else:
                return

    def _later(self, work: Coroutine[None, None, None], *, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._partings.add(task)
        task.add_done_callback(self._partings.discard)

    # What workers say -----------------------------------------------------------------------------------------------

    def receive(self, connection: WorkerConnection, says: WorkerSays) -> None:
        """Take a message in. A message is dropped after a goodbye, and when the connection is over, which a newer epoch
        makes it."""
        if connection.over or connection.parting:
            return
        self._lease_keeper.heard(connection, says.heartbeat)
        for task_id, progress in says.progress:
            if AttemptRef(task_id, progress.attempt) in connection.held:
                self._progress.update(task_id, progress)
        for ref in says.begins if connection.begins else ():
            connection.begun.put(ref, None)
        for task_id, grant in says.grants:
            connection.grants.put(AttemptRef(task_id, grant.attempt), grant)
        for task_id, report in says.reports:
            connection.report(AttemptRef(task_id, report.attempt), report)
        for ready in says.ready:
            self._parking.ready(connection, ready)
        for debt_id, paid in says.debts:
            self._debts.reported(connection, debt_id, paid=paid)
        if says.credits is not None and says.credits != connection.credits:
            connection.credits = says.credits
            self.fleet.room(connection)
        self.remarks.heard(connection, says.targets)
        self.remarks.note(connection, self._later)
        if says.goodbye:
            connection.parting = connection.leaving = True
            self.fleet.changed()
            self._later(self._part(connection), name=f"goodbye {connection.id}")
        elif _waiting(connection) > self._outbox_limit:
            _log.warning("worker_too_slow", session_id=connection.id, worker=connection.session.worker)
            connection.end(SlowConsumer("More waits to be told than the worker reads; connect again."))

    async def _part(self, connection: WorkerConnection) -> None:
        """Commit what it reported last, then let it go with everything that is still said to it."""
        await self._last_words(connection)
        await self._disconnect(connection, goodbye=True)
        _log.info("worker_left", session_id=connection.id, worker=connection.session.worker)
        connection.end(None, flush=True)
        self.fleet.remove(connection)
        runner = self._runners.pop(connection, None)
        if runner is not None:
            runner.cancel()

    async def _last_words(self, connection: WorkerConnection) -> None:
        try:
            async with asyncio.timeout(LAST_WORDS):
                await connection.answered()
        except TimeoutError:
            _log.warning("reports_left_behind", session_id=connection.id, reports=len(connection.reports))

    # Leaving --------------------------------------------------------------------------------------------------------

    async def drain(self, *, patience: float = 2 * LAST_WORDS) -> None:
        """Send every worker elsewhere, with the answers to what it said so far; attempts stay with the workers.

        Returns when all streams are closed and the store knows it, or after `patience` seconds.
        """
        self._leaving = True
        for connection in tuple(self._streams):
            self._later(self._send_away(connection), name=f"go away {connection.id}")
        try:
            async with asyncio.timeout(patience):
                await self._empty.wait()
                while self._partings:
                    await asyncio.wait(self._partings)
        except TimeoutError:
            _log.warning("sessions_not_drained", connections=len(self._streams))
            for connection in tuple(self._streams):
                connection.end(_draining())

    async def _send_away(self, connection: WorkerConnection) -> None:
        connection.leaving = True
        await self._last_words(connection)
        connection.outbox.go_away("DRAINING")
        connection.end(_draining(), flush=True)

    async def drain_session(self, session_id: str, *, reason: str = DRAINED) -> WorkerFigures:
        """Give a worker no more work and tell it to leave. Raises NotFound, StoreUnavailable."""
        session = await self.store.run(DrainSession(session_id=session_id))
        self._drain(session_id, reason)
        return self._figures(session)

    def _drain(self, session_id: str, reason: str) -> None:
        connection = self.fleet.connection(session_id)
        if connection is not None and not connection.draining:
            connection.draining = True
            connection.outbox.drain(reason)
            self.fleet.changed()

    async def _hear_of_drains(self) -> None:
        """Tell workers of drains that were asked for at another server."""
        while True:
            await asyncio.sleep(self._look_again)
            if not self.fleet.connections():
                continue
            try:
                sessions = await self.store.sessions()
            except StoreUnavailable:
                continue
            for session in sessions:
                if session.draining:
                    self._drain(session.id, DRAINED)

    # Figures --------------------------------------------------------------------------------------------------------

    def credits(self, session_id: str) -> int:
        """Return the credits that the worker said last; 0 where it is not connected here."""
        connection = self.fleet.connection(session_id)
        return connection.credits if connection is not None else 0

    def problems(self) -> dict[str, Mapping[str, Problem]]:
        """Return the targets that the workers connected here cannot use, by session and target."""
        return {connection.id: connection.problems for connection in self.fleet.connections()}

    async def statistics(self) -> tuple[WorkerFigures, ...]:
        """List all sessions whose lease has not ended, by worker's name."""
        sessions = await self.store.sessions()
        return tuple(self._figures(one) for one in sorted(sessions, key=lambda one: (one.worker, one.id)))

    def _figures(self, session: Session) -> WorkerFigures:
        connection = self.fleet.connection(session.id)
        if connection is None:
            return WorkerFigures(session, 0, len(session.held))
        return WorkerFigures(replace(session, connected=True), connection.credits, len(connection.held))


def _pass_on(runner: asyncio.Task[None], connection: WorkerConnection) -> None:
    """End the connection with the defect that its runner met, and no other connection with it."""
    if not runner.cancelled() and (error := runner.exception()) is not None:
        connection.end(error)


def _waiting(connection: WorkerConnection) -> int:
    """Count what is still to be told to a worker, or to be committed and then told."""
    return sum(len(each) for each in (connection.outbox, connection.reports, connection.begun, connection.grants))


def _superseded() -> EpochSuperseded:
    return EpochSuperseded("The session has connected anew; this connection is over.")


def _draining() -> Draining:
    return Draining("The server is leaving; connect to another, or wait for this one.")
