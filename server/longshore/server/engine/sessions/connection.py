"""One connection of a session: what its worker holds and is ready to hold, and what is still to be told to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from longshore.server.engine.sessions.batcher import Batcher
from longshore.server.engine.sessions.messages import AttemptRef, ReportAck
from longshore.server.engine.sessions.outbox import Outbox
from longshore.server.model.events import Reported
from longshore.server.model.records import record
from longshore.server.model.remarks import Problem, Remark
from longshore.server.model.sharing import Shares
from longshore.server.model.task import Grant, Payload, Session, Task
from longshore.server.model.values import State
from longshore.server.store.commands import BeginAttempts, FileReports, RequestGrants
from longshore.server.store.protocol import Store

FLUSH_PATIENCE: Final = 5.0
"""Seconds for the last words to a worker to be written."""


@record
class Holding:
    """Keeps what this server knows of an attempt that the worker holds."""

    payload: Payload | None
    settles: bool
    alone: bool
    target: str = ""

    @classmethod
    def of(cls, task: Task) -> Holding:
        """Make the holding of a task. A settling attempt counts as not alone: it delivers nothing, so it needs no
        protection from its neighbours, nor they from it."""
        settles = task.status.state is State.SETTLING
        return cls(task.submission.payload, settles, task.status.alone and not settles, task.submission.target)


class WorkerConnection:
    """Keeps at hand what a session's worker holds and says. The truth is the store's. `Sessions` makes and ends it.

    Reports, begins and grant requests are gathered, committed and answered by `run`, until it is cancelled.
    """

    def __init__(
        self,
        *,
        session: Session,
        local: bool,
        store: Store,
        ticks: float,
        on_room: Callable[[WorkerConnection], None],
        begins: bool = False,
        problems: Mapping[str, Problem] | None = None,
    ) -> None:
        self.session = session
        self.local = local
        """Whether the worker is on this machine."""
        self.begins = begins
        """Whether the worker says when attempts that are to run alone begin."""
        self.outbox = Outbox()
        self.credits = 0
        self.heard_at = ticks
        self.problems: dict[str, Problem] = dict(problems or {})
        """Targets that the worker cannot use, by its own word."""
        self.noted: Remark | None = None
        """The remark of this connection that is durable. None means that it has made none durable."""
        self.noting = False
        self.draining = session.draining
        self.leaving = False
        """Whether the worker said goodbye, or was told to go away: it gets no more work."""
        self.parting = False
        """Whether the worker said goodbye: what it said before is being committed, and nothing more counts."""
        self.reports: Batcher[AttemptRef, Reported] = Batcher(self._file)
        self.begun: Batcher[AttemptRef, None] = Batcher(self._begin)
        self.grants: Batcher[AttemptRef, Grant] = Batcher(self._ask)
        self._store = store
        self._on_room = on_room
        self._held: dict[AttemptRef, Holding | None] = dict.fromkeys(AttemptRef(*ref) for ref in session.held)
        self._ending: set[AttemptRef] = set()
        """Attempts that are held and reported, whose report is not committed yet."""
        self._alone = 0
        self._busy_on: Counter[str] = Counter()
        """Attempts that run, by target."""
        self._over = asyncio.Event()
        self._error: BaseException | None = None

    @property
    def id(self) -> str:
        return self.session.id

    @property
    def epoch(self) -> int:
        return self.session.epoch

    # What it holds --------------------------------------------------------------------------------------------------

    @property
    def held(self) -> Mapping[AttemptRef, Holding | None]:
        """Map the attempts that are assigned and not ended to what is known of them. None means that the attempt was
        kept from an earlier connection, and is not looked at yet."""
        return self._held

    @property
    def busy(self) -> int:
        """Count the attempts that run: they are held, and their end is not reported.

        A worker has room again when it says that one ended. The report and the claim of the next one are then committed
        together, which halves the commits.
        """
        return len(self._held) - len(self._ending)

    @property
    def room(self) -> int:
        """Count the attempts that the worker could take now. Less than 1 means none."""
        if self.draining or self.leaving or self.over or self._alone:
            return 0
        return self.credits - self.busy

    @property
    def remark(self) -> Remark:
        """Return the credits and the problems that the worker says it has now."""
        return Remark(self.credits, dict(self.problems))

    @property
    def kept_for(self) -> frozenset[str]:
        """Return the targets that the worker serves and on which nothing runs."""
        return frozenset(target for target in self.session.targets if not self._busy_on[target])

    @property
    def shares(self) -> Shares:
        """Return the room of the worker, target by target."""
        return Shares(room=self.room, kept_for=self.kept_for)

    def hold(self, ref: AttemptRef, holding: Holding) -> None:
        """Note that the worker has the attempt from now on, or that more is known of one that it has."""
        known = self._held.get(ref)
        self._held[ref] = holding
        if ref not in self._ending:
            self._count(known, -1)
            self._count(holding, +1)

    def report(self, ref: AttemptRef, report: Reported) -> None:
        """Take the worker's report that an attempt ended, to be committed and answered."""
        self.reports.put(ref, report)
        if ref in self._held and ref not in self._ending:
            self._ending.add(ref)
            self._count(self._held[ref], -1)
            self._on_room(self)

    def drop(self, ref: AttemptRef) -> Holding | None:
        """Forget an attempt that the worker has no more. None means that nothing was known of it."""
        if ref not in self._held:
            return None
        holding = self._held.pop(ref)
        if ref in self._ending:
            self._ending.discard(ref)
        else:
            self._count(holding, -1)
        self._on_room(self)
        return holding

    def _count(self, holding: Holding | None, by: int) -> None:
        """Count an attempt that begins or ceases to run. An attempt that is not looked at yet is not counted: no
        credits are known by then."""
        if holding is not None:
            self._alone += by * holding.alone
            self._busy_on[holding.target] += by

    # Its end --------------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Tell whether the connection is over: nothing that its worker says counts any more."""
        return self._over.is_set()

    @property
    def error(self) -> BaseException | None:
        """Return the error that ended the connection. None means that it is open, or ended in good order."""
        return self._error

    def end(self, error: BaseException | None, *, flush: bool = False) -> None:
        """End the connection; the first reason counts. With `flush` what is in the outbox may be told before, for a
        while."""
        if not self.outbox.closed:
            self._error = error
        self.outbox.close()
        if flush:
            asyncio.get_running_loop().call_later(FLUSH_PATIENCE, self._over.set)
        else:
            self._over.set()

    async def wait_over(self) -> None:
        await self._over.wait()

    # Reports, begins and grants -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Commit and answer reports, begins and grant requests until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.reports.run())
            group.create_task(self.grants.run())
            if self.begins:
                group.create_task(self.begun.run())

    def awaits_answers(self) -> bool:
        """Tell whether something that the worker has said waits for its commit or its answer."""
        return bool(len(self.reports) or len(self.grants) or len(self.begun))

    async def answered(self) -> None:
        """Wait until every report and grant request has its answer."""
        await self.reports.idle()
        await self.grants.idle()

    async def _file(self, reports: Mapping[AttemptRef, Reported]) -> None:
        command = FileReports(
            session_id=self.id,
            epoch=self.epoch,
            reports=tuple((ref.task_id, report) for ref, report in reports.items()),
        )
        answers = await self._store.run(command)
        for ref, accepted in zip(tuple(reports), answers, strict=True):
            self.outbox.ack(ReportAck(ref, accepted))
            self.drop(ref)

    async def _begin(self, attempts: Mapping[AttemptRef, None]) -> None:
        command = BeginAttempts(session_id=self.id, epoch=self.epoch, attempts=tuple(attempts))
        for answer in await self._store.run(command):
            self.outbox.begun(answer)

    async def _ask(self, requests: Mapping[AttemptRef, Grant]) -> None:
        command = RequestGrants(
            session_id=self.id,
            epoch=self.epoch,
            requests=tuple((ref.task_id, grant) for ref, grant in requests.items()),
        )
        for answer in await self._store.run(command):
            self.outbox.grant(answer)
