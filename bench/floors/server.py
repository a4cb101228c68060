"""The floor: a grpc.aio server that does the durable work of a row and nothing else, for our own clients and worker.

    python -m bench.floors.server ADDRESS FOLDER

What is answered is synced: a submission (SubmitTask, SubmitTasks) and an attempt's end are rows of a SQLite file in WAL
mode with full synchronisation, an upload of more than 64 KiB is a file whose CRC32C is right, which is synced once with
its folder, and a row. Rows are committed by a thread, as many at once as are waiting. A task is written once, assigned
if the worker has room, and once more when it is claimed later, cancelled or done.

It asks nobody for a token, keeps no promise about repeated requests, and has one order of tasks, no limits, no retries
and no way to begin again. Every WatchTask tells one task, then waits for ever, with a coroutine for each stream;
GetTask answers with an empty task. Its gRPC options are the defaults. Prints its port when it serves.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import google_crc32c
import grpc
import grpc.aio
import uvloop

from longshore.server.process.malloc import tune_collector, tune_malloc
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import worker_service_pb2 as ws

SMALL: Final = 64 << 10
CHUNK: Final = 0x12
"""The first byte of an UploadRequest with a chunk."""
ADD: Final = "INSERT INTO tasks (id, state, spec, content) VALUES (?, ?, ?, ?)"
SET: Final = "UPDATE tasks SET state = ? WHERE id = ?"
Committed = asyncio.Future[None]
"""Done when it is synced."""
WAITS, RUNS, CANCELS = -1, -2, -3
"""States of live tasks; those of ended ones are outcomes."""


class Journal:
    """Rows, committed by a thread: all that wait in one transaction."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[str, Sequence[Any], Committed]] = deque()
        self._wake = threading.Event()
        self._path = path
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, sql: str, *values: Any) -> Committed:
        future: Committed = self._loop.create_future()
        self._waiting.append((sql, values, future))
        self._wake.set()
        return future

    def _run(self) -> None:
        database = sqlite3.connect(self._path, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 4000"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("CREATE TABLE tasks (id INTEGER PRIMARY KEY, state INTEGER, spec BLOB, content BLOB)")
        while True:
            self._wake.wait()
            self._wake.clear()
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if batch:
                database.execute("BEGIN IMMEDIATE")
                # A row's changes come in later batches than the row.
                for sql in (ADD, SET):
                    database.executemany(sql, [values for each, values, _ in batch if each is sql])
                database.execute("COMMIT")
                self._loop.call_soon_threadsafe(_resolve, [future for _, _, future in batch])


def _resolve(futures: Sequence[Committed]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class Connection:
    """One connected worker: how much more it takes, and what it is yet to be told."""

    def __init__(self) -> None:
        self.room = 0
        self.out = ws.WorkResponse()
        self.wake = asyncio.Event()


class Floor:
    """All services."""

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder / "floor.db")
        self._folder = folder
        self._disk = ThreadPoolExecutor(16)
        self._numbers = 0
        self._ready: deque[ws.Assignment] = deque()
        self._running: dict[str, Connection] = {}
        self._worker = Connection()

    # Submissions and attempts -----------------------------------------------------------------------------------------

    def _add(self, request: pb.SubmitTaskRequest | pb.UploadHeader, content: bytes | str) -> tuple[str, Committed]:
        self._numbers += 1
        name, spec, worker = f"{self._numbers:026d}", request.spec, self._worker
        # Nobody takes a push here.
        job = spec.HasField("job")
        runs = job and worker.room > 0
        row = (self._numbers, RUNS if runs else WAITS, spec.SerializeToString(), content)
        worker.room -= runs
        committed = self._journal.put(ADD, *row)
        if job:
            assignment = ws.Assignment(attempt=1, task=task_pb2.Task(id=name, kind=spec.job.kind, job=spec.job))
            assignment.task.run_timeout.seconds = 3600
            committed.add_done_callback(lambda _: self._assign(assignment) if runs else self._wait(assignment))
        return name, committed

    def _wait(self, assignment: ws.Assignment) -> None:
        self._ready.append(assignment)
        self._claim()

    def _assign(self, assignment: ws.Assignment) -> None:
        self._running[assignment.task.id] = self._worker
        self._worker.out.assignments.append(assignment)
        self._worker.wake.set()

    def _claim(self) -> None:
        """Give waiting tasks to the worker, once each is on record as running."""
        while self._ready and self._worker.room > 0:
            self._worker.room -= 1
            assignment = self._ready.popleft()
            claimed = self._journal.put(SET, RUNS, int(assignment.task.id))
            claimed.add_done_callback(lambda _, one=assignment: self._assign(one))  # type: ignore[misc]

    async def submit(self, request: pb.SubmitTaskRequest, _context: Any) -> pb.SubmitTaskResponse:
        name, committed = self._add(request, request.content)
        await committed
        return pb.SubmitTaskResponse(tasks=[task_pb2.Task(id=name)], task_ids=[name])

    async def submit_many(self, _requests: Any, context: Any) -> AsyncIterator[pb.SubmitTasksResponse]:
        answers, wake, due = pb.SubmitTasksResponse(), asyncio.Event(), 0

        def added(number: int, name: str, _committed: Committed) -> None:
            answers.answers.add(number=number, task_ids=[name])
            wake.set()

        async def read() -> None:
            nonlocal due
            while (message := await context.read()) is not grpc.aio.EOF:
                for one in message.submissions:
                    name, committed = self._add(one.request, one.request.content)
                    committed.add_done_callback(partial(added, one.number, name))
                    due += 1
            wake.set()

        reading = asyncio.create_task(read())
        while due or not reading.done():
            await wake.wait()
            wake.clear()
            if answers.answers:
                answers, said = pb.SubmitTasksResponse(), answers
                due -= len(said.answers)
                yield said

    async def work(self, _requests: Any, context: Any) -> AsyncIterator[ws.WorkResponse]:
        hello, worker = await context.read(), Connection()
        worker.room = hello.credits
        worker.out.welcome.epoch = 1
        worker.out.welcome.lease.seconds = 30
        worker.wake.set()
        self._worker = worker
        self._claim()
        reading = asyncio.create_task(self._read(worker, hello.credits, context))
        while not reading.done():
            await worker.wake.wait()
            worker.wake.clear()
            worker.out, said = ws.WorkResponse(), worker.out
            yield said

    async def _read(self, worker: Connection, credits: int, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            if message.HasField("credits"):
                worker.room += message.credits - credits
                credits = message.credits
                self._claim()
            if message.HasField("heartbeat"):
                worker.out.heartbeat_ack = message.heartbeat.sequence
                worker.wake.set()
            if message.reports:
                ended = [self._journal.put(SET, each.outcome, int(each.attempt.task_id)) for each in message.reports]
                ended[-1].add_done_callback(lambda _, said=message.reports: self._ended(worker, said))  # type: ignore[misc]
        worker.wake.set()

    def _ended(self, worker: Connection, reports: Sequence[ws.Report]) -> None:
        for each in reports:
            worker.out.acks.add(attempt=each.attempt, accepted=True)
            self._running.pop(each.attempt.task_id, None)
        worker.room += len(reports)
        worker.wake.set()
        self._claim()

    async def cancel(self, request: pb.CancelTaskRequest, _context: Any) -> pb.CancelTaskResponse:
        await self._journal.put(SET, CANCELS, int(request.task_id))
        if worker := self._running.get(request.task_id):
            worker.out.cancels.add(attempt=ws.AttemptRef(task_id=request.task_id, attempt=1)).grace.seconds = 10
            worker.wake.set()
        return pb.CancelTaskResponse(task=task_pb2.Task(id=request.task_id))

    # Uploads ----------------------------------------------------------------------------------------------------------

    async def upload(self, _requests: Any, context: Any) -> pb.UploadResponse:
        header = pb.UploadRequest.FromString(await context.read()).header
        self._numbers += 1
        path, loop = self._folder / f"upload-{self._numbers}", asyncio.get_running_loop()
        file, crc, size, content = None, 0, 0, b""
        writing: asyncio.Future[None] | None = None
        while (message := await context.read())[0] == CHUNK:
            data = _data_of(message)
            crc, size = google_crc32c.extend(crc, data), size + len(data)
            if size <= SMALL:
                content += data
                continue
            if file is None:
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                os.write(file, content)
            # The next chunk comes in while this one is written.
            if writing is not None:
                await writing
            writing = loop.run_in_executor(self._disk, _write, file, data)
        finish = pb.UploadRequest.FromString(message).finish
        if (finish.size, finish.crc32c) != (size, crc):
            await context.abort(grpc.StatusCode.DATA_LOSS, "not what was sent")
        if file is not None and writing is not None:
            await writing
            await loop.run_in_executor(self._disk, self._sync, file)
        name, committed = self._add(header, content if file is None else str(path))
        await committed
        return pb.UploadResponse(tasks=[task_pb2.Task(id=name)], task_ids=[name])

    def _sync(self, file: int) -> None:
        os.fdatasync(file)
        os.close(file)
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    # Streams and calls that cost nothing ------------------------------------------------------------------------------

    async def watch(self, request: pb.WatchTaskRequest, _context: Any) -> AsyncIterator[pb.WatchTaskResponse]:
        yield pb.WatchTaskResponse(task=task_pb2.Task(id=request.task_id, revision=1))
        await asyncio.Event().wait()

    async def get(self, _request: pb.GetTaskRequest, _context: Any) -> pb.GetTaskResponse:
        return pb.GetTaskResponse()


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _data_of(message: bytes) -> bytes:
    """The data of a chunk, which comes last. The CRC of the whole covers that of each chunk."""
    at = _after_varint(message, 1)
    return message[_after_varint(message, at + 15) :]  # offset and crc32c with their tags, and the tag of the data


def _after_varint(message: bytes, at: int) -> int:
    while message[at] >= 0x80:
        at += 1
    return at + 1


async def serve(address: str, folder: Path) -> None:
    floor, server = Floor(folder), grpc.aio.server()
    services: dict[str, dict[str, Any]] = {
        "TaskService": {
            "SubmitTask": (grpc.unary_unary_rpc_method_handler, floor.submit, pb.SubmitTaskRequest),
            "SubmitTasks": (grpc.stream_stream_rpc_method_handler, floor.submit_many, pb.SubmitTasksRequest),
            "CancelTask": (grpc.unary_unary_rpc_method_handler, floor.cancel, pb.CancelTaskRequest),
            "Upload": (grpc.stream_unary_rpc_method_handler, floor.upload, None),
            "WatchTask": (grpc.unary_stream_rpc_method_handler, floor.watch, pb.WatchTaskRequest),
            "GetTask": (grpc.unary_unary_rpc_method_handler, floor.get, pb.GetTaskRequest),
        },
        "WorkerService": {"Work": (grpc.stream_stream_rpc_method_handler, floor.work, ws.WorkRequest)},
    }
    for service, methods in services.items():
        handlers: dict[str, Any] = {
            name: make(method, request and request.FromString, lambda message: message.SerializeToString())
            for name, (make, method, request) in methods.items()
        }
        name = f"longshore.v1.{service}"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    port = server.add_insecure_port(address)
    await server.start()
    tune_collector()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    tune_malloc()
    uvloop.run(serve(sys.argv[1], Path(sys.argv[2])))
