"""The load of the cluster's demo: several senders push files, and a watch follows each task."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from longshore.client import AsyncClient, push_spec
from longshore.v1 import task_pb2

INSTANCES: Final = 12
SENDERS: Final = 8
"""Uploads at once."""
PATIENCE: Final = 40.0
"""Seconds for which the client goes on trying."""
SIZES: Final = (1_000, 20_000, 70_000, 300_000, 1_500_000)
"""Bytes. The smaller ones travel in the database, the others through the object store."""


@dataclass(slots=True)
class Delivery:
    """One file on its way."""

    path: str
    digest: str
    task: task_pb2.Task
    revisions: list[int] = field(default_factory=list)
    """The revisions stand in the order in which the watch brought them."""


class Load:
    """The load has `files` files for a dozen instances; every eighth is a new version of an earlier one."""

    def __init__(self, client: AsyncClient, files: int, *, seed: int) -> None:
        self._client = client
        self._files = files
        self._seed = seed
        self.deliveries: list[Delivery] = []
        self.ended = 0

    async def run(self, told: Callable[[int], None]) -> None:
        """Run the load until the last task has ended. Call `told` with the number of ended tasks when one ends.

        Raises what the client raises.
        """
        senders = asyncio.Semaphore(SENDERS)
        async with asyncio.TaskGroup() as group:
            for number in range(self._files):
                await senders.acquire()
                group.create_task(self._deliver(number, senders, told))

    async def _deliver(self, number: int, senders: asyncio.Semaphore, told: Callable[[int], None]) -> None:
        path, content = self._file(number)
        try:
            (task,) = await self._client.upload(content, spec=push_spec(path), request_id=f"demo-{self._seed}-{number}")
        finally:
            senders.release()
        delivery = Delivery(path, hashlib.sha256(content).hexdigest(), task)
        self.deliveries.append(delivery)
        async for seen in self._client.watch(task.id, after_revision=0):
            delivery.task = seen
            delivery.revisions.append(seen.revision)
        self.ended += 1
        told(self.ended)

    def _file(self, number: int) -> tuple[str, bytes]:
        """Make the destination of a file, and bytes that no other file has."""
        rng = random.Random(f"{self._seed}/{number}")
        place = number - INSTANCES if number % 8 == 0 and number >= INSTANCES else number
        content = b"%08d" % number + rng.randbytes(rng.choice(SIZES))
        return f"i{number % INSTANCES}/srv/f{place}", content

    def last_versions(self) -> dict[str, Delivery]:
        """Return the delivery that should stand at each destination: ids sort by acceptance."""
        return {each.path: each for each in sorted(self.deliveries, key=lambda each: each.task.id)}
