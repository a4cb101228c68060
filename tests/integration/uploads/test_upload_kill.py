"""P1, P5: what the server has said to be durable survives its death."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from pathlib import Path

import grpc
import pytest

from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc as pb_grpc
from tests.support.servers.processes import ServerProcess
from tests.support.servers.rawgrpc import MIB, chunk, chunks, crc, finish, header_of, opening

BLOCK = random.Random(0).randbytes(MIB)
SIZE = 96 * MIB
HEADER = header_of(size=SIZE)


class Client:
    """Stubs on a server process."""

    def __init__(self, server: ServerProcess) -> None:
        self.channel = grpc.aio.insecure_channel(server.address)
        self.stub: pb_grpc.TaskServiceStub = pb_grpc.TaskServiceStub(self.channel)
        self.metadata = (("authorization", f"Bearer {server.token}"),)

    async def durable(self) -> int:
        answer = await self.stub.GetUpload(pb.GetUploadRequest(request_id="r1"), metadata=self.metadata)
        return int(answer.upload.offset)

    async def send(self, end: int) -> tuple[int, grpc.aio.StreamUnaryCall[pb.UploadRequest, pb.UploadResponse]]:
        """Header and what is missing up to `end`; answers from where."""
        call = self.stub.Upload(metadata=self.metadata)
        await call.write(opening(HEADER))
        metadata = dict(await call.initial_metadata())
        start = int(str(metadata["longshore-offset"]))
        for offset in range(start, end, MIB):
            await call.write(chunk(offset, BLOCK))
        return start, call


@pytest.mark.faults
async def test_a_checkpoint_survives_kill_9_again_and_again(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        told = 0
        for number, cut in enumerate((40 * MIB, 75 * MIB, SIZE), start=1):
            client = Client(server)
            start, call = await client.send(cut)
            assert start >= told, "what GetUpload has said is still there"
            async with asyncio.timeout(30):
                while told < number * 28 * MIB:  # every 32 MiB, less what is being written then
                    told = await client.durable()
            server.kill()
            with contextlib.suppress(grpc.aio.AioRpcError):
                await call
            await client.channel.close()
            # An object store has the parts of uploads at the same place.
            assert not [one for one in server.leftovers() if "/payloads/" in str(one)]
            server.start()
        client = Client(server)
        start, call = await client.send(SIZE)
        assert start >= told >= 84 * MIB
        whole = BLOCK * (SIZE // MIB)
        await call.write(finish(whole))
        await call.done_writing()
        answer = await call
        await client.channel.close()
        assert len(answer.tasks) == 1
        assert hashlib.sha256(server.spooled()).digest() == hashlib.sha256(whole).digest()


@pytest.mark.cluster("P1")
@pytest.mark.faults
@pytest.mark.parametrize("size", [1000, 200_000], ids=["in the database", "in the spool"])
async def test_an_answer_survives_kill_9(tmp_path: Path, size: int) -> None:
    content = BLOCK[:size]
    with ServerProcess(tmp_path) as server:
        ids = []
        for again in (False, True):
            client = Client(server)
            call = client.stub.Upload(metadata=client.metadata)
            await call.write(opening(header_of()))
            for one in [*chunks(content), finish(content)]:
                await call.write(one)
            await call.done_writing()
            answer = await call
            ids.append([task.id for task in answer.tasks])
            assert (answer.payload.size, answer.payload.crc32c) == (size, crc(content))
            await client.channel.close()
            if not again:
                server.kill()
                server.start()
        assert ids[0] == ids[1]
