"""P5 across servers: an upload that another server is being sent is left alone, taken over, or continued."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from longshore.client.servers.ending import CallEnding
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc as pb_grpc
from tests.support.servers.cluster import OwnSpools, ServerFleet, fleet_of
from tests.support.servers.processes import ServerProcess, eventually
from tests.support.servers.rawgrpc import (
    MIB,
    UploadCall,
    chunks,
    crc,
    finish,
    header_of,
    push_spec,
    refusal_of,
    refused,
)
from tests.support.stores.postgres import Cluster
from tests.support.waiting import until

CONTENT = random.Random(5).randbytes(3 * MIB + 7)
OTHER = random.Random(6).randbytes(len(CONTENT))
OPTIONS = ("--no-share-spool", "--lease", "2s")


class Sender(UploadCall):
    """An upload sent to a server process by hand."""

    def __init__(self, stub: pb_grpc.TaskServiceStub, token: str, header: pb.UploadHeader) -> None:
        self.stub = stub
        self.metadata = (("authorization", f"Bearer {token}"),)
        super().__init__(stub.Upload(metadata=self.metadata), header)

    async def rest(self, content: bytes, *, start: int) -> pb.UploadResponse:
        """Send the chunks from `start` on, and the finish."""
        await self.send(*chunks(content, start=start), finish(content))
        return await self.end()

    async def seen(self) -> pb.Upload:
        """Return the upload as the server tells it."""
        request = pb.GetUploadRequest(request_id=self.header.request_id)
        return (await self.stub.GetUpload(request, metadata=self.metadata)).upload

    async def kept(self, offset: int) -> None:
        """Wait until so much is durable, and nobody is taken to be sending."""
        for _ in range(1000):
            upload = await self.seen()
            if not upload.active:
                assert upload.offset == offset
                return
        raise AssertionError("the server never let go of it")


@asynccontextmanager
async def sender(server: ServerProcess, *, request_id: str = "r1", **fields: object) -> AsyncIterator[Sender]:
    header = header_of(request_id, spec=push_spec("web", path="/etc/motd"), **fields)
    async with grpc.aio.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Sender(pb_grpc.TaskServiceStub(channel), server.token, header)


@pytest.fixture
def apart(tmp_path: Path, postgres: Cluster) -> Iterator[ServerFleet]:
    """Two servers, each with a spool of its own."""
    with fleet_of(tmp_path, postgres, *OPTIONS, spool=OwnSpools()) as fleet:
        yield fleet
        assert fleet.discrepancies() == []


@pytest.fixture
def sharing(tmp_path: Path, postgres: Cluster) -> Iterator[ServerFleet]:
    """Two servers that share a directory."""
    with fleet_of(tmp_path, postgres, *OPTIONS) as fleet:
        yield fleet
        assert fleet.discrepancies() == []


async def delivered(fleet: ServerFleet, content: bytes) -> None:
    with fleet.worker():
        (task,) = fleet[0].client.list()
        fleet[0].reaches(task.id, task_pb2.TASK_STATE_SUCCEEDED)
        assert (fleet.instances / "web/etc/motd").read_bytes() == content
        eventually(lambda: fleet.rows("SELECT * FROM homes") == [], what="no home is left")


@pytest.mark.parametrize("declared", [True, False], ids=["size declared", "size unknown"])
async def test_an_upload_resumes_on_a_shared_spool_at_another_server(sharing: ServerFleet, declared: bool) -> None:
    size: dict[str, Any] = {"size": len(CONTENT)} if declared else {}
    async with sender(sharing.servers[0], **size) as first, sender(sharing.servers[1], **size) as second:
        assert await first.begin() == 0
        await first.send(*chunks(CONTENT[: 2 * MIB]))
        await refused(first.end())
        await second.kept(2 * MIB)
        assert await second.begin() == 2 * MIB
        await second.rest(CONTENT, start=2 * MIB)
        done = await first.seen()
        assert (done.complete, done.crc32c) == (True, crc(CONTENT))
    await delivered(sharing, CONTENT)
    eventually(lambda: sharing.leftovers() == [], what="nothing is left in the spool")


async def test_an_upload_restarts_in_another_spool_and_the_first_file_is_swept(apart: ServerFleet) -> None:
    async with sender(apart.servers[0]) as first, sender(apart.servers[1]) as second:
        assert await first.begin() == 0
        await first.send(*chunks(CONTENT[: 2 * MIB]))
        await refused(first.end())
        await first.kept(2 * MIB)
        assert (await second.seen()).offset == 0, "where it would go on there"
        assert await second.begin() == 0
        await second.rest(CONTENT, start=0)
    await delivered(apart, CONTENT)
    assert apart.servers[1].leftovers() == []
    (stray,) = apart.servers[0].leftovers()
    assert stray.stat().st_size == 2 * MIB
    apart.servers[0].kill()
    os.utime(stray, (0, 0))  # it has lain there for more than a day
    apart.servers[0].start()

    def moved() -> bool:
        return [one.parent.name for one in apart.servers[0].leftovers()] == ["trash"]

    eventually(moved, what="the stray is in the trash")


async def test_an_upload_has_one_receiving_server_at_a_time(apart: ServerFleet) -> None:
    async with sender(apart.servers[0]) as first, sender(apart.servers[1]) as second:
        assert await first.begin() == 0
        await first.send(*chunks(CONTENT[: 2 * MIB]))
        refusal = await refused(second.begin())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "UPLOAD_IN_PROGRESS")
        await first.rest(CONTENT, start=2 * MIB)
    await delivered(apart, CONTENT)


async def test_a_returning_server_gives_up_uploads_that_moved(apart: ServerFleet) -> None:
    """No connection of the killed process can be alive, so nobody waits until it counts as dead (30 s)."""
    server = apart.servers[0]
    async with sender(server) as cut:
        assert await cut.begin() == 0
        await cut.send(*chunks(CONTENT[: 2 * MIB]))
        eventually(lambda: apart.rows("SELECT 1 FROM homes WHERE sender <> ''"), what="the upload has a file")
        server.kill()
    server.start()
    async with sender(server) as resumed:
        await resumed.rest(CONTENT, start=await resumed.begin())
    await delivered(apart, CONTENT)


@pytest.mark.parametrize("length", [len(CONTENT), 1000], ids=["with a file", "still in memory"])
async def test_a_take_over_moves_the_upload_and_ends_the_first_connection(sharing: ServerFleet, length: int) -> None:
    content, other = CONTENT[:length], OTHER[:length]
    half = length // 2
    async with sender(sharing.servers[0]) as first, sender(sharing.servers[1], take_over=True) as second:
        assert await first.begin() == 0
        await first.send(*chunks(content[:half]))
        assert await second.begin() == 0, "nothing of it is durable yet"
        refusal = await refused(first.call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "UPLOAD_TAKEN_OVER")
        await second.rest(other, start=0)
    await delivered(sharing, other)
    eventually(lambda: sharing.leftovers() == [], what="nothing is left in the spool")


async def test_a_paused_server_loses_its_upload_and_harms_nothing_when_it_resumes(sharing: ServerFleet) -> None:
    async with sender(sharing.servers[0]) as first, sender(sharing.servers[1]) as second:
        assert await first.begin() == 0
        await first.send(*chunks(CONTENT[: 2 * MIB]))
        await until(lambda: sharing.rows("SELECT 1 FROM homes WHERE sender <> ''"))
        sharing.servers[0].stop()
        late = asyncio.create_task(first.rest(CONTENT, start=2 * MIB))  # waits in its socket
        sharing.rows("UPDATE homes SET heard_at = heard_at - 60 RETURNING id")
        assert await second.begin() == 0, "nothing of it was durable"
        await second.send(*chunks(OTHER[: 2 * MIB]))
        sharing.servers[0].resume()
        refusal = await refused(first.call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "UPLOAD_TAKEN_OVER")
        await asyncio.gather(late, return_exceptions=True)
        await second.rest(OTHER, start=2 * MIB)
    await delivered(sharing, OTHER)
    eventually(lambda: sharing.leftovers() == [], what="nothing is left in the spool")


async def sent_whole(server: ServerProcess, content: bytes, **fields: Any) -> str:
    """Upload all of it, as a client would: again while the database is not to be had. Return the reason of a refusal.

    A server that is paused in its turn keeps the turn until the database ends its session.
    """
    for _ in range(20):
        async with sender(server, **fields) as one:
            try:
                assert await one.begin() == 0
                await one.rest(content, start=0)
            except grpc.aio.AioRpcError as error:
                reason = refusal_of(error).reason
                if reason != "STORE_UNAVAILABLE":
                    return reason
            else:
                return ""
    raise AssertionError("the database was never to be had")


@pytest.mark.parametrize("length", [len(CONTENT), 1000], ids=["with a file", "still in memory"])
async def test_a_server_that_resumes_after_the_finish_elsewhere_acknowledges_no_other_bytes(
    apart: ServerFleet, length: int
) -> None:
    content, other = CONTENT[:length], OTHER[:length]
    async with sender(apart.servers[0]) as first:
        end = CallEnding(first.call)
        assert await first.begin() == 0
        await first.send(*chunks(content[: length // 2]))
        apart.servers[0].stop()
        late = asyncio.create_task(first.rest(content, start=length // 2))  # waits in its socket
        assert await sent_whole(apart.servers[1], other, take_over=True) == ""
        apart.servers[0].resume()
        await asyncio.gather(late, return_exceptions=True)
        assert end.error is not None
        reason = refusal_of(end.error).reason
    if reason == "STORE_UNAVAILABLE":
        reason = await sent_whole(apart.servers[0], content)
    assert reason in {"REQUEST_ID_REUSED", "UPLOAD_TAKEN_OVER"}
    await delivered(apart, other)


async def test_small_uploads_have_no_home(apart: ServerFleet) -> None:
    for number in range(3):
        async with sender(apart.servers[number % 2], request_id=f"r{number}") as one:
            assert await one.begin() == 0
            await one.rest(b"small", start=0)
        assert apart.rows("SELECT * FROM homes") == []


@pytest.fixture
def forgetful(tmp_path: Path, postgres: Cluster) -> Iterator[ServerFleet]:
    """Like `apart`; uploads are given up soon."""
    with fleet_of(tmp_path, postgres, *OPTIONS, "--upload-idle", "50s", spool=OwnSpools()) as fleet:
        yield fleet
        assert fleet.discrepancies() == []


async def test_the_home_of_an_abandoned_upload_removes_its_file(forgetful: ServerFleet) -> None:
    async with sender(forgetful.servers[0]) as first:
        assert await first.begin() == 0
        await first.send(*chunks(CONTENT[: 2 * MIB]))
        await refused(first.end())
        await first.kept(2 * MIB)
        forgetful.servers[0].kill()

        def given_up() -> bool:
            return forgetful.rows("SELECT state FROM uploads WHERE request_id = 'r1'") == [(3,)]

        forgetful.rows("UPDATE uploads SET touched_at = touched_at - 60 RETURNING id")
        # A janitor looks at its start, and now and then.
        forgetful.servers[1].kill()
        forgetful.servers[1].start()
        await until(given_up)
    async with sender(forgetful.servers[1]) as second:
        assert (await refused(second.seen())).reason == "NOT_FOUND"
    assert forgetful.servers[0].leftovers() != []
    forgetful.servers[0].start()
    eventually(lambda: forgetful.rows("SELECT 1 FROM uploads WHERE state = 3") == [], what="it is forgotten")
    assert forgetful.leftovers() == []
    assert forgetful.rows("SELECT * FROM homes") == []
