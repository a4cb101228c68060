"""This row measures the cost of a claim with 1,000 and with 1,000,000 tasks queued, on SQLite and on PostgreSQL.

The plans of its statements: python -m bench.studies.claim_plans.

Two databases of each make, one with the thousand of `bench/support/backlog.py`, one with a thousand times as many. A
claim for four sessions with room for two attempts each is one command of the store, its commit included; between
claims, outside the measure, the claimed tasks succeed and as many new ones are queued. The two databases are asked in
turns, A B A B. A round is fifty claims on each, and its figure their median in milliseconds. The long queue stands for
ours, the short one for the peer: only their ratio counts.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from bench.support.backlog import (
    BASE,
    Fleet,
    PostgresDatabase,
    SQLiteFile,
    copy_rows,
    count_copies,
    counts_of_waiting,
    make_base,
    numbers,
    plan,
    submit,
)
from bench.support.figures import Goal
from bench.support.noop import operated_cluster
from bench.support.run import Row, Run
from longshore.server.model.clock import Clock, SystemClock
from longshore.server.model.events import Policy, Reported
from longshore.server.model.task import FILE_PUSH, Grant, Task
from longshore.server.model.values import DeliveryMethod, Outcome
from longshore.server.store.commands import FileReports, RequestGrants
from longshore.server.store.postgres.dialect import PostgresStore
from longshore.server.store.sqlite.dialect import SQLiteStore
from longshore.server.store.store import SQLStore
from longshore.server.store.transaction.limits import ConcurrencyLimits
from tests.support.stores.postgres import Cluster

GOAL: Final = 1.2
MANY: Final = 1_000_000
CLAIMS: Final = 50
"""On each database, in a round."""
ROOM: Final = 2


class Queue:
    """One database and the fleet that works it off."""

    def __init__(self, store: SQLStore, fleet: Fleet, label: str) -> None:
        self.store, self.fleet, self.label = store, fleet, label
        self.times: list[float] = []
        self._numbers = numbers()
        self._requests = itertools.count(1)

    async def round(self, *, measured: bool) -> None:
        """One claim, and everything that must happen before the next."""
        command = self.fleet.offers(ROOM)
        began = time.perf_counter()
        claims = await self.store.run(command)
        took = time.perf_counter() - began
        if len(claims.taken) != len(command.offers) * ROOM:
            raise AssertionError(f"{self.label}: claimed {len(claims.taken)}")
        if measured:
            self.times.append(took)
        await asyncio.gather(*(self._finish(session, task) for session, task in claims.taken))
        fresh = [plan(next(self._numbers)) for _ in claims.taken]
        await submit(self.store, fresh, f"again-{next(self._requests)}")

    async def _finish(self, session: str, task: Task) -> None:
        epoch, attempt = self.fleet.epoch(session), task.status.attempt
        if task.submission.kind == FILE_PUSH:
            grant = Grant(attempt, session, "/srv/.temp", DeliveryMethod.SFTP, 0.0, crc32c=7, mode=0o644, uid=0, gid=0)
            (answer,) = await self.store.run(
                RequestGrants(session_id=session, epoch=epoch, requests=((task.submission.id, grant),))
            )
            if not answer.granted:
                raise AssertionError(f"{self.label}: {answer}")
        report = Reported(session, attempt, Outcome.OK)
        (counted,) = await self.store.run(
            FileReports(session_id=session, epoch=epoch, reports=((task.submission.id, report),))
        )
        if not counted:
            raise AssertionError(f"{self.label}: a report did not count")


# Databases ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(store: SQLStore) -> AsyncIterator[SQLStore]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


class SQLiteMake:
    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, label: str) -> Path:
        return self._folder / label

    def store(self, label: str) -> SQLStore:
        clock: Clock = SystemClock()
        return SQLiteStore(path=self.path(label), clock=clock, policy=Policy(), limits=ConcurrencyLimits())

    def database(self, label: str) -> SQLiteFile:
        return SQLiteFile.open(self.path(label))


class PostgresMake:
    name = "postgres"

    def __init__(self, cluster: Cluster, *, analyze: bool = True, name: str = "claim") -> None:
        self._cluster = cluster
        self._analyze = analyze
        self._name = name

    def url(self, label: str) -> str:
        return self._cluster.url(f"{self._name}_{label}")

    def drop(self, label: str) -> None:
        self._cluster.execute(f"DROP DATABASE {self._name}_{label} WITH (FORCE)")

    def store(self, label: str) -> SQLStore:
        found = self._cluster.execute(f"SELECT 1 FROM pg_database WHERE datname = '{self._name}_{label}'")
        if not found:
            self._cluster.execute(f"CREATE DATABASE {self._name}_{label} TEMPLATE template0")
        return PostgresStore(url=self.url(label), policy=Policy(), limits=ConcurrencyLimits())

    def database(self, label: str) -> PostgresDatabase:
        return PostgresDatabase.open(self.url(label), analyze=self._analyze)


Make = SQLiteMake | PostgresMake


async def fill(make: Make, label: str, copies: int) -> None:
    """The thousand, and `copies` more of them. Small ones are recounted."""
    async with opened(make.store(label)) as store:
        await make_base(store, Fleet(store))
        waiting = await counts_of_waiting(store)
    database = make.database(label)
    if copies:
        copy_rows(database, copies)
        count_copies(database, waiting, copies)
    database.finish()
    if copies <= 10:
        async with opened(make.store(label)) as store:
            wrong = await store.verify_counters()
        if wrong:
            raise AssertionError(f"the copies are not as the store makes them: {wrong[:5]}")


@asynccontextmanager
async def queue(make: Make, label: str) -> AsyncIterator[Queue]:
    """A filled database, opened."""
    async with opened(make.store(label)) as store:
        fleet = Fleet(store)
        await fleet.connect(4)
        yield Queue(store, fleet, label)


async def compare(run: Run, make: Make) -> None:
    """Fill, measure in turns, print."""
    began = time.monotonic()
    await fill(make, "checked", 3)
    await fill(make, "few", 0)
    await fill(make, "many", MANY // BASE - 1)
    run.say(f"claim: {make.name} filled in {time.monotonic() - began:.0f} s")
    few: list[float] = []
    many: list[float] = []
    async with queue(make, "few") as short, queue(make, "many") as long:
        for number in range(-1, run.rounds):
            run.loads.append(os.getloadavg()[0])
            short.times, long.times = [], []
            for claim in range(CLAIMS):
                for one in (short, long) if claim % 2 else (long, short):
                    await one.round(measured=True)
            if number >= 0:
                few.append(1e3 * statistics.median(short.times))
                many.append(1e3 * statistics.median(long.times))
    run.compare(
        what=f"{make.name} with {MANY:,} queued",
        peer=f"with {BASE:,}",
        unit="ms",
        ours=many,
        theirs=few,
        goal=Goal(at_most=GOAL),
    )


@contextmanager
def postgres(*, analyze: bool = True) -> Iterator[PostgresMake]:
    """A cluster as an operator has it."""
    with operated_cluster() as cluster:
        yield PostgresMake(cluster, analyze=analyze)


async def measure(run: Run) -> None:
    await compare(run, SQLiteMake(run.folder))
    with postgres() as make:
        await compare(run, make)


ROWS: Final = (Row(name="claim", unit="ms", measure=measure, rounds=8, pairs=2),)
