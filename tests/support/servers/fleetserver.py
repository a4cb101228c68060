"""The worker's side of a server: real store, spool, janitor, sessions and dispatch behind a real gRPC server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import google_crc32c
import grpc.aio

from longshore.contract.enums import WhenAbsent, WhenStopped
from longshore.server.edge.auth.interceptor import AuthInterceptor
from longshore.server.edge.worker_service import WorkerService
from longshore.server.engine.dispatch import Dispatcher
from longshore.server.engine.janitor import Janitor, JanitorSettings
from longshore.server.engine.sessions.progress import ProgressBoard
from longshore.server.engine.sessions.sessions import Sessions
from longshore.server.model.access import LocalToken
from longshore.server.model.clock import SystemClock
from longshore.server.model.events import Policy
from longshore.server.model.task import AnyValue, Destination, FilePush, Job, Payload, Task, Terms
from longshore.server.model.values import State
from longshore.server.spool.directory.spool import DirectorySpool
from longshore.server.store.commands import Bounds, CancelTask, FinishUpload, OpenUpload, SubmitTasks, TaskPlan
from longshore.server.store.protocol import Changes
from longshore.server.store.sqlite.dialect import SQLiteStore
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.v1 import worker_service_pb2_grpc
from tests.support.workers.fakeworker import DEADLINE, FakeWorker

TOKEN: Final = "a-token-of-the-tests"
LONG: Final = 60.0
"""A lease that does not end within a test: fake workers say nothing by themselves."""
LOOK_AGAIN: Final = 0.05

T = TypeVar("T")

_requests = itertools.count(1)


@dataclass(slots=True, kw_only=True)
class FleetServer:
    """`fleet_server` makes this server."""

    address: str
    data: Path
    clock: SystemClock
    store: SQLiteStore
    spool: DirectorySpool
    progress: ProgressBoard
    sessions: Sessions
    dispatcher: Dispatcher

    def worker(self, **options: Any) -> FakeWorker:
        return FakeWorker(self.address, token=TOKEN, **options)

    @property
    def database(self) -> Path:
        return self.data / "longshore.db"

    # Tasks ----------------------------------------------------------------------------------------------------------

    async def submit(
        self, *, count: int = 1, target: str = "default", arguments: bytes = b"", **plan: Any
    ) -> tuple[Task, ...]:
        """Jobs of kind `job` for a target."""
        value = AnyValue("type.googleapis.com/test", arguments)
        work = Job("job", value, target=target)
        return await self._submit((TaskPlan(work, Terms(**plan)),) * count)

    async def submit_pushes(self, *paths: str, instance: str = "c1", **plan: Any) -> tuple[Task, ...]:
        """Pushes of nothing to these paths, each a destination of its own."""
        plans = tuple(TaskPlan(push(path, instance=instance), Terms(**plan)) for path in paths)
        return await self._submit(plans)

    async def _submit(self, plans: tuple[TaskPlan, ...]) -> tuple[Task, ...]:
        number = next(_requests)
        return await self.store.run(
            SubmitTasks(principal="local", request_id=f"request-{number}", fingerprint=f"f{number}", plans=plans)
        )

    async def upload(self, content: bytes, path: str = "/etc/motd", *, inline: bool = False) -> Task:
        """A push of `content`."""
        number = next(_requests)
        opened = await self.store.run(
            OpenUpload(
                upload_id=f"{number % 256:02x}-upload-{number}",
                principal="local",
                request_id=f"request-{number}",
                fingerprint=f"f{number}",
                queue="default",
                tasks=1,
                size=len(content),
                sha256=b"",
                reserve=len(content),
                connect=True,
                bounds=Bounds(),
            )
        )
        if not inline:
            partial = await self.spool.create(opened.id)
            await partial.write(content)
            await partial.sync()
            await partial.seal(opened.id)
            await partial.close()
        finished = await self.store.run(
            FinishUpload(
                upload_id=opened.id,
                connection=opened.connection,
                payload=Payload(opened.id, len(content), google_crc32c.value(content)),
                plans=(TaskPlan(push(path), Terms()),),
                inline=content if inline else None,
            )
        )
        return finished.tasks[0]

    async def cancel(self, task_id: str) -> Task:
        return await self.store.run(CancelTask(task_id=task_id, creator=None, reason="the test says so"))

    async def task(self, task_id: str) -> Task:
        found = await self.store.task(task_id)
        assert found is not None
        return found

    async def ends(self, *task_ids: str) -> list[str | None]:
        """Return how all attempts of these tasks ended, in order."""
        return [
            attempt.end.value if attempt.end is not None else None
            for task_id in task_ids
            for attempt in await self.store.attempts(task_id)
        ]

    async def until(self, look: Callable[[], Awaitable[T | None]], *, within: float = DEADLINE) -> T:
        """The first truthy answer of `look`, asked now, after each commit, and now and then."""
        bell = asyncio.Event()
        unsubscribe = self.store.subscribe(lambda _changes: bell.set())
        try:
            async with asyncio.timeout(within):
                while not (found := await look()):
                    # Some commits change no task, and nobody is told of those.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_AGAIN):
                            await bell.wait()
                    bell.clear()
        finally:
            unsubscribe()
        return found

    async def until_state(self, task_id: str, *states: State, within: float = DEADLINE) -> Task:
        """The task as soon as it is in one of these states. Shows where it stands when it never is."""

        async def look() -> Task | None:
            task = await self.task(task_id)
            return task if task.status.state in states else None

        try:
            return await self.until(look, within=within)
        except TimeoutError:
            raise AssertionError(f"not {states} but {(await self.task(task_id)).status}") from None

    def record(self) -> list[Changes]:
        """Every commit from now on."""
        seen: list[Changes] = []
        self.store.subscribe(seen.append)
        return seen


def push(
    path: str,
    *,
    instance: str = "c1",
    target: str = "default",
    when_stopped: WhenStopped = WhenStopped.WAIT,
    when_absent: WhenAbsent = WhenAbsent.WAIT,
) -> FilePush:
    return FilePush(Destination(target, "", instance, path), when_stopped=when_stopped, when_absent=when_absent)


@asynccontextmanager
async def fleet_server(
    data: Path,
    *,
    lease: float = LONG,
    policy: Policy | None = None,
    limits: ConcurrencyLimits | None = None,
    share_spool: bool = False,
    outbox_limit: int = 10_000,
) -> AsyncIterator[FleetServer]:
    """Serve on a unix socket in the folder `data` until the block is left, going on with what an earlier one left."""
    policy = policy or Policy(back_off_first=0.02, back_off_most=0.2)
    clock = SystemClock()
    store = SQLiteStore(path=data / "longshore.db", clock=clock, policy=policy, limits=limits or ConcurrencyLimits())
    spool = DirectorySpool(root=data / "spool", reserve=0)
    await store.open()
    await spool.open()
    progress = ProgressBoard()
    janitor = Janitor(store=store, spool=spool, clock=clock, settings=JanitorSettings(lease=lease))
    await janitor.prepare()
    sessions = Sessions(
        store=store,
        spool=spool,
        clock=clock,
        progress=progress,
        lease=lease,
        cancel_grace=policy.cancel_grace,
        share_spool=share_spool,
        outbox_limit=outbox_limit,
        look_again=LOOK_AGAIN,
    )
    dispatcher = Dispatcher(store=store, sessions=sessions)
    server = grpc.aio.server(interceptors=[AuthInterceptor(local=LocalToken(TOKEN))])
    worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(WorkerService(sessions), server)
    address = f"unix:{data / 's'}"
    server.add_insecure_port(address)

    async def loops() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(janitor.run())
            group.create_task(sessions.run())
            group.create_task(dispatcher.run())

    background = asyncio.create_task(loops())
    await server.start()
    try:
        yield FleetServer(
            address=address,
            data=data,
            clock=clock,
            store=store,
            spool=spool,
            progress=progress,
            sessions=sessions,
            dispatcher=dispatcher,
        )
    finally:
        await server.stop(grace=0)
        background.cancel()
        with suppress(asyncio.CancelledError):
            await background
        await store.close()
        await spool.close()
