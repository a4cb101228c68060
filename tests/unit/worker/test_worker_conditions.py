"""A worker tells the log and the server how it finds its targets, whenever that changes."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import structlog.testing

from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.agent.outbox import Outbox
from longshore.worker.agent.target_conditions import TargetConditions
from longshore.worker.attempts.mailbox import Mailbox
from longshore.worker.targets.directory.target import DirectoryTarget


class SlowTarget(DirectoryTarget):
    """Says nothing until it is released."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, str(path))
        self.released = threading.Event()

    def identity(self) -> str:
        assert self.released.wait(30)
        return super().identity()


class Bench:
    def __init__(self, *targets: DirectoryTarget) -> None:
        self.outbox = Outbox()
        self.targets = {target.name: target for target in targets}
        loop = asyncio.get_running_loop()
        self.conditions = TargetConditions(self.targets, mailbox=Mailbox(loop), outbox=self.outbox)

    async def hears(self) -> dict[str, str]:
        """The next message: reasons by target."""
        async with asyncio.timeout(10):
            message, _ = await self.outbox.take()
        assert isinstance(message, ws.WorkRequest)
        return {one.target: one.problem.reason for one in message.targets}


async def test_an_absent_target_is_reported_and_its_return_too(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logged:
        await told_twice(tmp_path)
    assert [(record["event"], record["target"]) for record in logged] == [
        ("target_unusable", "east"),
        ("target_usable", "east"),
    ]


async def told_twice(tmp_path: Path) -> None:
    bench = Bench(DirectoryTarget("east", str(tmp_path / "roots")))
    learned = asyncio.Event()
    bench.conditions.on_identity(learned.set)
    bench.conditions.ask()
    (said,) = (await bench.hears()).items()
    assert said[0] == "east"
    assert said[1].startswith("TARGET_")
    assert (bench.conditions.missing, bench.conditions.known()) == (True, {})
    bench.conditions.tell()
    assert await bench.hears() == dict([said]), "to each server anew"
    (tmp_path / "roots").mkdir()
    bench.conditions.ask()
    assert await bench.hears() == {"east": ""}
    assert learned.is_set()
    assert list(bench.conditions.known()) == ["east"]
    bench.conditions.close()


async def test_a_silent_target_is_reported_before_its_time_out(tmp_path: Path) -> None:
    target = SlowTarget("slow", tmp_path)
    bench = Bench(target, DirectoryTarget("quick", str(tmp_path)))
    learned = asyncio.Event()
    bench.conditions.on_identity(learned.set)
    bench.conditions.ask()
    async with asyncio.timeout(10):
        await learned.wait()
    bench.conditions.fell_silent(3.0)
    assert await bench.hears() == {"slow": "TARGET_TIMEOUT"}
    target.released.set()
    assert await bench.hears() == {"slow": ""}
    bench.conditions.close()


async def test_a_target_is_asked_after_a_doubt(tmp_path: Path) -> None:
    (tmp_path / "roots").mkdir()
    bench = Bench(DirectoryTarget("east", str(tmp_path / "roots")))
    learned = asyncio.Event()
    bench.conditions.on_identity(learned.set)
    bench.conditions.ask()
    async with asyncio.timeout(10):
        await learned.wait()
    (tmp_path / "roots").rmdir()
    bench.conditions.recheck("another's")
    bench.conditions.recheck("east")
    assert next(iter((await bench.hears()).values())).startswith("TARGET_")
    assert list(bench.conditions.known()) == ["east"], "it stays who it was"
    bench.conditions.close()
