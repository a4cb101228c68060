"""A token that is over: refused within seconds, its open streams ended, and nothing lost or doubled by it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from longshore.server.model.access import Role
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc as pb_grpc
from longshore.v1 import worker_service_pb2 as worker_pb
from tests.support.servers.processes import ServerProcess
from tests.support.servers.rawgrpc import MIB, chunk, chunks, finish, header_of, opening, push_spec, whole
from tests.support.servers.tokens import metadata, token_admin_of, token_of
from tests.support.workers.fakeworker import FakeWorker, Stream, reason_of, ref

WITHIN = 5.0
"""Seconds for a revocation to count."""

LARGE = bytes(16 * MIB)
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("revoked"), "--lease", "2s") as process:
        yield process


@pytest.fixture
async def tasks(server: ServerProcess) -> AsyncIterator[pb_grpc.TaskServiceStub]:
    async with grpc.aio.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield pb_grpc.TaskServiceStub(channel)


def header(target: str, **fields: Any) -> pb.UploadHeader:
    spec = push_spec()
    spec.file_push.pushes[0].destination.target = target
    return header_of(f"r{next(_numbers)}", spec=spec, **fields)


async def ended(read: Any) -> tuple[str, float]:
    """The reason of the status that a stream ends with, and when it came."""
    try:
        while await read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return reason_of(error), time.monotonic()
    raise AssertionError("it ended in good order")


async def beating(stream: Stream) -> None:
    for number in itertools.count(1):
        await stream.heartbeat(number)
        await asyncio.sleep(0.5)


async def test_a_revocation_ends_every_stream_of_the_token_and_no_other(
    server: ServerProcess, tasks: pb_grpc.TaskServiceStub
) -> None:
    doomed = token_of(server, "fleet", Role.SUBMIT, Role.WORK)
    spared = token_of(server, "fleet", Role.SUBMIT, Role.WORK)
    mine, others = metadata(doomed), metadata(spared)
    async with FakeWorker(server.address, token=doomed, targets=["revoked"]) as worker:
        done = await tasks.Upload(whole(header("revoked"), LARGE), metadata=mine)
        task = done.tasks[0]
        work = await worker.connect(credits=1)
        assignment = await work.next_assignment()
        heart = asyncio.create_task(beating(work))

        watch = tasks.WatchTask(pb.WatchTaskRequest(task_id=task.id), metadata=mine)
        assert await watch.read()
        spared_watch = tasks.WatchTask(pb.WatchTaskRequest(task_id=task.id), metadata=others)
        assert await spared_watch.read()

        request = worker_pb.DownloadPayloadRequest(
            session_id=worker.session_id, attempt=ref(task.id, assignment.attempt)
        )
        download = worker.stub.DownloadPayload(request, metadata=mine)
        assert await download.read()

        head = header("nobody")
        upload = tasks.Upload(metadata=mine)
        await upload.write(opening(head))
        await upload.initial_metadata()
        await upload.write(chunk(0, LARGE[:MIB]))

        began = time.monotonic()
        assert len(token_admin_of(server).revoke(doomed.split("_")[1]).now) == 1
        (watched, watched_at), worked = await asyncio.gather(ended(watch.read), work.until_ended())
        assert worked is not None
        assert (watched, worked.reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
        assert max(watched_at, time.monotonic()) - began < WITHIN
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await upload
        assert reason_of(cut.value) == "UNAUTHENTICATED"
        assert "revoked" in str(cut.value.details())
        assert time.monotonic() - began < WITHIN
        # One that nobody reads from is told when it is read from again, and long before its end.
        pieces: list[int] = []

        async def read() -> Any:
            piece: Any = await download.read()
            if piece is not grpc.aio.EOF:
                pieces.append(len(piece.data))
            return piece

        assert (await ended(read))[0] == "UNAUTHENTICATED"
        assert sum(pieces) < len(LARGE) // 2
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await tasks.GetTask(pb.GetTaskRequest(task_id=task.id), metadata=mine)
        assert reason_of(refused.value) == "UNAUTHENTICATED"
        heart.cancel()
        await asyncio.wait({heart})

    # The bytes that the upload had brought are kept for a caller with a good token of the same name.
    known = await tasks.GetUpload(pb.GetUploadRequest(request_id=head.request_id), metadata=others)
    assert known.upload.offset == MIB
    again = [opening(head), *chunks(LARGE, start=MIB), finish(LARGE)]
    assert (await tasks.Upload(iter(again), metadata=others)).payload.size == len(LARGE)

    # The attempt is lost with its session's lease, and the next worker has the task; nothing happened twice.
    async with FakeWorker(server.address, token=spared, targets=["revoked"]) as heir:
        stream = await heir.connect(credits=1)
        heart = asyncio.create_task(beating(stream))
        second = await stream.next_assignment(within=15)
        heart.cancel()
        await asyncio.wait({heart})
        assert (second.task.id, second.attempt) == (task.id, assignment.attempt + 1)
        assert (await stream.ask_grant(second, temp="/srv/.temp")).granted
        assert (await stream.report(second)).accepted
    states: list[int] = []
    message: Any
    while (message := await spared_watch.read()) is not grpc.aio.EOF:
        if message.HasField("task"):
            states.append(message.task.state)
    assert states[-1] == task_pb2.TASK_STATE_SUCCEEDED
    listed = await tasks.ListAttempts(pb.ListAttemptsRequest(task_id=task.id), metadata=others)
    assert [one.number for one in listed.attempts] == [1, 2]


async def test_an_expiry_ends_a_watch(server: ServerProcess, tasks: pb_grpc.TaskServiceStub) -> None:
    token = token_of(server, "brief", Role.SUBMIT, expires=2.0)
    answer = await tasks.Upload(whole(header("nobody"), b"x"), metadata=metadata(token))
    watch = tasks.WatchTask(pb.WatchTaskRequest(task_id=answer.tasks[0].id), metadata=metadata(token))
    reason, _ = await ended(watch.read)
    assert reason == "UNAUTHENTICATED"
    with pytest.raises(grpc.aio.AioRpcError, match="expired"):
        await tasks.ListTasks(pb.ListTasksRequest(), metadata=metadata(token))


async def test_a_flood_of_wrong_tokens_fills_no_log(server: ServerProcess, tasks: pb_grpc.TaskServiceStub) -> None:
    before = len(server.log())
    guesses = [f"ls_{number:016x}_{'g' * 43}" for number in range(300)]

    async def guess(token: str) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await tasks.ListTasks(pb.ListTasksRequest(), metadata=metadata(token))
        return reason_of(refused.value)

    assert set(await asyncio.gather(*map(guess, guesses))) == {"UNAUTHENTICATED"}
    written = server.log()[before:]
    assert written.count("calls_refused") <= 1
    assert "g" * 43 not in written


async def test_streams_of_submissions_end_with_their_token(
    server: ServerProcess, tasks: pb_grpc.TaskServiceStub
) -> None:
    """A busy one and an idle one, each after the answers to what it had taken; nothing is taken afterwards."""
    doomed = metadata(token := token_of(server, "many", Role.SUBMIT))
    spared = metadata(token_of(server, "many", Role.SUBMIT))
    spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="nobodys", target="revoked-many"))
    numbers = itertools.count(1)

    def some() -> Iterator[pb.SubmitTasksRequest]:
        for number in numbers:
            request = pb.SubmitTaskRequest(request_id=f"many-{number}", spec=spec)
            yield pb.SubmitTasksRequest(submissions=[pb.Submission(number=number, request=request)])

    idle: Any = tasks.SubmitTasks(metadata=doomed)
    await idle.write(next(some()))
    assert (await idle.read()).answers[0].task_ids
    busy = tasks.SubmitTasks(some(), metadata=doomed)
    answers: dict[int, pb.SubmissionAnswer] = {}

    async def read() -> Any:
        message: Any = await busy.read()
        if message is not grpc.aio.EOF:
            answers.update({answer.number: answer for answer in message.answers})
        return message

    while len(answers) < 100:
        assert await read() is not grpc.aio.EOF
    began = time.monotonic()
    assert len(token_admin_of(server).revoke(token.split("_")[1]).now) == 1
    (one, _), (other, _) = await asyncio.gather(ended(read), ended(idle.read))
    # A write that meets the end makes an INTERNAL without details of it, in grpc.aio's client; ours asks again.
    assert one in {"UNAUTHENTICATED", ""}
    assert other == "UNAUTHENTICATED"
    assert time.monotonic() - began < WITHIN
    accepted = {number for number, answer in answers.items() if answer.task_ids}
    assert {answer.reason for answer in answers.values()} <= {"", "UNAUTHENTICATED"}
    # Answered submissions have their tasks; one that came without a good token makes no task after the end.
    again: Any = tasks.SubmitTasks(metadata=spared)
    request = pb.SubmitTaskRequest(request_id=f"many-{min(accepted)}", spec=spec)
    await again.write(pb.SubmitTasksRequest(submissions=[pb.Submission(number=1, request=request)]))
    assert (await again.read()).answers[0].task_ids == answers[min(accepted)].task_ids
    await again.done_writing()
    assert await again.read() is grpc.aio.EOF
