"""P13: SIGTERM. NOT_SERVING, a grace and then a checkpoint for uploads, GoAway for watches and sessions."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from longshore.client.servers.endpoint import SCALING
from longshore.v1 import task_pb2, task_service_pb2_grpc, worker_service_pb2_grpc
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import worker_service_pb2 as work
from tests.support.servers.processes import ServerProcess
from tests.support.servers.rawgrpc import MIB, chunk, chunks, finish, header_of, opening

CONTENT = os.urandom(3 * MIB)
PATIENCE = 20.0


class Guest:
    """A connection to the server with bare stubs."""

    def __init__(self, server: ServerProcess, channel: grpc.aio.Channel) -> None:
        self.metadata = (("authorization", f"Bearer {server.token}"),)
        self.tasks = task_service_pb2_grpc.TaskServiceStub(channel)
        self.work = worker_service_pb2_grpc.WorkerServiceStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)

    async def begin(self, request_id: str) -> Any:
        """An upload with its first MiB sent."""
        call: Any = self.tasks.Upload(metadata=self.metadata)
        await call.write(opening(header_of(request_id, size=len(CONTENT))))
        await call.initial_metadata()
        await call.write(chunk(0, CONTENT[:MIB]))
        return call

    async def job(self) -> str:
        spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="nobodys"))
        answer = await self.tasks.SubmitTask(pb.SubmitTaskRequest(spec=spec), metadata=self.metadata)
        return answer.tasks[0].id


@contextlib.asynccontextmanager
async def visiting(server: ServerProcess) -> AsyncIterator[Guest]:
    # A connection takes a thousand calls at once, and so a channel opens further ones.
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.service_config", SCALING))
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        yield Guest(server, channel)


async def ended(server: ServerProcess, *, within: float = PATIENCE) -> int:
    return await asyncio.to_thread(server.process.wait, within)


async def reason(call: Any) -> tuple[grpc.StatusCode, str, bool]:
    """Return how a call was refused: code, reason, and whether it says when to come back."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    error: Any = refused.value
    status = rpc_status.from_call(error)
    assert status is not None, error
    info, retry, comes_back = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), False
    for detail in status.details:
        detail.Unpack(info)
        comes_back |= detail.Unpack(retry)
    return error.code(), info.reason, comes_back


async def not_serving(guest: Guest) -> None:
    """Wait until health says so: it tells each change to whoever watches it."""
    async with asyncio.timeout(PATIENCE):
        async for answer in guest.health.Watch(health_pb2.HealthCheckRequest()):
            if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                return


async def test_an_upload_may_finish_in_the_grace_and_nothing_new_begins(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        async with visiting(server) as guest:
            call = await guest.begin("under-way")
            server.process.terminate()
            await not_serving(guest)
            draining = (grpc.StatusCode.UNAVAILABLE, "DRAINING", True)
            late: Any = guest.tasks.CreateUpload(
                pb.CreateUploadRequest(header=header_of("late")), metadata=guest.metadata
            )
            assert await reason(late) == draining
            spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="nobodys"))
            late = guest.tasks.SubmitTask(pb.SubmitTaskRequest(spec=spec), metadata=guest.metadata)
            assert await reason(late) == draining
            for message in (*chunks(CONTENT, start=MIB), finish(CONTENT)):
                await call.write(message)
            await call.done_writing()
            task = (await call).tasks[0]
        assert await ended(server) == 0
        server.start()
        async with visiting(server) as guest:
            answer = await guest.tasks.GetTask(pb.GetTaskRequest(task_id=task.id), metadata=guest.metadata)
            assert answer.task.state == task_pb2.TASK_STATE_QUEUED


@pytest.mark.cluster("P5", "P13")
async def test_after_the_grace_an_upload_is_kept_for_its_resume(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--drain-grace", "1s") as server:
        async with visiting(server) as guest:
            call = await guest.begin("cut")
            server.process.terminate()
            assert await reason(call) == (grpc.StatusCode.UNAVAILABLE, "DRAINING", True)
        assert await ended(server) == 0
        server.start()
        async with visiting(server) as guest:
            held = await guest.tasks.GetUpload(pb.GetUploadRequest(request_id="cut"), metadata=guest.metadata)
            assert (held.upload.offset, held.upload.complete, held.upload.active) == (MIB, False, False)
            call = guest.tasks.Upload(metadata=guest.metadata)
            header = header_of("cut", size=len(CONTENT))
            for message in (opening(header), *chunks(CONTENT, start=MIB), finish(CONTENT)):
                await call.write(message)
            await call.done_writing()
            assert len((await call).tasks) == 1
        assert not [one for one in server.leftovers() if "/uploads/" in str(one)]


async def test_watches_are_sent_away_and_continue_at_the_next_server(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        async with visiting(server) as guest:
            task_id = await guest.job()
            call: Any = guest.tasks.WatchTask(pb.WatchTaskRequest(task_id=task_id), metadata=guest.metadata)
            seen = (await call.read()).task.revision
            server.process.terminate()
            assert (await call.read()).go_away.reason == "DRAINING"
            with contextlib.suppress(grpc.aio.AioRpcError):
                assert await call.read() is grpc.aio.EOF
        assert await ended(server) == 0
        server.start()
        async with visiting(server) as guest:
            request = pb.WatchTaskRequest(task_id=task_id, after_revision=seen)
            call = guest.tasks.WatchTask(request, metadata=guest.metadata)
            await guest.tasks.CancelTask(pb.CancelTaskRequest(task_id=task_id), metadata=guest.metadata)
            assert (await call.read()).task.revision == seen + 1
            assert await call.read() is grpc.aio.EOF


@pytest.mark.cluster("P13")
async def test_a_session_is_told_to_go_and_keeps_its_attempt(tmp_path: Path) -> None:
    hello = work.Hello(
        protocol_version=1, session_id="a-worker-of-tests", worker="w", kinds=[work.ServedKind(name="nobodys")]
    )
    with ServerProcess(tmp_path, "--lease", "10s") as server:
        async with visiting(server) as guest:
            call: Any = guest.work.Work(metadata=guest.metadata)
            await call.write(work.WorkRequest(hello=hello, credits=1))
            await guest.job()
            assigned: list[work.Assignment] = []
            while not assigned:
                assigned += (await call.read()).assignments
            held = work.AttemptRef(task_id=assigned[0].task.id, attempt=assigned[0].attempt)
            server.process.terminate()
            while not (said := await call.read()).HasField("go_away"):
                pass
            assert said.go_away.reason == "DRAINING"
            assert not said.revocations
        assert await ended(server) == 0
        server.start()
        async with visiting(server) as guest:
            call = guest.work.Work(metadata=guest.metadata)
            hello.held.append(held)
            report = work.Report(attempt=held, outcome=work.OUTCOME_OK)
            await call.write(work.WorkRequest(hello=hello, credits=1, reports=[report]))
            welcome = (await call.read()).welcome
            assert list(welcome.held) == [held]
            request = pb.WatchTaskRequest(task_id=held.task_id)
            watch: Any = guest.tasks.WatchTask(request, metadata=guest.metadata)
            states = [update.task.state async for update in watch if update.HasField("task")]
            assert states[-1] == task_pb2.TASK_STATE_SUCCEEDED
            answer = await guest.tasks.ListAttempts(
                pb.ListAttemptsRequest(task_id=held.task_id), metadata=guest.metadata
            )
            assert [(one.number, one.outcome) for one in answer.attempts] == [(1, "OK")]
            call.cancel()


async def test_a_second_signal_ends_the_drain(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--drain-grace", "1h") as server:
        async with visiting(server) as guest:
            call = await guest.begin("patient")
            server.process.terminate()
            await not_serving(guest)
            # A second signal within a second is taken for the first one's echo.
            async with asyncio.timeout(PATIENCE):
                while server.running:
                    server.process.terminate()
                    await asyncio.sleep(0.1)
            call.cancel()
        assert server.process.returncode == 1
        server.start()
        async with visiting(server) as guest:
            held = await guest.tasks.GetUpload(pb.GetUploadRequest(request_id="patient"), metadata=guest.metadata)
            assert not held.upload.complete


async def test_two_thousand_watches_that_come_at_once_are_all_served(tmp_path: Path) -> None:
    """As they do after a restart, on three connections, since one takes a thousand calls. By default gRPC ends some of
    more than a thousand waiting calls, without a word."""
    with ServerProcess(tmp_path) as server:
        async with visiting(server) as guest, visiting(server) as second, visiting(server) as third:
            task_id = await guest.job()
            request = pb.WatchTaskRequest(task_id=task_id)
            guests = (guest, second, third)
            calls: list[Any] = [
                guests[number % 3].tasks.WatchTask(request, metadata=guest.metadata) for number in range(2000)
            ]
            async with asyncio.timeout(60):
                assert {(await call.read()).task.revision for call in calls} == {1}
                await guest.tasks.CancelTask(pb.CancelTaskRequest(task_id=task_id), metadata=guest.metadata)
                assert {(await call.read()).task.revision for call in calls} == {2}
                assert all([await call.read() is grpc.aio.EOF for call in calls])
