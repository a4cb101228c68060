"""P9, P12: debts on an instance that hangs keep no other instance's tasks asleep, and are not gathered twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.agent.housekeeping import Housekeeping
from longshore.worker.agent.outbox import Outbox
from longshore.worker.agent.target_conditions import TargetConditions
from longshore.worker.attempts.mailbox import Mailbox
from longshore.worker.targets.base import Delivery, no_check
from longshore.worker.targets.directory.target import DirectoryTarget


class HangingTarget(DirectoryTarget):
    """Its instance `stuck` cannot be opened until `released`."""

    def __init__(self, path: Path) -> None:
        super().__init__("default", str(path))
        self.released = threading.Event()
        self.opened = 0

    @contextmanager
    def open(
        self, project: str, instance: str, *, check: Callable[[], None] = no_check, hurry: bool = False
    ) -> Iterator[Delivery]:
        self.opened += 1
        assert instance != "stuck" or self.released.wait(30)
        with super().open(project, instance, check=check, hurry=hurry) as delivery:
            yield delivery


class Bench:
    def __init__(self, root: Path) -> None:
        for name in ("stuck", "web"):
            (root / name).mkdir()
        self.target = HangingTarget(root)
        self.outbox = Outbox()
        targets, mailbox = {"default": self.target}, Mailbox(asyncio.get_running_loop())
        conditions = TargetConditions(targets, mailbox=mailbox, outbox=self.outbox)
        self.housekeeping = Housekeeping(targets, conditions=conditions, mailbox=mailbox, outbox=self.outbox)

    def ask(self, number: int) -> None:
        temp = f"/.longshore-task-{number}-1.tmp"
        where = ws.InstanceRef(target="default", instance="stuck")
        self.housekeeping.pay(ws.Debt(debt_id=f"debt-{number}", instance=where, temps=[temp]))

    async def hears(self) -> ws.WorkRequest:
        async with asyncio.timeout(10):
            message, _ = await self.outbox.take()
            return message


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.target.released.set()
    bench.housekeeping.close()


async def test_a_debt_that_hangs_keeps_no_parked_task_asleep(bench: Bench) -> None:
    bench.ask(1)
    web = ws.InstanceRef(target="default", instance="web")
    bench.housekeeping.park(ws.ParkedInstances(target="default", instances=[web]))
    (ready,) = (await bench.hears()).ready
    assert (ready.instance.instance, ready.running) == ("web", True)


async def test_a_debt_that_is_asked_for_again_meanwhile_is_paid_once(bench: Bench) -> None:
    for _ in range(5):
        bench.ask(1)
    bench.ask(2)
    bench.target.released.set()
    paid: list[tuple[str, bool]] = []
    while len(paid) < 2:
        paid += [(one.debt_id, one.paid) for one in (await bench.hears()).debts]
    assert paid == [("debt-1", True), ("debt-2", True)]
    assert bench.target.opened == 2
