"""Payloads for the attempt that needs them, and for nobody else."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import grpc
import pytest

from longshore.server.engine.sessions import downloads as session_downloads
from longshore.server.engine.sessions.downloads import PIECE
from longshore.v1 import worker_service_pb2 as pb
from tests.support.servers.fleetserver import FleetServer, fleet_server
from tests.support.workers.fakeworker import FakeWorker, SessionRefused

LARGE = random.Random(7).randbytes(3 * PIECE + 12_345)
SMALL = b"one line\n"


@pytest.mark.parametrize(
    ("content", "inline"),
    [
        pytest.param(LARGE, False, id="large"),
        pytest.param(SMALL, False, id="small-spooled"),
        pytest.param(SMALL, True, id="inline"),
    ],
)
async def test_whole_and_from_any_offset(server: FleetServer, worker: FakeWorker, content: bytes, inline: bool) -> None:
    stream = await worker.connect(credits=1)
    task = await server.upload(content, inline=inline)
    assignment = await stream.next_assignment()
    assert assignment.task.payload.size == len(content)
    assert assignment.payload_path == ""
    assert await worker.download(task.id, 1) == content
    for offset in (1, len(content) // 2, len(content) - 1, len(content)):
        assert await worker.download(task.id, 1, offset=offset) == content[offset:]
    with pytest.raises(SessionRefused) as refused:
        await worker.download(task.id, 1, offset=len(content) + 1)
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_BEYOND_END")


async def test_no_other_session_can_download_the_payload(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    task = await server.upload(LARGE)
    assignment = await stream.next_assignment()
    async with server.worker() as stranger:
        await stranger.connect()
        for session_id, attempt in ((stranger.session_id, 1), (worker.session_id, 2), ("no-such-session-id", 1)):
            with pytest.raises(SessionRefused) as refused:
                await stranger.download(task.id, attempt, session_id=session_id)
            assert (refused.value.code, refused.value.reason) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "NOT_YOUR_ATTEMPT",
            )
    with pytest.raises(SessionRefused) as refused:
        await worker.download("no-such-task", 1)
    assert refused.value.reason == "NOT_YOUR_ATTEMPT"
    await stream.report(assignment, pb.OUTCOME_PERMANENT, reason="NO_SPACE")
    with pytest.raises(SessionRefused) as refused:
        await worker.download(task.id, 1)
    assert refused.value.reason == "NOT_YOUR_ATTEMPT"


async def test_a_disconnected_session_may_go_on_with_its_download(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    task = await server.upload(LARGE)
    await stream.next_assignment()
    await stream.cut()
    assert await worker.download(task.id, 1, offset=PIECE) == LARGE[PIECE:]


async def test_a_lost_attempt_gets_no_more_bytes_in_the_middle_of_a_download(
    server: FleetServer, worker: FakeWorker
) -> None:
    stream = await worker.connect(credits=1)
    task = await server.upload(LARGE * 16)
    assignment = await stream.next_assignment()
    request = pb.DownloadPayloadRequest(session_id=worker.session_id, attempt=pb.AttemptRef(task_id=task.id, attempt=1))
    call = worker.stub.DownloadPayload(request, metadata=worker.metadata)
    first = await call.read()
    assert isinstance(first, pb.DownloadPayloadResponse)
    await stream.report(assignment, pb.OUTCOME_PERMANENT, reason="NO_SPACE")
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await read_all(call)
    assert ended.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def read_all(call: grpc.aio.UnaryStreamCall[pb.DownloadPayloadRequest, pb.DownloadPayloadResponse]) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_damaged_spool_is_reported(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=2)
    task = await server.upload(LARGE)
    await stream.next_assignment()
    assert task.submission.payload is not None
    path = server.spool.path(task.submission.payload)
    assert path is not None
    path.write_bytes(LARGE[:-1])
    with pytest.raises(SessionRefused) as refused:
        await worker.download(task.id, 1)
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.DATA_LOSS, "SPOOL_DAMAGED")
    path.unlink()
    with pytest.raises(SessionRefused) as refused:
        await worker.download(task.id, 1)
    assert refused.value.reason == "SPOOL_DAMAGED"


async def test_a_job_without_bytes_has_nothing_to_download(server: FleetServer, worker: FakeWorker) -> None:
    stream = await worker.connect(credits=1)
    (task,) = await server.submit()
    await stream.next_assignment()
    with pytest.raises(SessionRefused) as refused:
        await worker.download(task.id, 1)
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.NOT_FOUND, "PAYLOAD_GONE")


async def test_a_worker_on_the_same_machine_is_told_where_the_bytes_lie(tmp_path: Path) -> None:
    async with fleet_server(tmp_path, share_spool=True) as server, server.worker() as worker:
        stream = await worker.connect(credits=2)
        await server.upload(LARGE)
        assignment = await stream.next_assignment()
        assert await asyncio.to_thread(Path(assignment.payload_path).read_bytes) == LARGE
        await server.upload(SMALL, "/etc/other", inline=True)
        assert (await stream.next_assignment()).payload_path == ""


async def test_a_download_goes_on_while_the_session_moves_and_ends_when_the_attempt_is_lost(
    server: FleetServer, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_downloads, "ASK_AGAIN", 0.0)
    stream = await worker.connect(credits=1)
    task = await server.upload(LARGE * 32)
    await stream.next_assignment()
    request = pb.DownloadPayloadRequest(session_id=worker.session_id, attempt=pb.AttemptRef(task_id=task.id, attempt=1))
    calls = [worker.stub.DownloadPayload(request, metadata=worker.metadata) for _ in range(2)]
    for call in calls:
        assert isinstance(await call.read(), pb.DownloadPayloadResponse)
    await stream.cut()
    await server.until(lambda: _disconnected(server, worker))
    await read_all(calls[0])
    # It connects again and knows nothing of the attempt, which is lost by that.
    await worker.connect(held=[])
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await read_all(calls[1])
    assert ended.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def _disconnected(server: FleetServer, worker: FakeWorker) -> bool:
    return server.sessions.fleet.connection(worker.session_id) is None
