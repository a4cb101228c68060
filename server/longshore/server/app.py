"""This module puts one server together: store, spool, engine and edge start in order and stop in the opposite one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from longshore.server import version
from longshore.server.config.advertise import advertised, check_advertised
from longshore.server.config.database_url import make_store, open_store
from longshore.server.config.settings import Settings
from longshore.server.config.spool_url import make_spool, open_spool
from longshore.server.data.datadir import DataDir
from longshore.server.edge.admin_service import AdminEngine, AdminService
from longshore.server.edge.task_service import TaskEngine, TaskService, add_task_service
from longshore.server.edge.worker_service import WorkerService
from longshore.server.engine.dispatch import Dispatcher
from longshore.server.engine.janitor import Janitor, JanitorSettings
from longshore.server.engine.servers import ServerRegistry
from longshore.server.engine.sessions.progress import ProgressBoard
from longshore.server.engine.sessions.sessions import Sessions
from longshore.server.engine.sessions.small_payloads import SmallPayloads
from longshore.server.engine.submissions import Defaults
from longshore.server.engine.target_attempts import TargetAttempts
from longshore.server.engine.uploads.uploads import UploadLimits, Uploads
from longshore.server.engine.wait_reasons import WaitReasons
from longshore.server.engine.watch import WatchHub
from longshore.server.model.clock import Clock
from longshore.server.model.events import Policy
from longshore.server.model.servers import Here
from longshore.server.model.values import State
from longshore.server.process import grpc_options as transport
from longshore.server.process import malloc_trim, openfiles
from longshore.server.process.child import WorkerChild
from longshore.server.process.finished_log import FinishedLog
from longshore.server.process.grpc_server import steadfast_server
from longshore.server.process.health import Health
from longshore.server.process.listeners import Listeners
from longshore.server.spool.protocol import Spool
from longshore.server.store.commands import Bounds
from longshore.server.store.store import SQLStore
from longshore.server.store.transaction.limits import ConcurrencyLimits
from longshore.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    task_service_pb2,
    worker_service_pb2,
    worker_service_pb2_grpc,
)

_log = structlog.get_logger("longshore.server")

LOOK: Final = 5.0
"""Seconds between looks at whether gRPC is still there. gRPC tells at once where it ends in good order."""

_SERVICES: Final = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (task_service_pb2, "TaskService"),
        (worker_service_pb2, "WorkerService"),
        (admin_service_pb2, "AdminService"),
    )
)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that serves. `addresses` are what clients connect to."""

    addresses: tuple[str, ...]
    data_dir: Path
    engine: asyncio.Task[None]
    """The loops behind the services. They end with a defect only, and then there is nothing left to serve."""
    reload: Callable[[], Coroutine[Any, Any, None]]
    """Reads certificates and tokens anew, at once."""


@asynccontextmanager
async def serving(settings: Settings, data: DataDir) -> AsyncIterator[Running]:
    """Serve until the block is left, then drain (P13).

    Raises SettingsError, DataDirError, SchemaMismatch, and LongshoreError where another start may go better.
    """
    listeners = Listeners(settings)
    check_advertised(settings)
    limits, times = settings.limits, settings.times
    store, clock = make_store(
        settings.database,
        data,
        policy=Policy(cancel_grace=times.cancel_grace, retention=times.retention),
        limits=ConcurrencyLimits(instance=limits.instance_tasks, target=limits.target_tasks),
    )
    async with contextlib.AsyncExitStack() as stack:
        await open_store(store, settings.database)
        stack.push_async_callback(store.close)
        spool = await make_spool(settings, data, store)
        stack.push_async_callback(spool.close)
        await open_spool(spool, settings.spool)
        here = Here(secrets.token_hex(8), spool.identity) if settings.database.shared else None
        server = _Server(settings, data, store, spool, clock, listeners, here)
        try:
            await server.start()
        except BaseException:
            await server.abandon()
            raise
        try:
            yield Running(listeners.addresses, data.path, server.engine, listeners.reload)
        finally:
            await server.stop()


class _Server:
    """The engine and the edge of one server."""

    def __init__(
        self,
        settings: Settings,
        data: DataDir,
        store: SQLStore,
        spool: Spool,
        clock: Clock,
        listeners: Listeners,
        here: Here | None,
    ) -> None:
        limits, times = settings.limits, settings.times
        self._settings, self._data, self._clock, self._listeners = settings, data, clock, listeners
        self._store = store
        bounds = Bounds(
            queue_tasks=limits.queue_tasks,
            caller_tasks=limits.caller_tasks or None,
            uploads=limits.uploads,
            caller_uploads=limits.caller_uploads or None,
            spool_bytes=limits.spool_bytes or None,
        )
        defaults = Defaults(
            run_timeout=times.run_timeout, expire_after=times.expire_after, attempt_limit=settings.attempt_limit
        )
        self._here = here
        self._servers = (
            None if here is None else ServerRegistry(store=store, clock=clock, here=here, version=version.VERSION)
        )
        self._finished: Counter[State] = Counter()
        self._finished_log = FinishedLog(store=store, finished=self._finished)
        self._janitor = Janitor(
            store=store,
            spool=spool,
            clock=clock,
            settings=JanitorSettings(
                lease=times.lease,
                upload_idle=times.upload_idle,
                history=times.history,
                alone=not settings.database.shared,
            ),
            here=here,
        )
        self._progress = ProgressBoard()
        self._watches = WatchHub(store=store, progress=self._progress)
        small_payloads = SmallPayloads()
        self._sessions = Sessions(
            store=store,
            spool=spool,
            clock=clock,
            progress=self._progress,
            lease=times.lease,
            cancel_grace=times.cancel_grace,
            share_spool=settings.share_spool,
            servers=self._servers,
            small_payloads=small_payloads,
        )
        self._dispatcher = Dispatcher(store=store, sessions=self._sessions)
        attempts = TargetAttempts(store=store, clock=clock)
        self._sessions.remarks.on_passed(attempts.passed)
        wait_reasons = WaitReasons(
            store=store,
            fleet=self._sessions.fleet,
            clock=clock,
            instance_limit=limits.instance_tasks,
            target_limit=limits.target_tasks,
            emptying=lambda: self._dispatcher.emptying,
        )
        self._uploads = Uploads(
            store=store,
            spool=spool,
            limits=UploadLimits(bounds=bounds, abandon=times.upload_idle),
            defaults=defaults,
            clock=clock,
            free_spool=self._janitor.free_spool,
            expect_tasks=self._dispatcher.expect_tasks,
            here=here,
            small_payloads=small_payloads,
        )
        self._task_service = TaskService(
            TaskEngine(
                store=store,
                uploads=self._uploads,
                wait_reasons=wait_reasons,
                watches=self._watches,
                bounds=bounds,
                defaults=defaults,
            )
        )
        self._admin_service = AdminService(
            AdminEngine(
                store=store,
                clock=clock,
                bounds=bounds,
                spool_limit=lambda: limits.spool_bytes,
                watches=self._watches.statistics,
                credits=self._sessions.credits,
                drain=self._sessions.drain_session,
                finished=self._finished,
                attempts=attempts,
                problems=self._sessions.problems,
                changed=wait_reasons.forget,
                servers=None if self._servers is None else self._servers.figures,
            )
        )
        self._health = Health(store=store, services=_SERVICES)
        self._heap_trimmer = malloc_trim.of_this_process() if settings.tune_malloc else None
        self._connections = openfiles.for_connections(
            openfiles.limit_now(), uploads=limits.uploads, listeners=listeners.count
        )
        self._grpc: grpc.aio.Server | None = None
        self._background: asyncio.Task[None] | None = None
        self._child: WorkerChild | None = None
        self._leaving = False

    @property
    def engine(self) -> asyncio.Task[None]:
        assert self._background is not None, "not started"
        return self._background

    async def start(self) -> None:
        """Prepare, begin the loops, then open the listeners.

        Call `abandon` after an error."""
        await self._janitor.prepare()
        lock = await self._listeners.lock(self._data.token(), self._store, self._clock)
        server = steadfast_server(interceptors=[lock], options=transport.options(connections=self._connections))
        add_task_service(self._task_service, server)
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(WorkerService(self._sessions), server)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(self._admin_service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self._grpc = server
        addresses = self._listeners.open(server)
        if self._servers is not None and self._here is not None:
            # Before anything is taken in: others must be able to find a server, whatever it says of itself elsewhere.
            await self._servers.announce(
                advertised(self._settings, addresses), predecessor=self._data.succeed(self._here.server)
            )
        self._background = asyncio.create_task(self._run_loops(), name="engine")
        await server.start()
        if self._settings.worker:
            self._child = self._worker(self._listeners.for_the_child)
            self._child_task = asyncio.create_task(self._child.run(), name="worker child")
        _log.info(
            "serving",
            address=addresses[0],
            addresses=addresses,
            data_dir=str(self._data.path),
            version=version.VERSION,
            pid=os.getpid(),
        )

    async def _run_loops(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._health.run(), name="health")
            group.create_task(self._health.watch_schema(), name="schema")
            group.create_task(self._janitor.run(), name="janitor")
            group.create_task(self._sessions.run(), name="sessions")
            group.create_task(self._dispatcher.run(), name="dispatch")
            group.create_task(self._uploads.run(), name="uploads")
            if self._servers is not None:
                group.create_task(self._servers.run(), name="servers")
            group.create_task(self._listeners.run(), name="listeners")
            group.create_task(self._served(), name="calls")
            files = openfiles.OpenFiles(limit=openfiles.limit_now(), connections=self._connections)
            group.create_task(files.run(), name="open files")
            if self._heap_trimmer is not None:
                group.create_task(self._heap_trimmer.run(), name="heap trimmer")

    async def _served(self) -> None:
        """Raise an error where gRPC has ended by itself: a process that answers nobody must not stay."""
        assert self._grpc is not None, "not started"
        while await self._grpc.wait_for_termination(timeout=LOOK):
            pass
        if not self._leaving:
            raise RuntimeError("gRPC takes no calls any more.")

    def _worker(self, address: str) -> WorkerChild:
        targets = self._settings.worker_targets or (f"default=directory:{self._data.instances}",)
        if not self._settings.worker_targets:
            self._data.instances.mkdir(mode=0o700, exist_ok=True)
        arguments = ["--server", address, "--concurrency", str(self._settings.worker_concurrency)]
        for target in targets:
            arguments += ["--target", target]
        # These options are given here, because the environment may hold other values for workers of other servers.
        arguments += ["--data-dir", str(self._data.path), "--token-file", str(self._data.token_file)]
        arguments += ["--log-format", self._settings.log_format, "--log-level", self._settings.log_level]
        return WorkerChild(arguments=[*arguments, "--parent-pid", str(os.getpid())], clock=self._clock)

    async def abandon(self) -> None:
        """Let go of what a failed start took."""
        self._leaving = True
        if self._grpc is not None:
            await self._grpc.stop(grace=None)
        await self._end_loops()
        if self._servers is not None:
            await self._servers.leave()

    async def stop(self) -> None:
        """Leave politely: no new work, uploads get the grace, watches and sessions are sent elsewhere."""
        grace = self._settings.times.drain_grace
        _log.info("draining", grace=grace)
        self._leaving = True
        self._health.leave()
        if self._child is not None:
            # The child's attempts report through this server, so it leaves first.
            await asyncio.gather(self._child.stop(grace), self._uploads.drain(grace))
            await self._child_task
        else:
            await self._uploads.drain(grace)
        await self._uploads.close()
        self._watches.drain()
        await self._sessions.drain()
        if self._grpc is not None:
            await self._grpc.stop(grace=1.0)
        await self._end_loops()
        if self._servers is not None:
            await self._servers.leave()
        self._watches.close()
        _log.info("stopped")

    async def _end_loops(self) -> None:
        if self._background is None:
            return
        self._background.cancel()
        await asyncio.wait({self._background})
        if not self._background.cancelled() and (defect := self._background.exception()) is not None:
            _log.error("engine_failed", exc_info=defect)
