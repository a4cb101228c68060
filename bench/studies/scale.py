"""This study measures the load that one PostgreSQL carries, and its cost per task, idle server, worker and watcher.

    python -m bench.studies.scale [--rounds N] [--tasks N] [--only tasks|idle|turns] [--servers 1,3,5] [--against TREE]

**Tasks.** No-op tasks from submission to the durable end, through one, two and three servers on PostgreSQL and one on
SQLite, each server a process, in turns. Callers, workers, servers and database share this machine's cores, so the rates
say how the makes compare and nothing about yours; what a task costs each part in CPU time and in WAL says more.

**Idle.** A server alone; then with workers that only say that they live; then with open watches.

**Turns**, statements and CPU that servers on one database cost each other, by their number. Two workers with room on
each server, one caller at the first one who submits and waits for the end, again and again. So each commit is heard by
servers that have room and nothing to do. `--against` names a checkout of another version, with its .venv, whose servers
are measured in the same run.

Nothing here decides: it is for docs/scaling.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import grpc.aio
import psycopg

from bench.support.figures import Ratio, spread
from bench.support.noop import KIND, Cost, NoopWorker, Site, metadata, operated_cluster
from bench.support.processes import ROOT, cpu
from longshore.v1 import task_pb2, task_service_pb2_grpc
from longshore.v1 import task_service_pb2 as pb
from tests.support.servers.cluster import OwnSpools, ServerFleet, fleet_of
from tests.support.servers.processes import ServerProcess
from tests.support.stores.postgres import Cluster

SETTLE: Final = 3.0
LOOK: Final = 10.0
"""Seconds for which an idle fleet is looked at."""
WORKERS: Final = 100
WATCHES: Final = 2_000


async def measure_tasks(sites: Sequence[Site], rounds: int, count: int) -> None:
    """Rounds in turns; prints a line for each site, and each one's ratio to SQLite."""
    rates: dict[str, list[float]] = {site.name: [] for site in sites}
    costs: dict[str, list[Cost]] = {site.name: [] for site in sites}
    async with AsyncExitStack() as stack:
        for site in sites:
            await stack.enter_async_context(site.open())
            await site.run(count // 4)
        for _ in range(rounds):
            for site in sites:
                before = site.cost()
                rates[site.name].append(count / await site.run(count))
                costs[site.name].append(site.cost() - before)
    sqlite = rates[sites[0].name]
    for site in sites:
        name, mine = site.name, rates[site.name]
        told = f"{spread(mine)} tasks/s, {Ratio.of(mine, sqlite)} × SQLite"
        print(f"scale: {name}: {told}; per task: {_per_task(costs[name], count)}", flush=True)


def _per_task(costs: Sequence[Cost], count: int) -> str:
    def of(field: str) -> float:
        return float(statistics.median(getattr(cost, field) for cost in costs)) / count

    told = f"{1e3 * of('servers'):.2f} ms CPU of servers"
    if not any(cost.commits for cost in costs):
        return told
    return (
        f"{told}, {1e3 * of('database'):.2f} ms CPU of the database, {of('wal') / 1024:.1f} KB WAL, "
        f"{of('stored') / 1024:.1f} KB kept, {of('commits'):.2f} commits, {of('statements'):.1f} statements"
    )


# Idle -----------------------------------------------------------------------------------------------------------------


async def measure_idle(site: Site) -> None:
    """The server alone, then with workers, then with watches besides."""
    (server,) = site.servers
    base = await _look(site)
    print(f"scale: idle server: {_rates(base)}", flush=True)
    async with _workers(server, WORKERS):
        before = server.resident()
        with_workers = await _look(site)
        more = with_workers - base
        print(f"scale: idle worker, each of {WORKERS}: {_rates(more, WORKERS)}", flush=True)
        async with _watches(server, WATCHES):
            watched = await _look(site)
            kilobytes = (server.resident() - before) / 1024 / WATCHES
            more = watched - with_workers
            print(
                f"scale: open watch, each of {WATCHES:,}: {_rates(more, WATCHES)}, {kilobytes:.1f} KB of the server",
                flush=True,
            )


async def _look(site: Site) -> Cost:
    """Measure what LOOK seconds cost."""
    await asyncio.sleep(SETTLE)
    before = site.cost()
    await asyncio.sleep(LOOK)
    return site.cost() - before


def _rates(cost: Cost, of: int = 1) -> str:
    each = LOOK * of
    return (
        f"{cost.statements / each:.3g} statements/s, {cost.wal / each / 1024:.3g} KB WAL/s, "
        f"{1e3 * cost.servers / each:.3g} ms/s CPU of the server, {1e3 * cost.database / each:.3g} of the database"
    )


@asynccontextmanager
async def _workers(server: ServerProcess, count: int) -> AsyncIterator[None]:
    running = [asyncio.create_task(NoopWorker(server, credits=1).run()) for _ in range(count)]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        for task in running:
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def _watches(server: ServerProcess, count: int) -> AsyncIterator[None]:
    """On one connection, each on one task that waits for an hour."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = task_service_pb2_grpc.TaskServiceStub(channel)
        spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="later"))
        spec.not_before.FromSeconds(3600)
        answer = await stub.SubmitTask(
            pb.SubmitTaskRequest(request_id="watched-by-many", spec=spec), metadata=metadata(server)
        )
        calls = []
        for _ in range(count):
            call = stub.WatchTask(pb.WatchTaskRequest(task_id=answer.tasks[0].id), metadata=metadata(server))
            await call.read()
            calls.append(call)
        try:
            yield
        finally:
            for call in calls:
                call.cancel()


# Turns ----------------------------------------------------------------------------------------------------------------

HEARING: Final = 2
"""Workers on each server."""
_CALLS: Final = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE "


class Counts:
    """The work done so far, in the whole database and by the servers."""

    def __init__(self, fleet: ServerFleet) -> None:
        with psycopg.connect(fleet.url, autocommit=True) as connection:
            self.turns = _one(connection, _CALLS + "query LIKE '%pg_advisory_xact_lock%'")
            self.statements = _one(connection, _CALLS + "query NOT LIKE '%pg_stat_statements%'")
        self.cpu = [cpu(server.pid) for server in fleet.servers]


def _one(connection: psycopg.Connection[Any], sql: str) -> int:
    row = connection.execute(sql.encode()).fetchone()
    return 0 if row is None else int(row[0])


async def _load(fleet: ServerFleet, tasks: int) -> None:
    """One after the other, each from submission to its end."""
    server = fleet.servers[0]
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = task_service_pb2_grpc.TaskServiceStub(channel)
        for number in range(tasks):
            spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind=KIND))
            request = pb.SubmitTaskRequest(request_id=f"{os.getpid()}-{id(fleet)}-{number}-{tasks}", spec=spec)
            answer = await stub.SubmitTask(request, metadata=metadata(server))
            watch = stub.WatchTask(pb.WatchTaskRequest(task_id=answer.tasks[0].id), metadata=metadata(server))
            while (message := await watch.read()) is not grpc.aio.EOF:
                if message.HasField("task") and message.task.done:
                    break
            watch.cancel()


async def _measure_turns(fleet: ServerFleet, tasks: int) -> str:
    running = [asyncio.create_task(NoopWorker(server).run()) for server in fleet.servers for _ in range(HEARING)]
    try:
        await _load(fleet, 20)
        before = Counts(fleet)
        await _load(fleet, tasks)
        after = Counts(fleet)
    finally:
        for one in running:
            one.cancel()
        for one in running:
            with suppress(asyncio.CancelledError):
                await one
    spent = [1e3 * (now - then) / tasks for now, then in zip(after.cpu, before.cpu, strict=True)]
    others = f", {sum(spent[1:]) / (len(spent) - 1):5.2f} of each other one" if len(spent) > 1 else ""
    return (
        f"{(after.turns - before.turns) / tasks:5.2f} turns and "
        f"{(after.statements - before.statements) / tasks:6.1f} statements a task; ms of CPU: {spent[0]:5.2f} of the "
        f"first server{others}"
    )


async def measure_turns(options: argparse.Namespace) -> None:
    trees = {"now": ROOT} | ({"before": options.against.resolve()} if options.against else {})
    with counting() as cluster:
        for servers in (int(each) for each in options.servers.split(",")):
            for name, tree in trees.items():
                with _fleet(cluster, servers, tree) as fleet:
                    with psycopg.connect(fleet.url, autocommit=True) as connection:
                        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
                        connection.execute("SELECT pg_stat_statements_reset()")
                    found = await _measure_turns(fleet, options.tasks)
                print(f"turns: {servers} servers, {name:6} {found}", flush=True)


@contextmanager
def _fleet(cluster: Cluster, servers: int, tree: Path) -> Iterator[ServerFleet]:
    """Servers of that tree, each with a spool of its own."""
    environment = {"PYTHONPATH": os.pathsep.join(str(tree / part) for part in ("server", "protos"))}
    with (
        tempfile.TemporaryDirectory(prefix="ls-") as folder,
        fleet_of(Path(folder), cluster, servers=servers, spool=OwnSpools(), environment=environment) as fleet,
    ):
        yield fleet


# Putting it together --------------------------------------------------------------------------------------------------


@contextmanager
def counting() -> Iterator[Cluster]:
    """A cluster that counts statements."""
    with operated_cluster(libraries="pg_stat_statements") as cluster:
        cluster.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        yield cluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=1_500, help="tasks of one round")
    parser.add_argument("--only", choices=("tasks", "idle", "turns"))
    parser.add_argument("--servers", default="1,3,5", help="numbers of servers that are asked for their turns")
    parser.add_argument("--against", type=Path, help="another version, asked for its turns")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores for servers, database, callers and workers together")
    asyncio.run(measure(options))


async def measure(options: argparse.Namespace) -> None:
    """Measure everything in one event loop: gRPC keeps to the first loop that it meets."""
    if options.only != "turns":
        await measure_sites(options)
    if options.only in (None, "turns"):
        await measure_turns(options)


async def measure_sites(options: argparse.Namespace) -> None:
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="longshore-")))
        cluster = stack.enter_context(counting())
        sites = []
        if options.only != "idle":
            sites.append(Site("SQLite, 1 server", [stack.enter_context(ServerProcess(root / "sqlite"))], None, ""))
        for count in (1, 2, 3) if options.only != "idle" else (1,):
            fleet = stack.enter_context(fleet_of(root / f"p{count}", cluster, servers=count))
            database = str(psycopg.conninfo.conninfo_to_dict(fleet.url)["dbname"])
            sites.append(Site(f"PostgreSQL, {count} server{'s' * (count > 1)}", fleet.servers, cluster, database))
        if options.only != "idle":
            await measure_tasks(sites, options.rounds, options.tasks)
        if options.only != "tasks":
            # The others stand still, so that the database serves this one alone.
            alone = next(site for site in sites if site.cluster is not None)
            for server in (server for site in sites if site is not alone for server in site.servers):
                server.kill()
            await measure_idle(alone)


if __name__ == "__main__":
    main()
