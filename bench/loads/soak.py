"""The mixed load of the row `soak`: a client that keeps account of every acknowledged task, and the worker's handlers.

Each task that the server acknowledged is noted with the endings that are true for it, and is looked at until one of
them is there. A task that the server no longer knows, or that ended otherwise, is an error of the row.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from longshore.client import AsyncClient, Submission, TaskState, job_spec, push_spec
from longshore.client.errors import FailedPrecondition, LongshoreError, NotFound
from longshore.v1 import task_pb2
from longshore.worker import Context, PermanentError, Registry, TransientError

KIB: Final = 1 << 10
PATIENCE: Final = 120.0
"""Seconds for which the client bridges a killed server."""
LOOK_EVERY: Final = 0.5
"""Seconds between two looks at a task that is not watched."""

DONE: Final = frozenset({TaskState.TASK_STATE_SUCCEEDED})
FAILED: Final = frozenset({TaskState.TASK_STATE_FAILED})
STOPPED: Final = frozenset({TaskState.TASK_STATE_CANCELLED, TaskState.TASK_STATE_SUCCEEDED})
ENDED: Final = DONE | FAILED | STOPPED | {TaskState.TASK_STATE_EXPIRED}

registry = Registry()


@registry.handler("soak-noop")
def noop(_context: Context) -> None:
    """Succeeds at once."""


@registry.handler("soak-waits")
def waits(context: Context) -> None:
    """Runs for so long that its cancel finds it."""
    context.sleep(2.0)


@registry.handler("soak-fails")
def fails(_context: Context) -> None:
    """Fails for good."""
    raise PermanentError("SOAK", "this kind always fails")


@registry.handler("soak-flaky")
def flaky(context: Context) -> None:
    """Fails once with an error that may pass."""
    if context.attempt == 1:
        raise TransientError("SOAK", "not yet", retry_after=0.1)


@dataclass(slots=True)
class Account:
    """What was acknowledged and has not ended yet, how many ended, and what was not true."""

    open: dict[str, tuple[str, frozenset[int]]] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)
    """Calls that the client gave up, by their error: nothing was acknowledged."""

    def acknowledged(self, what: str, ids: Iterable[str], endings: frozenset[int]) -> None:
        for task_id in ids:
            self.open[task_id] = what, endings

    def look_at(self, task: task_pb2.Task) -> None:
        """File the task if it has ended."""
        state = task.state
        if state in ENDED and (noted := self.open.pop(task.id, None)) is not None:
            what, endings = noted
            self.ended[what] += 1
            if state not in endings:
                self.wrong.append(f"{what} {task.id}: {TaskState.Name(state)} {task.error.message}")

    def lost(self, task_id: str) -> None:
        """File a task that the server does not know."""
        if (noted := self.open.pop(task_id, None)) is not None:
            self.wrong.append(f"{noted[0]} {task_id}: the server does not know it")


class Load:
    """The callers. `instances` are folders that the worker delivers to; each caller pauses `pause` seconds a turn."""

    def __init__(self, client: AsyncClient, account: Account, *, seed: int, pause: float, large: int) -> None:
        self._client, self._account = client, account
        self._random = random.Random(seed)
        self._pause, self._large = pause, large
        self._numbers = itertools.count()

    async def run(self, until: float) -> None:
        """Call until then (time.monotonic), and look at every task until it has ended."""
        callers: tuple[tuple[Callable[[], Awaitable[None]], float], ...] = (
            (self._small, 1.0),
            (self._content, 1.0),
            (self._submit, 1.0),
            (self._watched, 1.0),
            (self._stream, 8.0),
            (self._cancel, 4.0),
            (self._retry, 4.0),
            (self._flaky, 4.0),
            (self._large_one, 20.0),
            (self._lists, 20.0),
        )
        async with asyncio.TaskGroup() as group:
            calling = [group.create_task(self._call(each, pause, until)) for each, pause in callers]
            looking = group.create_task(self._look())
            await asyncio.wait(calling)
            await self._settled(until + 2 * PATIENCE)
            looking.cancel()

    async def _call(self, one: Callable[[], Awaitable[None]], pauses: float, until: float) -> None:
        while time.monotonic() < until:
            try:
                await one()
            except LongshoreError as error:
                self._account.troubles[f"{type(error).__name__} {error.reason}"] += 1
            await asyncio.sleep(self._pause * pauses * self._random.uniform(0.5, 1.5))

    async def _settled(self, deadline: float) -> None:
        while True:
            if not self._account.open or time.monotonic() > deadline:
                break
            await asyncio.sleep(LOOK_EVERY)
        for task_id, (what, _) in self._account.open.items():
            self._account.wrong.append(f"{what} {task_id}: has not ended")

    async def _look(self) -> None:
        """Look at each open task again and again: a finished one is remembered for a while only."""
        while True:
            for task_id in list(self._account.open):
                try:
                    self._account.look_at(await self._client.get(task_id))
                except NotFound:
                    self._account.lost(task_id)
                except LongshoreError as error:
                    self._account.troubles[f"{type(error).__name__} {error.reason}"] += 1
            await asyncio.sleep(LOOK_EVERY)

    # Calls ------------------------------------------------------------------------------------------------------------

    def _to(self, count: int = 1) -> list[str]:
        """Destinations; there are so few that later files replace earlier ones."""
        number = next(self._numbers)
        return [f"i{(number + each) % 20}/srv/f{number % 7}" for each in range(count)]

    async def _small(self) -> None:
        content = self._random.randbytes(self._random.randrange(1, 4 * KIB))
        tasks = await self._client.upload(content, spec=push_spec(*self._to()))
        self._account.acknowledged("small upload", (task.id for task in tasks), DONE)

    async def _large_one(self) -> None:
        content = self._random.randbytes(self._large)
        tasks = await self._client.upload(content, spec=push_spec(*self._to(2)))
        self._account.acknowledged("large upload", (task.id for task in tasks), DONE)

    async def _content(self) -> None:
        content = self._random.randbytes(self._random.randrange(1, 4 * KIB))
        tasks = await self._client.submit(spec=push_spec(*self._to()), content=content)
        self._account.acknowledged("small file", (task.id for task in tasks), DONE)

    async def _submit(self) -> None:
        labels = {"number": f"{next(self._numbers) % 50}"}
        tasks = await self._client.submit(spec=job_spec("soak-noop", labels=labels))
        self._account.acknowledged("job", (task.id for task in tasks), DONE)

    async def _flaky(self) -> None:
        tasks = await self._client.submit(spec=job_spec("soak-flaky"))
        self._account.acknowledged("flaky job", (task.id for task in tasks), DONE)

    async def _stream(self) -> None:
        def submissions() -> Iterator[Submission]:
            return (Submission(spec=job_spec("soak-noop", priority=each % 3)) for each in range(40))

        async with aclosing(self._client.submit_many(submissions())) as answers:
            async for each in answers:
                if each.error is not None:
                    self._account.troubles[f"{type(each.error).__name__} {each.error.reason}"] += 1
                else:
                    self._account.acknowledged("streamed job", each.task_ids, DONE)

    async def _watched(self) -> None:
        (task,) = await self._client.submit(spec=job_spec("soak-noop"))
        self._account.acknowledged("watched job", [task.id], DONE)
        await self._follow(task.id)

    async def _follow(self, task_id: str) -> None:
        watch = self._client.watch(task_id)
        try:
            async for seen in watch:
                self._account.look_at(seen)
        finally:
            await watch.aclose()

    async def _cancel(self) -> None:
        (task,) = await self._client.submit(spec=job_spec("soak-waits"))
        self._account.acknowledged("cancelled job", [task.id], STOPPED)
        await asyncio.sleep(self._random.uniform(0.0, 0.3))
        await self._client.cancel(task.id, reason="soak")

    async def _retry(self) -> None:
        (task,) = await self._client.submit(spec=job_spec("soak-fails"), content=b"kept for a retry")
        self._account.acknowledged("failing job", [task.id], FAILED)
        await self._follow(task.id)
        try:
            again = await self._client.retry(task.id)
        except (FailedPrecondition, NotFound):
            # The server was down for longer than it keeps payloads.
            self._account.troubles["no retry"] += 1
        else:
            self._account.acknowledged("retried job", [again.id], FAILED)

    async def _lists(self) -> None:
        async for _ in self._client.list(state="live", limit=200):
            pass
        await self._client.stats()
