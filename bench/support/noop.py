"""No-op tasks end to end: submitted, claimed, assigned, reported, each step durable, by callers that do only that."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio

from bench.support.processes import cpu, family_cpu
from longshore.v1 import task_pb2, task_service_pb2_grpc, worker_service_pb2_grpc
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import worker_service_pb2 as work_pb
from tests.support.servers.processes import ServerProcess
from tests.support.stores.postgres import Cluster, running_cluster

KIND: Final = "noop"
CREDITS: Final = 64
"""Attempts that one worker holds at once."""
SUBMITTERS: Final = 64
"""Submissions at once, over all servers."""
_LEASE_SHARE: Final = 6.0
"""A heartbeat each sixth of the lease, as our worker sends them."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds and what the database wrote, so far or between two looks."""

    servers: float
    database: float
    wal: int
    commits: int
    statements: int
    stored: int

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.servers - other.servers,
            self.database - other.database,
            self.wal - other.wal,
            self.commits - other.commits,
            self.statements - other.statements,
            self.stored - other.stored,
        )


class NoopWorker:
    """A session that answers each assignment with OK. Every worker is a connection of its own."""

    def __init__(self, server: ServerProcess, *, credits: int = CREDITS) -> None:
        self._server = server
        self._credits = credits
        self.done = 0
        self.grown = asyncio.Event()
        # A call takes one write at a time.
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Until it is cancelled."""
        async with grpc.aio.insecure_channel(
            self._server.address, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub: Any = worker_service_pb2_grpc.WorkerServiceStub(channel)
            call = stub.Work(metadata=metadata(self._server))
            name = f"noop-{secrets.token_hex(8)}"
            hello = work_pb.Hello(
                protocol_version=1, session_id=name, worker=name, kinds=[work_pb.ServedKind(name=KIND)], version="bench"
            )
            await call.write(work_pb.WorkRequest(hello=hello, credits=self._credits))
            first = await call.read()
            lease = first.welcome.lease.ToTimedelta().total_seconds()
            alive = asyncio.create_task(self._say_alive(call, lease / _LEASE_SHARE))
            try:
                while (message := await call.read()) is not grpc.aio.EOF:
                    if message.assignments:
                        reports = [_ok(each) for each in message.assignments]
                        async with self._writing:
                            await call.write(work_pb.WorkRequest(reports=reports))
                    if message.acks:
                        self.done += len(message.acks)
                        self.grown.set()
            finally:
                alive.cancel()

    async def _say_alive(self, call: Any, every: float) -> None:
        for sequence in itertools.count(1):
            await asyncio.sleep(every)
            async with self._writing:
                await call.write(work_pb.WorkRequest(heartbeat=work_pb.Heartbeat(sequence=sequence)))


def _ok(assignment: work_pb.Assignment) -> work_pb.Report:
    attempt = work_pb.AttemptRef(task_id=assignment.task.id, attempt=assignment.attempt)
    return work_pb.Report(attempt=attempt, outcome=work_pb.OUTCOME_OK)


def metadata(server: ServerProcess) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {server.token}"),)


class Site:
    """Servers on one database, with a worker at each; `cluster` None: SQLite."""

    def __init__(self, name: str, servers: Sequence[ServerProcess], cluster: Cluster | None, database: str) -> None:
        self.name, self.servers, self.cluster, self.database = name, servers, cluster, database
        self.workers = [NoopWorker(server) for server in servers]
        self._stubs: list[Any] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Site]:
        async with AsyncExitStack() as stack:
            for server in self.servers:
                channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
                self._stubs.append(task_service_pb2_grpc.TaskServiceStub(channel))
            running = [asyncio.create_task(worker.run()) for worker in self.workers]
            try:
                yield self
            finally:
                for task in running:
                    task.cancel()
                for task in running:
                    with suppress(asyncio.CancelledError):
                        await task

    async def run(self, count: int) -> float:
        """Seconds for `count` tasks from the first submission to the last report's answer."""
        goal = sum(worker.done for worker in self.workers) + count
        numbers = iter(range(count))
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(SUBMITTERS):
                group.create_task(self._submit(number, numbers))
            group.create_task(self._finish(goal))
        return time.perf_counter() - began

    async def _submit(self, number: int, numbers: Any) -> None:
        server = number % len(self.servers)
        stub, who = self._stubs[server], metadata(self.servers[server])
        spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind=KIND))
        for _ in numbers:
            await stub.SubmitTask(
                pb.SubmitTaskRequest(request_id=f"bench-{secrets.token_hex(12)}", spec=spec), metadata=who
            )

    async def _finish(self, goal: int) -> None:
        async with asyncio.timeout(120):
            while sum(worker.done for worker in self.workers) < goal:
                waits = [asyncio.create_task(worker.grown.wait()) for worker in self.workers]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
                for worker in self.workers:
                    worker.grown.clear()

    def cost(self) -> Cost:
        """Return what the site has cost so far. Other sites of the cluster must be idle meanwhile."""
        servers = sum(cpu(server.pid) for server in self.servers)
        if self.cluster is None:
            return Cost(servers, 0.0, 0, 0, 0, 0)
        ((wal,),) = self.cluster.execute("SELECT wal_bytes FROM pg_stat_wal")
        ((commits,),) = self.cluster.execute("SELECT coalesce(max(position), 0) FROM commits", database=self.database)
        ((statements,),) = self.cluster.execute(
            "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid "
            f"WHERE d.datname = '{self.database}'"
        )
        ((stored,),) = self.cluster.execute(f"SELECT pg_database_size('{self.database}')")
        return Cost(servers, backends_cpu(self.cluster), int(wal), commits, statements, stored)


@contextmanager
def operated_cluster(environment: Mapping[str, str] | None = None, *, libraries: str = "") -> Iterator[Cluster]:
    """A PostgreSQL as an operator has it: the tests' own is smaller. `libraries`: that it loads besides."""
    with running_cluster(environment) as cluster:
        settings = {"autovacuum": "on", "shared_buffers": "'512MB'", "max_wal_size": "'4GB'", "max_connections": "100"}
        if libraries:
            settings["shared_preload_libraries"] = f"'{libraries}'"
        for setting, value in settings.items():
            cluster.execute(f"ALTER SYSTEM SET {setting} TO {value}")
        cluster.stop()
        cluster.start()
        yield cluster


def backends_cpu(cluster: Cluster) -> float:
    """Return the CPU seconds of the postmaster, of the backends that it has, and of those that have ended."""
    return family_cpu(int((cluster.folder / "data" / "postmaster.pid").read_text().split()[0]))
