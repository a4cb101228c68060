"""What a claim costs with 1,000 and with 1,000,000 tasks queued, on SQLite and on PostgreSQL.

    make bench ROW=claim       python -m bench.claim [--rounds N] [--many N] [--only sqlite|postgres] [--plans]

Two databases of each make, one with the thousand of `bench/backlog.py`, one with a thousand times as many. A claim for
four sessions with room for two attempts each is one command of the store, its commit included; between claims, outside
the measure, the claimed tasks succeed and as many new ones are queued. The two databases are asked in turns, A B A B.
Only their ratio counts: exit code 0 when its median is at most 1.2 on both.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench import plans
from bench.backlog import (
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
from longshore.server.model.clock import Clock, SystemClock
from longshore.server.model.events import Policy, Reported
from longshore.server.model.task import FILE_PUSH, Grant, Task
from longshore.server.model.values import DeliveryMethod, Outcome
from longshore.server.store.commands import FileReports, RequestGrants
from longshore.server.store.limits import LaneLimits
from longshore.server.store.postgres import PostgresStore
from longshore.server.store.sqlite import SQLiteStore
from longshore.server.store.store import SQLStore
from tests.support.postgres import Cluster, running_cluster

GOAL: Final = 1.2
ROOM: Final = 2
SETTINGS: Final = "ALTER SYSTEM SET {} TO {}"
SERVER: Final = {"autovacuum": "on", "shared_buffers": "'512MB'", "max_wal_size": "'4GB'", "max_connections": "60"}
"""As an operator has them: the tests' own cluster is smaller."""


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
        if task.order.kind == FILE_PUSH:
            grant = Grant(attempt, session, "/srv/.temp", DeliveryMethod.SFTP, 0.0, crc32c=7, mode=0o644, uid=0, gid=0)
            (answer,) = await self.store.run(
                RequestGrants(session_id=session, epoch=epoch, requests=((task.order.id, grant),))
            )
            if not answer.granted:
                raise AssertionError(f"{self.label}: {answer}")
        report = Reported(session, attempt, Outcome.OK)
        (counted,) = await self.store.run(
            FileReports(session_id=session, epoch=epoch, reports=((task.order.id, report),))
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

    def store(self, label: str) -> SQLStore:
        clock: Clock = SystemClock()
        return SQLiteStore(path=self._folder / label, clock=clock, policy=Policy(), limits=LaneLimits())

    def database(self, label: str) -> SQLiteFile:
        return SQLiteFile.open(self._folder / label)

    def explain(self, label: str) -> Sequence[tuple[str, list[str]]]:
        return plans.on_sqlite(self._folder / label)


class PostgresMake:
    name = "postgres"

    def __init__(self, cluster: Cluster, *, analyze: bool = True) -> None:
        self._cluster = cluster
        self._analyze = analyze

    def _url(self, label: str) -> str:
        return self._cluster.url(f"claim_{label}")

    def store(self, label: str) -> SQLStore:
        found = self._cluster.execute(f"SELECT 1 FROM pg_database WHERE datname = 'claim_{label}'")
        if not found:
            self._cluster.execute(f"CREATE DATABASE claim_{label} TEMPLATE template0")
        return PostgresStore(url=self._url(label), policy=Policy(), limits=LaneLimits())

    def database(self, label: str) -> PostgresDatabase:
        return PostgresDatabase.open(self._url(label), analyze=self._analyze)

    def explain(self, label: str) -> Sequence[tuple[str, list[str]]]:
        return plans.on_postgres(self._url(label))


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


async def compare(make: Make, rounds: int, many: int, *, show_plans: bool) -> bool:
    """Fill, measure in turns, print. Answers whether the goal was reached."""
    copies = many // BASE - 1
    began = time.monotonic()
    await fill(make, "checked", 3)
    await fill(make, "few", 0)
    await fill(make, "many", copies)
    print(f"{make.name}: filled in {time.monotonic() - began:.0f} s", file=sys.stderr)
    if show_plans:
        for title, steps in make.explain("many"):
            print(f"\n{make.name}, {many:,} queued: {title}", *("  " + step for step in steps), sep="\n")
        print()
    async with AsyncExitStack() as stack:
        queues = []
        for label in ("few", "many"):
            store = await stack.enter_async_context(opened(make.store(label)))
            fleet = Fleet(store)
            await fleet.connect(4)
            queues.append(Queue(store, fleet, label))
        few, of_many = queues
        warm = max(10, rounds // 10)
        for number in range(warm + rounds):
            for queue in (few, of_many) if number % 2 else (of_many, few):
                await queue.round(measured=number >= warm)
    return report(make.name, few.times, of_many.times, many)


def report(name: str, few: list[float], many: list[float], queued: int) -> bool:
    ratios = blocks(few, many)
    ratio = statistics.median(many) / statistics.median(few)
    reached = ratio <= GOAL
    for label, times in ((f"{BASE:,}", few), (f"{queued:,}", many)):
        low, middle, high = (1e3 * quantile(times, of) for of in (0.05, 0.5, 0.95))
        print(f"claim on {name}, {label} queued: {middle:.2f} ms [{low:.2f}..{high:.2f}, 5 to 95 %]")
    print(
        f"claim: ours {1e3 * statistics.median(many):.2f} ms on {name} with {queued:,} queued, "
        f"{1e3 * statistics.median(few):.2f} ms with {BASE:,}, ratio {ratio:.2f} "
        f"[{min(ratios):.2f}..{max(ratios):.2f}], goal ≤ {GOAL}: {'reached' if reached else 'missed'}",
        flush=True,
    )
    return reached


def blocks(few: list[float], many: list[float], count: int = 10) -> list[float]:
    """Ratios of the medians of ten stretches of the run: how far it is to be trusted."""
    size = max(1, len(few) // count)
    pieces = range(0, size * count, size)
    return [
        statistics.median(many[at : at + size]) / statistics.median(few[at : at + size]) for at in pieces if few[at:]
    ]


def quantile(times: list[float], of: float) -> float:
    return sorted(times)[min(len(times) - 1, int(of * len(times)))]


async def run(options: argparse.Namespace) -> bool:
    fine = []
    with tempfile.TemporaryDirectory(prefix="longshore-", dir=options.dir) as name:
        sizes: dict[str, Any] = {"rounds": options.rounds, "many": options.many, "show_plans": options.plans}
        if options.only in (None, "sqlite"):
            fine.append(await compare(SQLiteMake(Path(name)), **sizes))
        if options.only in (None, "postgres"):
            with running_cluster() as cluster:
                for setting, value in SERVER.items():
                    cluster.execute(SETTINGS.format(setting, value))
                cluster.stop()
                cluster.start()
                fine.append(await compare(PostgresMake(cluster, analyze=not options.stale), **sizes))
    return all(fine)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.claim", description="What a claim costs with a long queue.")
    parser.add_argument("--rounds", type=int, default=400, help="claims measured on each database")
    parser.add_argument("--many", type=int, default=1_000_000, help="tasks in the long queue")
    parser.add_argument("--only", choices=("sqlite", "postgres"))
    parser.add_argument("--plans", action="store_true", help="print the plans of a claim's statements")
    parser.add_argument("--stale", action="store_true", help="PostgreSQL: leave it with the statistics it has")
    parser.add_argument("--dir", help="where the SQLite files lie for a while [$TMPDIR]")
    sys.exit(0 if asyncio.run(run(parser.parse_args())) else 1)


if __name__ == "__main__":
    main()
