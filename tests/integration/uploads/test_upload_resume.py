"""P5: a cut upload continues from its last checkpoint, over restarts and crashes; a finished one gives its tasks."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import google_crc32c
import grpc
import pytest

from longshore.server.engine.uploads.uploads import UploadLimits
from longshore.server.spool.protocol import BegunWrite, PartialFile, Spool
from longshore.server.store.commands import FinishUpload, OpenUpload
from longshore.v1 import task_service_pb2 as pb
from tests.support.servers.rawgrpc import (
    MIB,
    Sender,
    TaskServer,
    chunk,
    chunks,
    crc,
    finish,
    header_of,
    opening,
    refused,
    whole,
)
from tests.support.stores.wrapped import FailsOnce, Wrapped
from tests.support.waiting import until

R = TypeVar("R")

SMALL_STEPS = UploadLimits(inline_bytes=0, checkpoint_bytes=4 * MIB, reserve_step=4 * MIB)


@pytest.mark.parametrize("held", [1, 3 * MIB, 5 * MIB + 7])
async def test_a_client_that_knows_nothing_of_resuming_sends_all_again(tmp_path: Path, held: int) -> None:
    content = random.Random(1).randbytes(9 * MIB + 3)
    async with TaskServer(tmp_path) as server:
        first = Sender(server, header_of())
        await first.begin()
        await first.send(*chunks(content[:held]))
        await refused(first.end())
        await server.idle()
        assert (await server.get("r1")).offset == held
        answer = await server.upload(whole(header_of(), content))
        assert (answer.payload.size, answer.payload.crc32c) == (len(content), crc(content))
        assert server.sealed[0].read_bytes() == content
        assert len(await server.tasks()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("declared", [True, False], ids=["size declared", "size unknown"])
async def test_200_mib_cut_ten_times_with_restarts_sends_little_more_than_its_size(
    tmp_path: Path, declared: bool
) -> None:
    draw = random.Random(7)
    block = draw.randbytes(MIB)
    size = 200 * MIB
    sha256 = hashlib.sha256(block * 200).digest()
    header = header_of(size=size if declared else None, sha256=sha256)
    cuts = sorted(draw.sample(range(5, 195), 10))
    sent, whole_crc = 0, 0
    limits = UploadLimits(patience=0.2, detach=10.0)
    server = TaskServer(tmp_path, limits=limits)
    await server.__aenter__()
    try:
        for number, cut in enumerate([*cuts, 200]):
            sender = Sender(server, header)
            at = await sender.begin()
            seen = server.uploads.statistics().bytes_received
            assert at % MIB == 0
            while at < cut * MIB:
                await sender.call.write(chunk(at, block))
                at, sent = at + MIB, sent + MIB
            if cut == 200:
                break
            await until(received_more(server, seen))
            sender.call.cancel()
            if number % 3 == 2:
                await server.stop(drain=0.0)
                server = TaskServer(tmp_path, limits=limits)
                await server.__aenter__()
            else:
                await server.idle()
        for _ in range(200):
            whole_crc = google_crc32c.extend(whole_crc, block)
        await sender.send(pb.UploadRequest(finish=pb.UploadFinish(size=size, crc32c=whole_crc)))
        answer = await sender.end()
        assert answer.payload.size == size
        (path,) = server.sealed
        assert hashlib.sha256(path.read_bytes()).digest() == sha256
        # Bytes that were on their way at each cut are sent again, and no more: the disconnect makes a checkpoint.
        assert sent <= size + 10 * 16 * MIB
    finally:
        await server.stop(drain=0.0)


def received_more(server: TaskServer, seen: int) -> Callable[[], bool]:
    return lambda: server.uploads.statistics().bytes_received > seen


async def test_a_checkpoint_is_made_on_the_way_and_needs_no_goodbye(tmp_path: Path) -> None:
    """The connection and the process end without another word, as in a kill."""
    content = random.Random(2).randbytes(10 * MIB)
    async with TaskServer(tmp_path, limits=SMALL_STEPS) as server:
        sender = Sender(server, header_of(size=len(content)))
        await sender.begin()
        await sender.send(*chunks(content))
        upload = await server.get("r1")
        async with asyncio.timeout(20):
            while upload.offset < 5 * MIB:  # two checkpoints, less what was being written
                upload = await server.get("r1")
        assert upload.active
        assert upload.crc32c == crc(content[: upload.offset])
        sender.call.cancel()


@pytest.mark.parametrize("committed", [False, True], ids=["before commit", "after commit"])
@pytest.mark.parametrize("restart", [False, True], ids=["same server", "after a restart"])
@pytest.mark.parametrize("inline", [0, 64 * 1024], ids=["spool", "inline"])
@pytest.mark.parametrize("again", ["from the offset", "from 0"])
async def test_a_crash_between_seal_and_commit_costs_nothing(
    tmp_path: Path, committed: bool, restart: bool, inline: int, again: str
) -> None:
    content = random.Random(3).randbytes(1000 if inline else 5 * MIB + 1)
    limits = UploadLimits(inline_bytes=inline, checkpoint_bytes=2 * MIB)
    server = TaskServer(
        tmp_path, limits=limits, store_of=lambda store: FailsOnce(store, FinishUpload, committed=committed)
    )
    async with server:
        refusal = await refused(server.upload(whole(header_of(), content)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        await server.idle()
        assert len(await server.tasks()) == (1 if committed else 0)
        if restart:
            await server.stop(drain=0.0)
            server = TaskServer(tmp_path, limits=limits)
            await server.__aenter__()
        sender = Sender(server, header_of())
        offset = await sender.begin()
        assert offset == (0 if inline and not committed else len(content)), "all of it is there"
        await sender.send(*chunks(content, start=0 if again == "from 0" else offset), finish(content))
        answer = await sender.end()
        (task,) = await server.tasks()
        assert [one.id for one in answer.tasks] == [task.id]
        if not inline:
            assert [path.read_bytes() for path in server.sealed] == [content]
        assert server.parts == []
        await server.stop(drain=0.0)


async def test_other_bytes_after_a_crash_between_seal_and_commit_are_another_request(tmp_path: Path) -> None:
    content = random.Random(4).randbytes(2 * MIB)
    server = TaskServer(tmp_path, store_of=lambda store: FailsOnce(store, FinishUpload, committed=False))
    async with server:
        await refused(server.upload(whole(header_of(), content)))
        await server.idle()
        for other in (content[:-1], content + b"x", content[:-1] + bytes([content[-1] ^ 1])):
            refusal = await refused(server.upload(whole(header_of(), other)))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        assert len((await server.upload(whole(header_of(), content))).tasks) == 1


async def test_a_lost_answer_to_the_header_leaves_an_upload_that_can_be_sent(tmp_path: Path) -> None:
    content = b"x" * MIB
    server = TaskServer(tmp_path, store_of=lambda store: FailsOnce(store, OpenUpload, committed=True))
    async with server:
        refusal = await refused(server.upload(whole(header_of(), content)))
        assert refusal.reason == "STORE_UNAVAILABLE"
        answer = await server.upload(whole(header_of(), content))
        assert len(answer.tasks) == 1
        assert server.sealed[0].read_bytes() == content


async def test_a_damaged_part_is_reported_and_the_request_starts_anew(tmp_path: Path) -> None:
    content = random.Random(5).randbytes(3 * MIB)
    async with TaskServer(tmp_path) as server:
        sender = Sender(server, header_of())
        await sender.begin()
        await sender.send(*chunks(content))
        await refused(sender.end())
        await server.idle()
        (part,) = server.parts
        with part.open("r+b") as file:
            file.truncate(MIB)
        refusal = await refused(Sender(server, header_of()).begin())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.DATA_LOSS, "SPOOL_DAMAGED")
        answer = await server.upload(whole(header_of(), content))
        assert answer.payload.crc32c == crc(content)


class SlowPartial(Wrapped):
    """Writes when it is allowed to."""

    def __init__(self, inner: PartialFile, gate: asyncio.Event) -> None:
        super().__init__(inner)
        self.gate = gate

    async def write(self, *pieces: bytes | memoryview, crc32c: int | None = None) -> None:
        await self.gate.wait()
        await self.inner.write(*pieces, crc32c=crc32c)

    def begin_write(self, *pieces: bytes | memoryview, crc32c: int | None = None) -> BegunWrite:
        return asyncio.ensure_future(self.write(*pieces, crc32c=crc32c))


class SlowSpool(Wrapped):
    """A disk that stands still until `gate` is set."""

    def __init__(self, inner: Spool) -> None:
        super().__init__(inner)
        self.gate = asyncio.Event()

    async def create(self, upload_id: str, *, connection: int = 1) -> PartialFile:
        return SlowPartial(await self.inner.create(upload_id, connection=connection), self.gate)


async def test_a_slow_disk_slows_the_sender_and_fills_no_memory(tmp_path: Path) -> None:
    content = random.Random(6).randbytes(64 * MIB)
    slow: list[SlowSpool] = []

    def wrap(spool: Spool) -> Any:
        slow.append(SlowSpool(spool))
        return slow[0]

    async with TaskServer(tmp_path, spool_of=wrap) as server:
        sending = asyncio.ensure_future(_sent(server, content))
        taken = -1
        while taken != server.uploads.statistics().bytes_received or not taken:
            taken = server.uploads.statistics().bytes_received
            await asyncio.wait({sending}, timeout=0.5)
        assert taken <= 8 * MIB, "one write waits, one is gathered, and the rest stays with the sender"
        slow[0].gate.set()
        answer = await asyncio.wait_for(sending, 30)
        assert answer.payload.crc32c == crc(content)


async def _sent(server: TaskServer, content: bytes) -> pb.UploadResponse:
    async def messages() -> AsyncIterator[pb.UploadRequest]:
        yield opening(header_of())
        for one in chunks(content):
            yield one
        yield finish(content)

    answer: pb.UploadResponse = await server.upload(messages())
    return answer
