"""The store joins the writer for commands and the readers for queries behind one interface."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from longshore.server.model.access import Token
from longshore.server.model.clock import Clock
from longshore.server.model.events import Policy
from longshore.server.model.remarks import EndedSession, Remark, Served
from longshore.server.model.request_summary import RequestSummary
from longshore.server.model.servers import Home, Server
from longshore.server.model.task import Attempt, Debt, Destination, Payload, Session, Task, Upload
from longshore.server.store.commands import Command
from longshore.server.store.handlers import remarks, restores, tokens
from longshore.server.store.handlers.clock_steps import ClockSteps
from longshore.server.store.handlers.servers import all_servers, files_by_spool
from longshore.server.store.handlers.upload_homes import find_home
from longshore.server.store.memory.rows import RowMemory
from longshore.server.store.memory.shared import SharedMemory
from longshore.server.store.migrations.run import latest, prepare
from longshore.server.store.protocol import (
    Changes,
    Conditions,
    Figures,
    Generation,
    InstanceKey,
    Moved,
    Restore,
    TaskFilter,
    TaskPage,
    Wants,
)
from longshore.server.store.reads import queries, request_summaries
from longshore.server.store.reads.conditions import conditions
from longshore.server.store.reads.lists import list_tasks
from longshore.server.store.reads.readers import Readers
from longshore.server.store.reads.verify import discrepancies
from longshore.server.store.sql.link import Database, Link
from longshore.server.store.tables.schema_version import SchemaState, check
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.server.store.transaction.memory import Memory
from longshore.server.store.transaction.unit import UnitOfWork
from longshore.server.store.writer.writer import Log, Writer

R = TypeVar("R")

READERS: Final = 2
"""Threads for reads. More do not help: Python code runs one at a time."""


class SQLStore:
    """`store.protocol.Store` on any database that has a `Dialect`. See there for what each method promises.

    `memory` remembers rows between transactions, and only saves queries. None means the one that fits the database.
    """

    def __init__(
        self,
        *,
        dialect: Database,
        clock: Clock,
        policy: Policy,
        limits: ConcurrencyLimits,
        log: Log | None = None,
        generation: Generation | None = None,
        steps: ClockSteps | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._dialect = dialect
        self._clock = clock
        self._listeners: tuple[tuple[Callable[[Changes], None], Wants | None], ...] = ()
        self._readers = Readers(connect=dialect.link, threads=READERS)
        remembered = memory or (SharedMemory(limits) if dialect.shared else RowMemory())

        def make_unit(link: Link, batch: Sequence[Command[Any]]) -> UnitOfWork:
            remembered.begin(link, batch)
            return UnitOfWork(link=link, clock=clock, policy=policy, limits=limits, memory=remembered)

        self._writer = Writer(
            connect=dialect.link,
            make_unit=make_unit,
            memory=remembered,
            clock=clock,
            deliver=self._deliver,
            may_pass=dialect.may_pass,
            log=log,
            generation=generation,
            steps=steps,
        )

    @property
    def schema(self) -> SchemaState:
        """The schema that the database is known to have: see SchemaState."""
        return self._dialect.schema

    async def open(self) -> None:
        await asyncio.to_thread(self._prepare)
        self._writer.start(asyncio.get_running_loop())

    def _prepare(self) -> None:
        self.schema.revision = prepare(self._dialect)

    async def refresh_schema(self) -> None:
        """Learn which schema the database has now, because it may have been migrated. Raises StoreUnavailable, and
        SchemaMismatch where this version cannot go on with it."""
        found = await self._readers.read(latest)
        check(found)
        self.schema.revision = found

    async def close(self) -> None:
        await self._writer.close()
        await self._readers.close()
        await asyncio.to_thread(self._dialect.engine.dispose)

    async def run(self, command: Command[R]) -> R:
        result: R = await self._writer.submit(command)
        return result

    def begin(self, command: Command[R]) -> asyncio.Future[R]:
        return self._writer.submit(command)

    def subscribe(self, listener: Callable[[Changes], None], *, wants: Wants | None = None) -> Callable[[], None]:
        # A new tuple and not a list that grows: the thread that hears of other servers goes through it.
        mine = (listener, wants)
        self._listeners = (*self._listeners, mine)

        def stop() -> None:
            self._listeners = tuple(one for one in self._listeners if one is not mine)

        return stop

    def _wants(self, moved: Moved) -> bool:
        """Tell whether any listener wants to hear of this."""
        return any(wants is None or wants(moved) for _, wants in self._listeners)

    def _deliver(self, changes: Changes) -> None:
        if changes.tasks or changes.claimable or changes.debts or changes.sessions_ended:
            for listener, _ in self._listeners:
                listener(changes)

    @property
    def writable_since(self) -> float | None:
        return self._writer.writable_since

    @property
    def trouble(self) -> str:
        return self._writer.trouble

    # Reads --------------------------------------------------------------------------------------------------------

    async def task(self, task_id: str, *, creator: str | None = None) -> Task | None:
        return await self._readers.read(queries.task, task_id, creator)

    async def tasks_of_payload(self, payload_id: str) -> Sequence[Task]:
        return await self._readers.read(queries.tasks_of_payload, payload_id)

    async def list_tasks(
        self, where: TaskFilter, *, before: int | None, limit: int, most_bytes: int | None = None
    ) -> TaskPage:
        return await self._readers.read(list_tasks, where, before, limit, most_bytes)

    async def blocking(self, keys: Collection[bytes]) -> Mapping[bytes, str]:
        return await self._readers.read(queries.blocking, keys)

    async def unmet(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        return await self._readers.read(queries.unmet, task_ids)

    async def request_summary(self, principal: str, request_id: str) -> RequestSummary | None:
        return await self._readers.read(request_summaries.request_summary, principal, request_id)

    async def left_followers(self, *, limit: int = 100) -> Sequence[int]:
        return await self._readers.read(queries.left_followers, limit)

    async def attempts(self, task_id: str, *, last: int | None = None) -> Sequence[Attempt]:
        return await self._readers.read(queries.attempts_of_task, task_id, last)

    async def attempts_after(self, task_id: str, *, number: int, limit: int) -> Sequence[Attempt]:
        return await self._readers.read(queries.attempts_after, task_id, number, limit)

    async def attempts_of(self, task_ids: Sequence[str], *, last: int) -> Mapping[str, Sequence[Attempt]]:
        return await self._readers.read(queries.attempts_of, task_ids, last)

    async def history(self, task_id: str, *, after: int, limit: int = 500) -> Sequence[Task]:
        return await self._readers.read(queries.history, task_id, after, limit)

    async def upload(self, principal: str, request_id: str) -> Upload | None:
        return await self._readers.read(queries.upload, principal, request_id)

    async def payload(self, payload_id: str) -> Payload | None:
        return await self._readers.read(queries.payload, payload_id)

    async def kept_until(self, payload_id: str) -> float | None:
        return await self._readers.read(queries.kept_until, payload_id)

    async def inline_payload(self, payload_id: str) -> bytes | None:
        return await self._readers.read(queries.inline_payload, payload_id)

    async def sessions(self) -> Sequence[Session]:
        return await self._readers.read(queries.all_sessions)

    async def session(self, session_id: str) -> Session | None:
        return await self._readers.read(queries.session, session_id)

    async def parked(self, target: str) -> Sequence[Destination]:
        return await self._readers.read(queries.parked, target)

    async def debts(self, targets: Sequence[str], *, limit: int = 100) -> Sequence[Debt]:
        return await self._readers.read(queries.due_debts, targets, limit, self._clock.now())

    async def figures(self) -> Figures:
        return await self._readers.read(queries.figures)

    async def conditions(self, instances: Iterable[InstanceKey], *, but: Collection[str] = ()) -> Conditions:
        return await self._readers.read(conditions, frozenset(instances), frozenset(but))

    async def remarks(self) -> Mapping[str, Remark]:
        return await self._readers.read(remarks.remarks_of_living)

    async def served(self) -> Sequence[Served]:
        return await self._readers.read(remarks.all_served_named)

    async def ended_sessions(self, *, since: float, also: Iterable[str] = ()) -> Sequence[EndedSession]:
        return await self._readers.read(remarks.ended_sessions, since, tuple(also))

    async def restored(self) -> Restore | None:
        return await self._readers.read(restores.restored)

    async def known_files(self, ids: Sequence[str], *, spool: str | None = None) -> frozenset[str]:
        return await self._readers.read(queries.known_files, ids, spool)

    async def home(self, upload_id: str) -> Home | None:
        return await self._readers.read(find_home, upload_id)

    async def servers(self) -> Sequence[Server]:
        return await self._readers.read(all_servers)

    async def files_by_spool(self) -> Mapping[str, int]:
        return await self._readers.read(files_by_spool)

    async def tokens(self, ids: Sequence[str]) -> Sequence[Token]:
        return await self._readers.read(tokens.tokens_of, ids)

    async def has_valid_token(self) -> bool:
        return await self._readers.read(tokens.has_valid, self._clock.now())

    async def verify_counters(self) -> Sequence[str]:
        """Recount everything, and answer in words where the stored sums differ. For tests, and for a check by hand."""
        return await self._readers.read(discrepancies)
