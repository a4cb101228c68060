"""AdminService: figures, fleet, queues, and settling by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc.aio
import structlog

from longshore.server import version
from longshore.server.edge import fields, translate
from longshore.server.edge.auth import principal
from longshore.server.edge.portion import Room, fitting
from longshore.server.engine.servers import ServerFigures
from longshore.server.engine.sessions import WorkerFigures
from longshore.server.model.clock import Clock
from longshore.server.model.errors import InvalidField
from longshore.server.model.task import Session
from longshore.server.model.values import Settlement, State
from longshore.server.store.commands import Bounds, PauseQueue, SettleTask
from longshore.server.store.protocol import Figures, Store, TargetFigures
from longshore.v1 import admin_service_pb2 as pb
from longshore.v1 import admin_service_pb2_grpc as pb_grpc

_log = structlog.get_logger("longshore.admin")

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminEngine:
    """What the service reads and delegates to."""

    store: Store
    clock: Clock
    bounds: Bounds
    spool_limit: Callable[[], int]
    """Bytes allowed in the spool; 0: only the disk bounds it."""
    watches: Callable[[], int]
    credits: Callable[[str], int]
    """Credits of a connected session; 0 for others."""
    drain: Callable[[str], Awaitable[WorkerFigures]]
    """Give a session no more work, and tell it. Raises NotFound."""
    finished: Counter[State]
    """Tasks finished since the start."""
    servers: Callable[[], Awaitable[Sequence[ServerFigures]]] | None = None
    """The servers of a database that several share."""


class AdminService(pb_grpc.AdminServiceServicer):
    """The RPCs of longshore.v1.AdminService."""

    def __init__(self, engine: AdminEngine) -> None:
        self._engine = engine
        self._store = engine.store

    async def GetStats(self, _request: pb.GetStatsRequest, _context: _Context) -> pb.GetStatsResponse:
        figures = await self._store.figures()
        sessions = await self._store.sessions()
        engine = self._engine
        answer = pb.GetStatsResponse(
            spool_bytes=figures.spool_bytes,
            spool_limit=engine.spool_limit(),
            uploads=figures.open_uploads,
            upload_limit=engine.bounds.uploads,
            watches=engine.watches(),
            version=version.VERSION,
            finished={state.name: count for state, count in engine.finished.items()},
        )
        room = Room()
        servers = [_server(one) for one in await engine.servers()] if engine.servers is not None else []
        targets, queues = _targets(figures, sessions), self._queues(figures)
        kinds = sorted(figures.queued_kinds - {kind for session in sessions for kind in session.kinds})
        answer.servers.extend(fitting(servers, room))
        answer.targets.extend(fitting(targets, room))
        answer.queues.extend(fitting(queues, room))
        answer.unserved_kinds.extend(kind for kind in kinds if room.takes(len(kind)))
        known = len(servers) + len(targets) + len(queues) + len(kinds)
        answer.omitted = known - sum(
            len(shown) for shown in (answer.servers, answer.targets, answer.queues, answer.unserved_kinds)
        )
        return answer

    async def ListWorkers(self, request: pb.ListWorkersRequest, _context: _Context) -> pb.ListWorkersResponse:
        after = _place_of(request.page_token) if request.page_token else ("", "")
        sessions = sorted(
            (one for one in await self._store.sessions() if _place(one) > after),
            key=_place,
        )
        shown = fitting((self._worker(session) for session in sessions), Room(), at_least=1)
        more = len(shown) < len(sessions)
        return pb.ListWorkersResponse(
            workers=shown, next_page_token="/".join(_place(sessions[len(shown) - 1])) if more else ""
        )

    async def DrainWorker(self, request: pb.DrainWorkerRequest, _context: _Context) -> pb.DrainWorkerResponse:
        if not request.session_id:
            raise InvalidField("session_id", "is empty; `longshore workers` lists the sessions.")
        figures = await self._engine.drain(request.session_id)
        _did("drain_worker", session_id=request.session_id)
        return pb.DrainWorkerResponse(worker=self._worker(figures.session))

    async def PauseQueue(self, request: pb.PauseQueueRequest, _context: _Context) -> pb.PauseQueueResponse:
        await self._store.run(PauseQueue(queue=_queue(request.queue), paused=True, create=request.create))
        _did("pause_queue", queue=request.queue)
        return pb.PauseQueueResponse()

    async def ResumeQueue(self, request: pb.ResumeQueueRequest, _context: _Context) -> pb.ResumeQueueResponse:
        await self._store.run(PauseQueue(queue=_queue(request.queue), paused=False, create=False))
        _did("resume_queue", queue=request.queue)
        return pb.ResumeQueueResponse()

    async def SettleTask(self, request: pb.SettleTaskRequest, _context: _Context) -> pb.SettleTaskResponse:
        if not request.task_id:
            raise InvalidField("task_id", "is empty; give the id of a SETTLING task.")
        try:
            found = Settlement(request.settlement)
        except ValueError:
            raise InvalidField("settlement", "say what was found: REMOVED, LANDED or NEITHER.") from None
        task = await self._store.run(SettleTask(task_id=request.task_id, settlement=found))
        _did("settle", task_id=task.id, settlement=found.name)
        attempts = await self._store.attempts(task.id, last=translate.ATTEMPTS_SHOWN)
        return pb.SettleTaskResponse(task=translate.task(task, attempts=attempts))

    def _queues(self, figures: Figures) -> list[pb.QueueStats]:
        now = self._engine.clock.now()
        rows = []
        for one in figures.queues:
            row = pb.QueueStats(
                queue=one.queue,
                paused=one.paused,
                live={state.name: count for state, count in one.live.items()},
                limit=self._engine.bounds.queue_tasks,
            )
            if one.oldest_queued is not None:
                row.oldest_queued.CopyFrom(translate.duration(max(0.0, now - one.oldest_queued)))
            rows.append(row)
        return rows

    def _worker(self, session: Session) -> pb.Worker:
        return pb.Worker(
            session_id=session.id,
            name=session.worker,
            epoch=session.epoch,
            connected=session.connected,
            draining=session.draining,
            credits=self._engine.credits(session.id),
            held=len(session.held),
            targets=sorted(session.targets),
            kinds=sorted(session.kinds),
            start_time=translate.timestamp(session.started_at),
            version=session.version,
        )


def _targets(figures: Figures, sessions: Sequence[Session]) -> list[pb.TargetStats]:
    """Targets with tasks, debts or workers."""
    rows = {one.target: one for one in figures.targets if one.target}
    serving = Counter(name for session in sessions for name in session.targets)
    for name in serving:
        rows.setdefault(name, TargetFigures(name, 0, 0, 0, 0))
    return [
        pb.TargetStats(
            target=name,
            workers=serving[name],
            queued=one.queued,
            running=one.running,
            parked=one.parked,
            debts=one.debts,
            problem="" if serving[name] else "no worker serves this target",
        )
        for name, one in sorted(rows.items())
    ]


def _place(session: Session) -> tuple[str, str]:
    """Where a session stands in the list."""
    return session.worker, session.id


def _place_of(token: str) -> tuple[str, str]:
    """The place after which a page begins. Raises InvalidField."""
    worker, slash, session_id = token.partition("/")
    if not slash:
        raise InvalidField("page_token", "was not made by this server; begin again without it.")
    return worker, session_id


def _did(action: str, **fields: object) -> None:
    """Who did what, in the log."""
    _log.info("operator", action=action, principal=principal().name, **fields)


def _server(figures: ServerFigures) -> pb.ServerStats:
    server = figures.server
    row = pb.ServerStats(
        server_id=server.id,
        address=server.address,
        version=server.version,
        spool=server.spool,
        alive=figures.alive,
        files=figures.files,
        problem=figures.problem,
    )
    if figures.unseen is not None:
        row.start_time.CopyFrom(translate.timestamp(server.started_at))
        row.unseen.CopyFrom(translate.duration(figures.unseen))
    return row


def _queue(name: str) -> str:
    if not name:
        raise InvalidField("queue", "is empty; `longshore stats` lists the queues.")
    return fields.name("queue", name)
