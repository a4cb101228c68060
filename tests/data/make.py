"""Makes the data directory of an older version that tests/integration/upgrade/test_upgrade.py opens with today's.

Run it in a checkout of the version whose data is wanted, with its own packages and its own tests/support on PYTHONPATH:

    python make.py OUT.sql OUT.json

Those here were made by the versions with schema 0001, the last before several servers, and 0002, the last before
sessions and targets were remembered.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc.aio

from longshore.client import push_spec
from longshore.v1 import task_pb2, task_service_pb2_grpc
from tests.support.servers.processes import eventually
from tests.support.servers.rawgrpc import chunk, header_of, opening
from tests.support.servers.stage import Stage, staged

SENT = 100_000
"""Bytes of the upload that stays open."""


def content(size: int) -> bytes:
    """Return the first bytes of every payload here."""
    return b"".join(b"%07d\n" % number for number in range(size // 8 + 1))[:size]


def main(sql: Path, facts: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, staged(Path(folder), "--log-format", "json") as stage:
        tasks = fill(stage)
        stage.server.kill()
        made = {"at": time.time(), "tasks": tasks, "spool": spooled(stage)}
        facts.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
        with sqlite3.connect(stage.server.data / "longshore.db") as connection:
            ((identity,),) = connection.execute("SELECT identity FROM targets")
            text = "\n".join(connection.iterdump()) + "\n"
        # It names this machine.
        sql.write_text(text.replace(identity, "directory:gone"))


def fill(stage: Stage) -> dict[str, str]:
    """Tasks by what became of them."""
    small, large = content(1_000), content(70_000)
    with stage.worker():
        tasks = {
            "succeeded": stage.push(small, "web/etc/succeeded", labels={"colour": "grey", "ship": "Beagle"}),
            "failed": stage.push(large, "web/missing/failed"),
            "parked": stage.push(small, "absent/etc/parked", when_absent=task_pb2.WHEN_ABSENT_WAIT),
        }
        stage.reaches(tasks["succeeded"], task_pb2.TASK_STATE_SUCCEEDED)
        stage.reaches(tasks["failed"], task_pb2.TASK_STATE_FAILED)
        stage.reaches(tasks["parked"], task_pb2.TASK_STATE_SCHEDULED)
    with stage.faulty("granted", "kill") as doomed:
        tasks["granted"] = stage.push(large, "web/etc/granted")
        eventually(lambda: doomed.process.poll() is not None)
    stage.mark.unlink()
    with stage.faulty("staged", "kill") as doomed:
        tasks["cancelled"] = stage.push(large, "web/etc/cancelled")
        eventually(lambda: doomed.process.poll() is not None)
    stage.client.cancel(tasks["cancelled"], reason="no longer wanted")
    stage.reaches(tasks["cancelled"], task_pb2.TASK_STATE_CANCELLED)
    stage.mark.unlink()
    with stage.faulty("staged", "kill") as doomed:
        tasks["running"] = stage.push(large, "web/etc/running")
        eventually(lambda: doomed.process.poll() is not None)
    # From here on within the lease of the one that died.
    tasks["queued"] = stage.push(large, "web/etc/queue", labels={"colour": "blue"})
    tasks["blocked"] = stage.push(content(70_001), "web/etc/queue", mode=0o640)
    tasks["later"] = stage.push(small, "web/etc/later", not_before=2.0, queue="slow", priority=3)
    stage.client.pause_queue("paused", create=True)
    tasks["paused"] = stage.push(small, "web/etc/paused", queue="paused")
    asyncio.run(leave_open(stage))
    return tasks


async def leave_open(stage: Stage) -> None:
    """An upload that ends too early: everything that came is checkpointed."""
    async with grpc.aio.insecure_channel(stage.server.address) as channel:
        stub: Any = task_service_pb2_grpc.TaskServiceStub(channel)
        call = stub.Upload(metadata=(("authorization", f"Bearer {stage.server.token}"),))
        await call.write(opening(header_of("open-upload", spec=push_spec("web/etc/open"), size=2 * SENT)))
        await call.write(chunk(0, content(SENT)))
        await call.done_writing()
        await call.code()


def spooled(stage: Stage) -> dict[str, int]:
    """The spool's files and how much of `content` each has."""
    root = stage.server.data / "spool"
    found = {}
    for path in sorted(root.rglob("*")):
        # The spool's identity is a random number: the next server makes another one.
        if path.is_file() and path.name != "identity":
            held = path.read_bytes()
            assert held == content(len(held)), path
            found[str(path.relative_to(root))] = len(held)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
