"""P3: over a bound is RESOURCE_EXHAUSTED with QuotaFailure and RetryInfo, before any byte for who asks first."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from longshore.server.engine.uploads.uploads import UploadLimits
from longshore.server.store.commands import Bounds, ForgetUploads, RejectUpload
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from tests.support.parts import require_program, require_root
from tests.support.servers.rawgrpc import (
    MIB,
    Refusal,
    Sender,
    TaskServer,
    chunks,
    finish,
    header_of,
    push_spec,
    refusal_of,
    refused,
    told,
    whole,
)
from tests.support.waiting import until

CONTENT = random.Random(0).randbytes(2 * MIB)


def limits(**bounds: Any) -> UploadLimits:
    return UploadLimits(inline_bytes=0, bounds=Bounds(**bounds))


def assert_over(refusal: Refusal, reason: str) -> None:
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
    assert refusal.has(error_details_pb2.QuotaFailure)
    assert refusal.has(error_details_pb2.RetryInfo)
    assert "later" in refusal.message


async def assert_refused_before_bytes(server: TaskServer, header: pb.UploadHeader, reason: str) -> None:
    """By CreateUpload, and by Upload for a client that waits for the go-ahead."""
    before = server.uploads.statistics().bytes_received
    assert_over(await refused(server.create(header)), reason)
    assert_over(await refused(Sender(server, header).begin()), reason)
    assert server.uploads.statistics().bytes_received == before
    assert (await refused(server.get(header.request_id))).reason == "NOT_FOUND"


async def patiently(server: TaskServer, header: pb.UploadHeader, content: bytes) -> pb.UploadResponse:
    """A client with patience: again, with the same id, whenever it is refused for want of room."""
    async with asyncio.timeout(20):
        while True:
            call = server.upload(whole(header, content))
            try:
                answer: pb.UploadResponse = await call
            except grpc.aio.AioRpcError as error:
                if (await told(call, error)).code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                await asyncio.sleep(0.02)
            else:
                return answer


async def test_a_full_queue_refuses_before_bytes(tmp_path: Path) -> None:
    async with TaskServer(tmp_path, limits=limits(queue_tasks=2)) as server:
        first = await server.upload(whole(header_of("r1", spec=push_spec("a", "b")), CONTENT))
        await assert_refused_before_bytes(server, header_of("r2"), "QUEUE_FULL")
        # All or none: a slot for one of two is none.
        other = header_of("r3", spec=push_spec("a", "b", "c", queue="other"))
        await assert_refused_before_bytes(server, other, "QUEUE_FULL")
        # An accepted request is answered all the same, and another queue has room.
        again = await server.upload(whole(header_of("r1", spec=push_spec("a", "b")), CONTENT))
        assert [task.id for task in again.tasks] == [task.id for task in first.tasks]
        await server.upload(whole(header_of("r4", spec=push_spec(queue="other")), CONTENT))
        job = pb.SubmitTaskRequest(spec=task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="resize")))
        assert_over(await refused(server.submit(job)), "QUEUE_FULL")


async def test_room_in_the_queue_is_promised_with_the_header(tmp_path: Path) -> None:
    """Nobody sends a gigabyte only to hear that the queue has filled meanwhile."""
    async with TaskServer(tmp_path, limits=limits(queue_tasks=1)) as server:
        sender = Sender(server, header_of("r1"))
        await sender.begin()
        await assert_refused_before_bytes(server, header_of("r2"), "QUEUE_FULL")
        await sender.send(*chunks(CONTENT), finish(CONTENT))
        assert len((await sender.end()).tasks) == 1


async def test_too_many_uploads_are_refused_and_patience_gets_in(tmp_path: Path) -> None:
    async with TaskServer(tmp_path, limits=limits(uploads=2)) as server:
        open_ones = [Sender(server, header_of(f"r{number}")) for number in range(2)]
        for sender in open_ones:
            await sender.begin()
        await assert_refused_before_bytes(server, header_of("r2"), "TOO_MANY_UPLOADS")
        waiting = asyncio.create_task(patiently(server, header_of("r2"), CONTENT))
        await open_ones[0].send(*chunks(CONTENT), finish(CONTENT))
        await open_ones[0].end()
        assert len((await waiting).tasks) == 1


async def test_a_process_serves_so_many_connections_and_no_more(tmp_path: Path) -> None:
    async with TaskServer(tmp_path, limits=UploadLimits(connections=2)) as server:
        open_ones = [Sender(server, header_of(f"r{number}")) for number in range(2)]
        for sender in open_ones:
            await sender.begin()
        assert_over(await refused(Sender(server, header_of("r2")).begin()), "TOO_MANY_UPLOADS")


async def test_a_caller_has_a_share(tmp_path: Path) -> None:
    async with TaskServer(tmp_path / "a", limits=limits(caller_tasks=1)) as server:
        await server.upload(whole(header_of("r1"), CONTENT))
        await assert_refused_before_bytes(server, header_of("r2"), "CALLER_SHARE")
    async with TaskServer(tmp_path / "b", limits=limits(caller_uploads=1)) as server:
        await server.create(header_of("r1"))
        await assert_refused_before_bytes(server, header_of("r2"), "CALLER_SHARE")


async def test_a_full_spool_refuses_a_declared_size_before_bytes(tmp_path: Path) -> None:
    async with TaskServer(tmp_path, limits=limits(spool_bytes=5 * MIB)) as server:
        await server.upload(whole(header_of("r1", size=len(CONTENT)), CONTENT))
        await assert_refused_before_bytes(server, header_of("r2", size=3 * MIB + 1), "SPOOL_FULL")
        # Room is taken with the header, bytes or not.
        await server.create(header_of("r3", size=2 * MIB))
        await assert_refused_before_bytes(server, header_of("r4", size=2 * MIB), "SPOOL_FULL")
        await server.create(header_of("r5", size=MIB))


async def test_an_upload_of_unknown_size_stops_at_the_bound_and_goes_on_later(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(6 * MIB)
    steps = UploadLimits(inline_bytes=0, reserve_step=MIB, bounds=Bounds(spool_bytes=8 * MIB))
    async with TaskServer(tmp_path, limits=steps) as server:
        blocker = await server.create(header_of("blocker", size=4 * MIB))
        assert_over(await refused(server.upload(whole(header_of("r1"), content))), "SPOOL_FULL")
        await server.idle()
        assert (await server.get("r1")).offset == 4 * MIB
        assert await server.tasks() == []
        await server.store.run(RejectUpload(upload_id=blocker.id, connection=0))
        await server.store.run(ForgetUploads(upload_ids=(blocker.id,)))
        assert len((await patiently(server, header_of("r1"), content)).tasks) == 1
        assert server.sealed[0].read_bytes() == content


# A small disk -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[16])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder on a disk of its own, of so many MiB."""
    require_root()
    mount, umount = require_program("mount", "mount"), require_program("umount", "mount")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run([mount, "-t", "tmpfs", "-o", f"size={request.param}m,mode=700", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run([umount, "-l", str(place)], check=True)


async def test_a_disk_without_room_refuses_before_bytes(small_disk: Path, tmp_path: Path) -> None:
    async with TaskServer(tmp_path / "data", limits=limits(), spool_root=small_disk / "spool") as server:
        await assert_refused_before_bytes(server, header_of("r1", size=17 * MIB), "SPOOL_FULL")
        # Room that is promised to one upload is not promised to another.
        sender = Sender(server, header_of("r2", size=10 * MIB))
        await sender.begin()
        await assert_refused_before_bytes(server, header_of("r3", size=10 * MIB), "SPOOL_FULL")


async def test_a_disk_that_fills_up_on_the_way_costs_no_durable_byte(small_disk: Path, tmp_path: Path) -> None:
    content = random.Random(2).randbytes(10 * MIB)
    async with TaskServer(tmp_path / "data", limits=limits(), spool_root=small_disk / "spool") as server:
        sender = Sender(server, header_of("r1", size=len(content)))
        await sender.begin()
        await sender.send(*chunks(content[: 2 * MIB]))
        await until(lambda: server.uploads.statistics().bytes_received == 2 * MIB)
        filler = small_disk / "somebody else's"
        filler.write_bytes(bytes(10 * MIB))

        async def rest() -> pb.UploadResponse:
            try:
                await sender.send(*chunks(content, start=2 * MIB), finish(content))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass  # refused already: the call says why
            return await sender.end() if not sender.call.done() else await sender.call

        assert_over(await refused(rest()), "SPOOL_FULL")
        await server.idle()
        held = (await server.get("r1")).offset
        assert 2 * MIB <= held < len(content)
        assert await server.tasks() == []
        assert server.sealed == []
        filler.unlink()
        again = Sender(server, header_of("r1", size=len(content)))
        assert await again.begin() == held
        await again.send(*chunks(content, start=held), finish(content))
        assert len((await again.end()).tasks) == 1
        assert server.sealed[0].read_bytes() == content


@pytest.mark.parametrize("small_disk", [48], indirect=True)
async def test_the_reserve_of_the_disk_is_left_to_the_database(small_disk: Path) -> None:
    """Both on one small disk: uploads are refused while the database can still commit. Its log may grow to 16 MiB."""
    steps = UploadLimits(inline_bytes=0, reserve_step=MIB)
    async with TaskServer(small_disk / "data", limits=steps, reserve=32 * MIB) as server:
        stored = 0
        refusal = None
        while refusal is None and stored < 100:
            try:
                await server.upload(whole(header_of(f"r{stored}"), CONTENT))
                stored += 1
            except grpc.aio.AioRpcError as error:
                refusal = refusal_of(error)
        assert refusal is not None
        assert_over(refusal, "SPOOL_FULL")
        assert stored >= 1
        for number in range(400):
            spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="resize"), labels={"n": str(number)})
            await server.submit(pb.SubmitTaskRequest(request_id=f"s{number}", spec=spec))
        assert len(await server.tasks()) == stored + 400
