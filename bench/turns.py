"""What servers on one database cost each other: turns, statements and CPU per task, by the number of servers.

    python -m bench.turns [--tasks N] [--servers 1,3,5] [--against TREE]

Two workers with room on each server, one caller at the first one who submits and waits for the end, again and again. So
each commit is heard by servers that have room and nothing to do. `--against` names a checkout of another version, whose
servers are measured in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc.aio
import psycopg

from bench.noop import KIND, NoopWorker, metadata
from bench.scale import prepare
from longshore.v1 import task_pb2, task_service_pb2_grpc
from longshore.v1 import task_service_pb2 as pb
from tests.support.servers.cluster import OwnSpools, ServerFleet, fleet_of
from tests.support.stores.postgres import Cluster, running_cluster

WORKERS = 2
"""On each server."""
_HERTZ = os.sysconf("SC_CLK_TCK")
_CALLS = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE "


class Counts:
    """What was done so far, in the whole database and by the servers."""

    def __init__(self, fleet: ServerFleet) -> None:
        with psycopg.connect(fleet.url, autocommit=True) as connection:
            self.turns = _one(connection, _CALLS + "query LIKE '%pg_advisory_xact_lock%'")
            self.statements = _one(connection, _CALLS + "query NOT LIKE '%pg_stat_statements%'")
        self.cpu = [_cpu(server.pid) for server in fleet.servers]


def _one(connection: psycopg.Connection[Any], sql: str) -> int:
    row = connection.execute(sql.encode()).fetchone()
    return 0 if row is None else int(row[0])


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _HERTZ


async def load(fleet: ServerFleet, tasks: int) -> None:
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


async def measure(fleet: ServerFleet, tasks: int) -> str:
    running = [asyncio.create_task(NoopWorker(server).run()) for server in fleet.servers for _ in range(WORKERS)]
    try:
        await load(fleet, 20)
        before = Counts(fleet)
        await load(fleet, tasks)
        after = Counts(fleet)
    finally:
        for one in running:
            one.cancel()
        for one in running:
            with suppress(asyncio.CancelledError):
                await one
    cpu = [1e3 * (now - then) / tasks for now, then in zip(after.cpu, before.cpu, strict=True)]
    others = f", {sum(cpu[1:]) / (len(cpu) - 1):5.2f} of each other one" if len(cpu) > 1 else ""
    return (
        f"{(after.turns - before.turns) / tasks:5.2f} turns and "
        f"{(after.statements - before.statements) / tasks:6.1f} statements a task; ms of CPU: {cpu[0]:5.2f} of the "
        f"first server{others}"
    )


def run(cluster: Cluster, servers: int, tasks: int, tree: Path | None) -> str:
    environment = {}
    if tree is not None:
        environment["PYTHONPATH"] = os.pathsep.join(str(tree / part) for part in ("server", "protos"))
    with tempfile.TemporaryDirectory(prefix="ls-") as folder:
        root = Path(folder)
        with fleet_of(root, cluster, servers=servers, spool=OwnSpools(), environment=environment) as fleet:
            with psycopg.connect(fleet.url, autocommit=True) as connection:
                connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
                connection.execute("SELECT pg_stat_statements_reset()")
            return asyncio.run(measure(fleet, tasks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--servers", default="1,3,5")
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    with running_cluster() as cluster:
        prepare(cluster)
        for servers in (int(each) for each in options.servers.split(",")):
            for name, tree in (("now", None), ("before", options.against)):
                if name == "now" or tree is not None:
                    found = run(cluster, servers, options.tasks, tree)
                    print(f"turns: {servers} servers, {name:6} {found}", flush=True)


if __name__ == "__main__":
    main()
