"""The writer is one thread that commits waiting commands in groups.

Commands wait by urgency and enter a transaction in the order of urgency. The answers of a commit go to the
event loop in one call. A batch that fails for a command's own fault is bisected. If the database cannot be written, all
commands of the batch get StoreUnavailable, and the writer then tries by itself until writing works again.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, cast

import structlog

from longshore.server.model.clock import Clock
from longshore.server.model.errors import LongshoreError, StoreOverloaded, StoreUnavailable
from longshore.server.store.commands import Claims, Command, ReleaseFollowers, Urgency
from longshore.server.store.commands.servers import MarkRestored, MeetDatabase
from longshore.server.store.errors import BatchConflict, DatabaseLost
from longshore.server.store.handlers.clock_steps import ClockSteps
from longshore.server.store.protocol import Changes, Generation
from longshore.server.store.sql.link import Link, Reply
from longshore.server.store.sql.statement import statement
from longshore.server.store.tables.schema import sequence
from longshore.server.store.transaction.memory import Memory
from longshore.server.store.transaction.unit import UnitOfWork
from longshore.server.store.writer.batch import CommandOutcome, Done, Refused, execute

R = TypeVar("R")

_log = structlog.get_logger("longshore.store")

QUOTA: Final = {Urgency.LEASE: 200, Urgency.CONTROL: 500, Urgency.SUBMIT: 500, Urgency.MAINTENANCE: 10}
"""Weight that one batch takes of each urgency, so that none starves the next."""

SUBMIT_COUNT: Final = 20_000
SUBMIT_BYTES: Final = 64 << 20
"""The bounds of what may wait with the urgency SUBMIT."""

PROBE_BROKEN: Final = 1.0
"""Seconds between tries while the database cannot be written."""

PROBE_IDLE: Final = 5.0
"""Seconds without a commit after which an idle writer makes sure that it still could."""

TRIES: Final = 3
"""The number of tries of a batch while its error may pass."""

STALL: Final = 5.0
"""Ticks in one transaction after which the database counts as not writable: no lease could be renewed meanwhile."""

_PROBE: Final = statement(sequence.update().where(sequence.c.name == "probe").values(value=sequence.c.value + 1))


class Log(Protocol):
    """Writes commits down for other servers, and then tells subscribers of every server's commits, in order."""

    def announce(self, link: Link, changes: Changes, now: float) -> Reply | None:
        """Announce the changes, inside the transaction. The reply has the commit's position, and is read after the
        commit. None means that there is nothing to tell."""
        ...

    def committed(self, link: Link, announced: Reply | None, changes: Changes, now: float) -> None:
        """Tell subscribers of a transaction that is committed. An error here is no failure of the commit: the listener
        then tells of it."""
        ...


@dataclass(slots=True, eq=False)
class _Waiting:
    """A command that waits, and the future of its caller."""

    command: Command[Any]
    future: asyncio.Future[Any]
    bytes: int


class Writer:
    """Owns the writing connection. `submit` belongs to the loop's thread, `_work` and its callees to the writer's.

    `make_unit` begins the unit of work of a transaction, and `memory` is what is remembered between two of them;
    `deliver` is called on the loop with what each commit changed, unless a `log` does it; `may_pass` as the dialect has
    it. The
    `generation` hears of each commit before anybody else, and says at each new connection whether the database is
    behind. `steps` notices that the wall clock was set; None where that is not watched for.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], Link],
        make_unit: Callable[[Link, Sequence[Command[Any]]], UnitOfWork],
        memory: Memory,
        clock: Clock,
        deliver: Callable[[Changes], None],
        may_pass: Callable[[BaseException], bool],
        log: Log | None = None,
        generation: Generation | None = None,
        steps: ClockSteps | None = None,
    ) -> None:
        self._connect = connect
        self._make_unit = make_unit
        self._clock = clock
        self._memory = memory
        self._deliver = deliver
        self._may_pass = may_pass
        self._log = log
        self._generation = generation
        self._steps = steps
        self._noting = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="longshore-writer", daemon=True)
        self._wake = threading.Condition()
        self._by_urgency: dict[Urgency, deque[_Waiting]] = {urgency: deque() for urgency in Urgency}
        self._submit_bytes = 0
        self._closing = False
        self._link: Link | None = None
        self._writable_since: float | None = None
        self._busy_since: float | None = None
        self._trouble = ""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    async def close(self) -> None:
        """Commit the waiting commands, then stop. Do not cancel this: the thread ends in its own time."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    @property
    def writable_since(self) -> float | None:
        return None if self._is_stalled() else self._writable_since

    @property
    def trouble(self) -> str:
        """Return the last error, for operators. Empty means that there was none."""
        return self._trouble

    def _note(self, error: BaseException) -> None:
        self._trouble = error.detail if isinstance(error, DatabaseLost) else f"{type(error).__name__}: {error}"

    def _is_stalled(self) -> bool:
        busy_since = self._busy_since
        return busy_since is not None and self._clock.ticks() - busy_since > STALL

    def submit(self, command: Command[Any]) -> asyncio.Future[Any]:
        """Let a command wait. Raises StoreOverloaded, StoreUnavailable."""
        if self._loop is None or self._closing:
            raise StoreUnavailable("The store is closed.")
        if self._is_stalled():
            # Commands that wait already are answered in the end; no other command may wait for what may never come.
            raise StoreUnavailable(f"The database has not answered for {STALL:g} s: try again.")
        waiting = _Waiting(command, self._loop.create_future(), 0)
        with self._wake:
            if command.urgency is Urgency.SUBMIT:
                waiting.bytes = command.held_bytes
                self._check_submit_room(waiting.bytes)
                self._submit_bytes += waiting.bytes
            self._by_urgency[command.urgency].append(waiting)
            self._wake.notify()
        return waiting.future

    def _check_submit_room(self, more: int) -> None:
        count = len(self._by_urgency[Urgency.SUBMIT])
        if count >= SUBMIT_COUNT or (count and self._submit_bytes + more > SUBMIT_BYTES):
            raise StoreOverloaded(
                f"{count} commands wait to be committed, and no more may: try later with the same id.", subject="store"
            )

    # The writer's thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        self._probe()
        while True:
            batch = self._take()
            if batch is None:
                break
            if batch:
                self._commit(batch)
            else:
                self._probe()
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._generation is not None:
            self._generation.close()

    def _take(self) -> list[_Waiting] | None:
        """Return the next batch. An empty one means that it is time to probe, None that everything is done."""
        with self._wake:
            if not any(self._by_urgency.values()):
                if self._closing:
                    return None
                self._wake.wait(PROBE_IDLE if self._writable_since is not None else PROBE_BROKEN)
            batch: list[_Waiting] = []
            for urgency, quota in QUOTA.items():
                waiting = self._by_urgency[urgency]
                room = quota
                while waiting and room > 0:
                    each = waiting.popleft()
                    room -= each.command.weight
                    self._submit_bytes -= each.bytes
                    batch.append(each)
            return None if not batch and self._closing else batch

    def _commit(self, batch: Sequence[_Waiting], *, again: bool = True) -> None:
        """Carry out `batch`; where it fails for the fault of a command, carry out its halves.

        With `again`, a batch that fails because another writer changed its rows is tried once more, on what is stored
        now.
        """
        try:
            outcomes, changes = self._persist([each.command for each in batch])
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait must hear of it
            self._note(error)
            if self._is_unavailable(error):
                self._fail(batch, StoreUnavailable(f"The database cannot be written now ({error}): try again."))
            elif again and isinstance(error, BatchConflict):
                self._commit(batch, again=False)
            elif len(batch) == 1:
                name = type(batch[0].command).__name__
                failure = StoreUnavailable(f"{name} could not be carried out, which is a defect: {error!r}")
                failure.__cause__ = error
                self._fail(batch, failure)
            else:
                middle = len(batch) // 2
                self._commit(batch[:middle])
                self._commit(batch[middle:])
            return
        self._hand_over(list(zip(batch, outcomes, strict=True)), changes)

    def _persist(self, commands: Sequence[Command[Any]]) -> tuple[list[CommandOutcome], Changes | None]:
        """Carry out one transaction, again if that may help: nothing was committed, so commands can be repeated."""
        for _ in range(TRIES - 1):
            try:
                return self._transaction(commands)
            except Exception as error:
                if not self._may_pass(error):
                    raise
        return self._transaction(commands)

    def _transaction(self, commands: Sequence[Command[Any]]) -> tuple[list[CommandOutcome], Changes | None]:
        """Carry out one transaction. The changes are None where the log tells of them."""
        link = self._open_link()
        self._keep_time()
        began = self._busy_since = self._clock.ticks()
        try:
            if self._memory.nothing_to_claim(link, commands, self._clock.now()):
                return [Done(Claims(())) for _ in commands], None
            link.begin()
            unit = self._make_unit(link, commands)
            outcomes = execute(unit, commands)
            changes = unit.changes()
            announced = None if self._log is None else self._log.announce(link, changes, unit.reads.now)
            link.commit()
        except BaseException as error:
            self._undo(link, error)
            raise
        finally:
            self._busy_since = None
        if self._generation is not None:
            self._generation.reached(unit.position if announced is None else announced.rows()[0][0])
        if unit.followers.left:
            self._call(self._follow_up, ReleaseFollowers(ended=tuple(sorted(unit.followers.left))))
        unit.committed(outcome.result for outcome in outcomes if isinstance(outcome, Done))
        now = self._clock.ticks()
        if self._writable_since is None or now - began > STALL:
            self._writable_since = now
        if self._log is None:
            return outcomes, changes
        # The callers of this commit wait for this too, and it may have to read what others committed before it.
        self._busy_since = began
        try:
            self._log.committed(link, announced, changes, unit.reads.now)
        except Exception as error:  # noqa: BLE001  it is committed: callers must hear that; the listener tells the rest
            if not self._is_unavailable(error):
                self._call(self._complain, error)
            self._drop(link)
        finally:
            self._busy_since = None
        return outcomes, None

    def _probe(self) -> None:
        """Write a row, to learn whether writing works."""
        try:
            link = self._open_link()
            self._keep_time()
            began = self._busy_since = self._clock.ticks()
            try:
                link.begin()
                link.run(_PROBE)
                link.commit()
            except BaseException as error:
                self._undo(link, error)
                raise
            finally:
                self._busy_since = None
        except Exception as error:  # noqa: BLE001  the answer is `writable_since`; the next try comes by itself
            self._writable_since = None
            self._note(error)
            return
        if self._generation is not None:
            self._generation.sync()
        now = self._clock.ticks()
        if self._writable_since is None or now - began > STALL:
            self._writable_since = now

    def _open_link(self) -> Link:
        if self._link is None:
            try:
                self._link = self._connect()
                if self._steps is not None:
                    self._steps.meet(self._link)
                if self._generation is not None:
                    self._meet(self._generation)
            except Exception:
                self._writable_since = None
                if self._link is not None:
                    self._drop(self._link)
                raise
        return self._link

    def _meet(self, generation: Generation) -> None:
        """Compare the database with the memory, before anything else on a new connection. A database that is behind is
        marked as restored, which pauses its queues. It may have been exchanged while the old connection was away."""
        met = self._ask(MeetDatabase(candidate=secrets.randbits(62)))
        behind = generation.compare(met.database, met.position)
        if behind is not None:
            _log.warning("database_behind", why=behind.why, known=behind.known, found=met.position)
            self._ask(MarkRestored(known=behind.known))
            met = self._ask(MeetDatabase(candidate=met.database))
        generation.begin(met.database, met.position)

    def _keep_time(self) -> None:
        """Look whether the wall clock was set, before anything else uses it: see `clock_steps`."""
        if self._steps is None or self._noting or (due := self._steps.due()) is None:
            return
        self._noting = True
        try:
            self._ask(due)
        finally:
            self._noting = False
        self._steps.noted(due)
        if due.step:
            self._memory.forget()
            _log.warning("clock_set", seconds=round(due.step, 3))
            self._hand_over([], Changes((), claimable=True, clock_set=True))

    def _ask(self, command: Command[R]) -> R:
        outcomes, changes = self._transaction([command])
        self._hand_over([], changes)
        outcome = outcomes[0]
        if isinstance(outcome, Refused):
            raise outcome.error
        return cast("R", outcome.result)

    def _undo(self, link: Link, error: BaseException) -> None:
        """Roll back. A connection that met trouble is not trusted any more, and neither is the memory."""
        self._memory.forget()
        link.failed(error)
        try:
            link.rollback()
        except Exception:  # noqa: BLE001  the connection is dropped below, which rolls back too
            self._writable_since = None
        if self._is_unavailable(error) or self._writable_since is None:
            self._writable_since = None
            self._drop(link)

    def _drop(self, link: Link) -> None:
        self._link = None
        link.close()

    def _is_unavailable(self, error: BaseException) -> bool:
        return self._link is None or self._link.dialect.is_unavailable(error)

    # Back to the loop ---------------------------------------------------------------------------------------------

    def _fail(self, batch: Sequence[_Waiting], error: LongshoreError) -> None:
        self._call(self._resolve_failed, batch, error)

    def _hand_over(self, outcomes: Sequence[tuple[_Waiting, CommandOutcome]], changes: Changes | None) -> None:
        self._call(self._resolve, outcomes, changes)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        loop = self._loop
        if loop is None:
            raise AssertionError("the writer works only once started")
        try:
            loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            # The loop is closed: nobody waits any more, and what was committed stays committed.
            return

    def _resolve(self, outcomes: Sequence[tuple[_Waiting, CommandOutcome]], changes: Changes | None) -> None:
        if changes is not None:
            self._deliver(changes)
        for waiting, outcome in outcomes:
            if waiting.future.done():
                continue
            if isinstance(outcome, Done):
                waiting.future.set_result(outcome.result)
            else:
                waiting.future.set_exception(outcome.error)

    def _follow_up(self, command: Command[Any]) -> None:
        """Run a command that continues one that is committed. The janitor finds what is left if it fails."""
        with contextlib.suppress(LongshoreError):
            self.submit(command).add_done_callback(lambda done: done.cancelled() or done.exception())

    def _complain(self, error: Exception) -> None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "what a commit changed could not be told", "exception": error}
        )

    def _resolve_failed(self, batch: Sequence[_Waiting], error: LongshoreError) -> None:
        for waiting in batch:
            if not waiting.future.done():
                waiting.future.set_exception(error)
