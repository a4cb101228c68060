"""Servers on one PostgreSQL whose payloads are in an object store, or in a directory that all of them reach: an upload
goes on at another server from its last checkpoint, whatever became of the one before."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from longshore.client import push_spec
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc as pb_grpc
from tests.support.servers.cluster import FleetObjectSpool, FolderSpool, ServerFleet, fleet_of
from tests.support.servers.processes import ServerProcess, eventually
from tests.support.servers.rawgrpc import MIB, chunk, finish, header_of, opening
from tests.support.stores import s3
from tests.support.stores.postgres import Cluster

SIZE = 40 * MIB
CHECKPOINT = 32 * MIB
DATA = random.Random(9).randbytes(SIZE)
OPTIONS = ("--no-share-spool", "--lease", "2s")


@pytest.fixture(params=["object store", "shared directory"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path, postgres: Cluster) -> Iterator[ServerFleet]:
    """Two servers on one spool."""
    if request.param == "object store":
        spool: FleetObjectSpool | FolderSpool = FleetObjectSpool(request.getfixturevalue("object_store").fresh_url())
    else:
        spool = FolderSpool(tmp_path / "spool")
    with fleet_of(tmp_path, postgres, *OPTIONS, spool=spool) as fleet:
        yield fleet
        assert fleet.discrepancies() == []


class Sender:
    """One connection that sends the upload, chunk by chunk."""

    def __init__(self, server: ServerProcess) -> None:
        self._channel = grpc.aio.insecure_channel(server.address)
        self._stub: pb_grpc.TaskServiceStub = pb_grpc.TaskServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {server.token}"),)
        self._call: grpc.aio.StreamUnaryCall[pb.UploadRequest, pb.UploadResponse] = self._stub.Upload(
            metadata=self._metadata
        )

    async def begin(self, *, take_over: bool = False) -> int:
        """Answers with the byte that is wanted first."""
        header = header_of(size=SIZE, spec=push_spec("web/etc/motd"), take_over=take_over)
        await self._call.write(opening(header))
        return int(str(dict(await self._call.initial_metadata())["longshore-offset"]))

    async def send(self, start: int, end: int) -> None:
        for offset in range(start, end, MIB):
            await self._call.write(chunk(offset, DATA[offset : min(offset + MIB, end)]))

    async def finish(self) -> str:
        """The id of the upload's task."""
        await self._call.write(finish(DATA))
        await self._call.done_writing()
        return (await self._call).tasks[0].id

    async def durable(self) -> int:
        answer = await self._stub.GetUpload(pb.GetUploadRequest(request_id="r1"), metadata=self._metadata)
        return int(answer.upload.offset)

    async def close(self) -> None:
        await self._channel.close()


async def checkpointed(sender: Sender) -> int:
    """Send until one checkpoint is committed; answers where it is."""
    start = await sender.begin()
    assert start == 0
    await sender.send(0, 36 * MIB)
    async with asyncio.timeout(30):
        while (durable := await sender.durable()) < CHECKPOINT - 4 * MIB:
            pass
    return durable


def delivered(fleet: ServerFleet, task_id: str) -> None:
    """It is delivered whole, and nothing is left of it."""
    with fleet.worker(at=[1]):
        fleet[1].reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
    found = (fleet.instances / "web" / "etc" / "motd").read_bytes()
    assert hashlib.sha256(found).digest() == hashlib.sha256(DATA).digest()
    eventually(lambda: not fleet.leftovers(), what="nothing is left but the identity")


@pytest.mark.faults
async def test_an_upload_goes_on_at_another_server_after_kill_9(fleet: ServerFleet) -> None:
    first = Sender(fleet.servers[0])
    durable = await checkpointed(first)
    fleet.servers[0].kill()
    await first.close()
    second = Sender(fleet.servers[1])
    start = await second.begin(take_over=True)
    assert SIZE - start <= SIZE - durable <= 12 * MIB, "what was durable is not sent again"
    await second.send(start, SIZE)
    task_id = await second.finish()
    await second.close()
    await asyncio.to_thread(delivered, fleet, task_id)


@pytest.mark.faults
async def test_a_paused_server_harms_nothing_when_it_resumes(fleet: ServerFleet) -> None:
    first = Sender(fleet.servers[0])
    durable = await checkpointed(first)
    fleet.servers[0].stop()
    eventually(fleet.servers[0].stopped)
    second = Sender(fleet.servers[1])
    start = await second.begin(take_over=True)
    assert start >= durable
    await second.send(start, SIZE)
    task_id = await second.finish()
    await second.close()
    fleet.servers[0].resume()
    with contextlib.suppress(grpc.aio.AioRpcError):
        # The same task, or a refusal: another connection has finished it.
        await first.send(36 * MIB, SIZE)
        assert await first.finish() == task_id
    await first.close()
    await asyncio.to_thread(delivered, fleet, task_id)


async def test_sixteen_uploads_at_once_stay_below_250_mib(
    tmp_path: Path, s3_spool_url: str, record_property: Callable[..., None]
) -> None:
    """As many bytes in one go as would not fit: segments wait on the disk, not in memory."""
    with ServerProcess(tmp_path, "--spool", s3_spool_url) as server:

        async def upload(number: int) -> None:
            async with grpc.aio.insecure_channel(server.address) as channel:
                stub: pb_grpc.TaskServiceStub = pb_grpc.TaskServiceStub(channel)
                call = stub.Upload(metadata=(("authorization", f"Bearer {server.token}"),))
                await call.write(opening(header_of(f"r{number}", spec=push_spec(f"web/etc/{number}"))))
                for offset in range(0, 16 * MIB, MIB):
                    await call.write(chunk(offset, DATA[offset : offset + MIB]))
                await call.write(finish(DATA[: 16 * MIB]))
                await call.done_writing()
                await call

        async with asyncio.TaskGroup() as group:
            for number in range(16):
                group.create_task(upload(number))
        peak = server.resident(peak=True)
    record_property("server_peak_mib", peak // MIB)
    assert peak <= 250 * MIB, f"{peak / MIB:.0f} MiB"
    assert len(s3.leftovers(s3_spool_url)) == 16 * 2
