"""Commits become messages to workers here: assignments, cancels, revocations.

The messages are derived from each commit, in the order of the commits and before any caller that awaits the same commit
goes on. So nothing is told that is not durable, and a cancel can never overtake the assignment that it speaks of.
"""

from __future__ import annotations

from collections.abc import Sequence

from longshore.server.engine.sessions.connection import Holding, WorkerConnection
from longshore.server.engine.sessions.fleet import Fleet
from longshore.server.engine.sessions.messages import Assignment, AttemptRef, CancelOrder, Revocation
from longshore.server.engine.sessions.progress import ProgressBoard
from longshore.server.engine.sessions.small_payloads import SmallPayloads
from longshore.server.model.clock import Clock
from longshore.server.model.errors import LeaseLost
from longshore.server.model.task import Task
from longshore.server.model.values import State
from longshore.server.spool.protocol import Spool
from longshore.server.store.protocol import Changes, Moved, Store


class Commits:
    """Tells each connection what the commits mean for it. `spool` None means that workers download every payload but
    those that are still at hand in `small_payloads`."""

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        progress: ProgressBoard,
        clock: Clock,
        cancel_grace: float,
        spool: Spool | None,
        small_payloads: SmallPayloads | None = None,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._progress = progress
        self._clock = clock
        self._cancel_grace = cancel_grace
        self._spool = spool
        self._small_payloads = SmallPayloads() if small_payloads is None else small_payloads

    def wants(self, moved: Moved) -> bool:
        """Tell which changes by other servers count here: those of tasks that a session had which is connected here.
        Only this server claims for those sessions, so all their assignments are its own. While any progress is known,
        the tasks of all sessions count, because the session with the progress may be connected elsewhere by now."""
        session_id = moved.session_id
        return session_id != "" and (self._fleet.connection(session_id) is not None or len(self._progress) > 0)

    def on_commit(self, changes: Changes) -> None:
        """Tell the connections of a commit. The store calls it as a listener."""
        for change in changes.tasks:
            status = change.task.status
            holder = (status.session_id, status.attempt) if status.session_id else None
            if change.holder is not None and change.holder != holder:
                self._lost(change.task, *change.holder, ended=changes.sessions_ended)
            connection = self._fleet.connection(status.session_id) if holder is not None else None
            if connection is None:
                continue
            if change.holder != holder:
                self._assign(connection, change.task)
            elif status.state is State.CANCELLING:
                self._cancel(connection, change.task)
        for session_id in changes.sessions_ended:
            connection = self._fleet.connection(session_id)
            if connection is not None and not connection.parting:
                connection.end(LeaseLost("The session's lease ended; connect again."), flush=True)

    async def recall(self, connection: WorkerConnection, kept: Sequence[AttemptRef]) -> None:
        """Look at the attempts that a new connection kept. A cancel may be older than the connection, and no listener
        heard the commits between its hello and its registration."""
        for ref in kept:
            task = await self._store.task(ref.task_id)
            if ref not in connection.held:
                continue  # a commit that was heard has ended it meanwhile
            if task is None or (task.status.session_id, task.status.attempt) != (connection.id, ref.attempt):
                connection.drop(ref)
                connection.outbox.revoke(Revocation(ref, "UNKNOWN_ATTEMPT"))
                continue
            connection.hold(ref, Holding.of(task))
            if task.status.state is State.CANCELLING:
                self._cancel(connection, task)

    async def adopt(self, connection: WorkerConnection) -> None:
        """Assign the attempts that the store has claimed for the session although no commit was heard of, because its
        answer was lost.

        Nothing may be claimed for the session meanwhile. Raises StoreUnavailable.
        """
        before = frozenset(connection.held)
        session = await self._store.session(connection.id)
        if session is None or session.epoch != connection.epoch:
            return
        for ref in (AttemptRef(*one) for one in session.held):
            # An attempt that was here before may have ended since the store was asked, and would be run twice.
            if ref in before or ref in connection.held or ref in connection.reports:
                continue
            task = await self._store.task(ref.task_id)
            if task is not None and (task.status.session_id, task.status.attempt) == (connection.id, ref.attempt):
                self._assign(connection, task)
                if task.status.state is State.CANCELLING:
                    self._cancel(connection, task)

    def _assign(self, connection: WorkerConnection, task: Task) -> None:
        path, content, payload = None, b"", task.submission.payload
        if payload is not None:
            content = self._small_payloads.get(payload.id)
            if not content and self._spool is not None and connection.local:
                path = self._spool.path(payload)
        assignment = Assignment(task, str(path) if path is not None else "", content)
        connection.hold(assignment.ref, Holding.of(task))
        connection.outbox.assign(assignment)

    def _cancel(self, connection: WorkerConnection, task: Task) -> None:
        deadline = task.status.deadline_ticks
        left = self._cancel_grace if deadline is None else deadline - self._clock.ticks()
        grace = min(max(left, 0.0), self._cancel_grace)
        connection.outbox.cancel(CancelOrder(AttemptRef(task.id, task.status.attempt), grace))

    def _lost(self, task: Task, session_id: str, attempt: int, *, ended: tuple[str, ...]) -> None:
        """Take the attempt from a session that does not hold it any more. A session that reported its end learns it by
        the acknowledgement."""
        self._progress.forget(task.id, attempt)
        connection = self._fleet.connection(session_id)
        ref = AttemptRef(task.id, attempt)
        if connection is None or ref not in connection.held:
            return
        holding = connection.drop(ref)
        if ref in connection.reports:
            return
        if session_id in ended:
            reason = "LEASE_LOST"
        elif holding is not None and holding.settles and task.status.state is not State.SETTLING:
            reason = "UNKNOWN_ATTEMPT"  # somebody else has settled it
        else:
            reason = "TIMED_OUT"
        connection.outbox.revoke(Revocation(ref, reason))
