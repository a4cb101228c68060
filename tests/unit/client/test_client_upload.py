"""Uploads against a scripted service: cuts, refusals, and what may be sent twice."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from longshore.client import (
    Aborted,
    AlreadyExists,
    AsyncClient,
    DataLoss,
    InvalidArgument,
    ResourceExhausted,
    SourceError,
    Unavailable,
    UploadProgress,
    push_spec,
)
from longshore.client.transfer.frames import CHUNK_SIZE
from tests.support.network.proxy import FaultProxy
from tests.support.servers.fakeservice import Cut, Damage, FakeService, FakeTaskServer, Lose, Refuse, stored

MIB = 1024 * 1024
SPEC = push_spec("web/etc/motd")
CONTENT = os.urandom(9 * MIB + 4321)
UNAVAILABLE = Refuse(code=grpc.StatusCode.UNAVAILABLE, reason="DRAINING")


async def test_the_received_bytes_equal_the_sent_ones(client: AsyncClient, service: FakeService) -> None:
    [task] = await client.upload(CONTENT, spec=SPEC, request_id="r")
    assert task.id == "r-0"
    assert stored(service) == CONTENT
    assert service.chunks == list(range(0, len(CONTENT), CHUNK_SIZE))
    [header] = service.headers
    assert (header.size, header.request_id, header.take_over) == (len(CONTENT), "r", False)
    assert not header.HasField("sha256")
    assert header.spec == SPEC
    assert service.metadata[0]["authorization"] == "Bearer secret"


async def test_one_task_for_each_destination_in_their_order(client: AsyncClient) -> None:
    tasks = await client.upload(b"x", spec=push_spec("b/one", "a/two", "c/three"))
    assert [task.file_push.destination.path for task in tasks] == ["/one", "/two", "/three"]


async def test_an_empty_file(client: AsyncClient, service: FakeService) -> None:
    await client.upload(b"", spec=SPEC)
    assert stored(service) == b""
    assert service.chunks == []


def pieces() -> Iterator[bytes]:
    for start in range(0, len(CONTENT), 700_001):
        yield CONTENT[start : start + 700_001]


async def asynchronous_pieces() -> AsyncIterator[bytes]:
    for piece in pieces():
        yield piece


class Pipe(io.RawIOBase):
    """Reads once and cannot seek."""

    def __init__(self) -> None:
        self._inner = io.BytesIO(CONTENT)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: Any) -> int:
        return self._inner.readinto(buffer)


@pytest.mark.parametrize(
    "kind",
    [
        "path",
        "str",
        "bytes",
        "bytearray",
        "memoryview",
        "file",
        "file from its middle",
        "buffer",
        "pipe",
        "fifo",
        "iterator",
        "async iterator",
    ],
)
async def test_every_kind_of_content_survives_a_cut(
    client: AsyncClient, service: FakeService, tmp_path: Path, kind: str
) -> None:
    service.uploads += [Cut(after=5 * MIB, durable=3 * MIB), None]
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    expected = CONTENT
    match kind:
        case "path":
            await client.upload(path, spec=SPEC)
        case "str":
            await client.upload(str(path), spec=SPEC)
        case "bytes":
            await client.upload(CONTENT, spec=SPEC)
        case "bytearray":
            await client.upload(bytearray(CONTENT), spec=SPEC)
        case "memoryview":
            await client.upload(memoryview(CONTENT), spec=SPEC)
        case "file" | "file from its middle":
            with path.open("rb") as file:
                if kind != "file":
                    file.seek(100)
                    expected = CONTENT[100:]
                await client.upload(file, spec=SPEC)
                assert not file.closed
        case "buffer":
            await client.upload(io.BytesIO(CONTENT), spec=SPEC)
        case "pipe":
            await client.upload(io.BufferedReader(Pipe()), spec=SPEC)
        case "fifo":
            os.mkfifo(tmp_path / "fifo")
            writing = asyncio.create_task(asyncio.to_thread((tmp_path / "fifo").write_bytes, CONTENT))
            await client.upload(tmp_path / "fifo", spec=SPEC)
            await writing
        case "iterator":
            await client.upload(pieces(), spec=SPEC)
        case "async iterator":
            await client.upload(asynchronous_pieces(), spec=SPEC)
    assert stored(service) == expected
    assert len(service.headers) == 2


async def test_a_cut_upload_sends_only_the_missing_bytes(client: AsyncClient, service: FakeService) -> None:
    service.uploads += [Cut(after=4 * MIB, durable=4 * MIB), Cut(after=2 * MIB), None]
    await client.upload(CONTENT, spec=SPEC)
    assert stored(service) == CONTENT
    again = [offset for offset in service.chunks if service.chunks.count(offset) > 1]
    assert again == []
    # Only the first connection could have been a stranger's.
    assert [header.take_over for header in service.headers] == [False, True, True]


async def test_a_lost_answer_is_asked_for_again_without_the_bytes(client: AsyncClient, service: FakeService) -> None:
    service.uploads += [Lose(), None]
    [task] = await client.upload(CONTENT, spec=SPEC, request_id="r")
    assert task.id == "r-0"
    assert len(service.chunks) == len(range(0, len(CONTENT), CHUNK_SIZE))


async def test_the_same_request_from_another_client_sends_no_bytes(
    client: AsyncClient, server: FakeTaskServer, service: FakeService
) -> None:
    first = await client.upload(CONTENT, spec=SPEC, request_id="r")
    sent = len(service.chunks)
    async with AsyncClient(server=server.address) as other:
        assert await other.upload(CONTENT, spec=SPEC, request_id="r") == first
    assert len(service.chunks) == sent


async def test_content_that_changed_between_resumes_is_refused_here(client: AsyncClient, service: FakeService) -> None:
    service.uploads += [Cut(after=4 * MIB), Damage()]
    with pytest.raises(SourceError, match="another request id") as caught:
        await client.upload(CONTENT, spec=SPEC)
    assert caught.value.reason == "SOURCE_CHANGED"
    assert not any(upload.complete for upload in service.stored.values())


async def test_a_shorter_content_under_the_same_request(client: AsyncClient, service: FakeService) -> None:
    service.uploads += [Cut(after=4 * MIB)]
    with pytest.raises(Unavailable):
        await client.upload(CONTENT, spec=SPEC, request_id="r", patience=0)
    with pytest.raises(SourceError, match="content changed"):
        await client.upload(CONTENT[: 2 * MIB], spec=SPEC, request_id="r")


async def test_a_file_that_is_written_to_meanwhile_is_never_finished(
    client: AsyncClient, service: FakeService, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    path.write_bytes(CONTENT)

    def append(_progress: UploadProgress) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(SourceError, match="changed while"):
        await client.upload(path, spec=SPEC, progress=append)
    assert not any(upload.complete for upload in service.stored.values())


async def test_a_file_that_becomes_shorter_meanwhile(client: AsyncClient, service: FakeService, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(CONTENT)
    with pytest.raises(SourceError, match=r"shorter|changed"):
        await client.upload(path, spec=SPEC, progress=lambda _: os.truncate(path, 10))
    assert not any(upload.complete for upload in service.stored.values())


async def test_sha256_is_sent_when_asked_for(client: AsyncClient, service: FakeService) -> None:
    await client.upload(CONTENT, spec=SPEC, sha256="compute")
    await client.upload(CONTENT, spec=SPEC, sha256=b"\1" * 32)
    assert [header.sha256 for header in service.headers] == [hashlib.sha256(CONTENT).digest(), b"\1" * 32]


async def test_full_is_asked_again_when_the_server_says(client: AsyncClient, service: FakeService) -> None:
    full = Refuse(code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="QUEUE_FULL", retry_after=0.2)
    service.uploads += [full, full, None]
    seen: list[UploadProgress] = []
    await client.upload(CONTENT, spec=SPEC, progress=seen.append)
    assert stored(service) == CONTENT
    waits = [each for each in seen if each.problem is not None]
    assert [type(each.problem) for each in waits] == [ResourceExhausted, ResourceExhausted]
    assert all(0.2 <= each.pause <= 0.25 for each in waits)


async def test_a_server_full_for_longer_than_the_patience_is_reported_at_once(
    client: AsyncClient, service: FakeService
) -> None:
    service.uploads += [Refuse(code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="SPOOL_FULL", retry_after=60)]
    async with asyncio.timeout(5):
        with pytest.raises(ResourceExhausted) as caught:
            await client.upload(CONTENT, spec=SPEC, patience=30)
    error = caught.value
    assert (error.reason, error.retry_after, error.from_server) == ("SPOOL_FULL", 60, True)
    assert [each.subject for each in error.quota_violations] == ["queue:default"]
    assert service.chunks == []


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", InvalidArgument),
        (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", AlreadyExists),
        (grpc.StatusCode.DATA_LOSS, "SPOOL_DAMAGED", DataLoss),
    ],
)
async def test_a_permanent_error_is_not_repeated(
    client: AsyncClient, service: FakeService, code: grpc.StatusCode, reason: str, expected: type[Exception]
) -> None:
    service.uploads += [Refuse(code=code, reason=reason, field="spec.queue"), None]
    with pytest.raises(expected) as caught:
        await client.upload(CONTENT, spec=SPEC)
    assert [violation.field for violation in caught.value.field_violations] == ["spec.queue"]  # type: ignore[attr-defined]
    assert service.chunks == []
    assert len(service.headers) == 1


async def test_a_refusal_in_mid_upload_is_raised_unchanged(client: AsyncClient, service: FakeService) -> None:
    taken = Refuse(code=grpc.StatusCode.ABORTED, reason="UPLOAD_TAKEN_OVER", message="taken over")
    service.uploads += [Cut(after=2 * MIB, end=taken)]
    with pytest.raises(Aborted, match="taken over") as caught:
        await client.upload(CONTENT, spec=SPEC)
    assert caught.value.reason == "UPLOAD_TAKEN_OVER"
    assert len(service.headers) == 1


async def test_another_s_upload_is_waited_for(client: AsyncClient, service: FakeService) -> None:
    service.uploads += [Refuse(code=grpc.StatusCode.ABORTED, reason="UPLOAD_IN_PROGRESS"), None]
    await client.upload(CONTENT, spec=SPEC)
    # It was never ours, so it is not taken over.
    assert [header.take_over for header in service.headers] == [False, False]


async def test_patience_is_for_standing_still_only(client: AsyncClient, service: FakeService) -> None:
    service.uploads += [Cut(after=MIB) for _ in range(8)]
    # Each pause may take 0.1 s: eight in a row are more than the patience, but every connection gets further.
    await client.upload(CONTENT, spec=SPEC, patience=0.3)
    assert stored(service) == CONTENT


async def test_patience_ends(client: AsyncClient, service: FakeService) -> None:
    service.uploads += [UNAVAILABLE] * 100
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable):
            await client.upload(CONTENT, spec=SPEC, patience=0.5)
    assert 2 <= len(service.headers) <= 8


async def test_no_patience_is_one_try(client: AsyncClient, service: FakeService) -> None:
    service.uploads += [UNAVAILABLE]
    with pytest.raises(Unavailable):
        await client.upload(CONTENT, spec=SPEC, patience=0)
    assert len(service.headers) == 1


async def test_an_absent_server_is_unavailable(tmp_path: Path) -> None:
    async with AsyncClient(server=f"unix:{tmp_path}/none.sock", patience=0) as client, asyncio.timeout(5):
        with pytest.raises(Unavailable) as caught:
            await client.upload(CONTENT, spec=SPEC)
    assert not caught.value.from_server


async def test_progress_grows_to_the_end(client: AsyncClient) -> None:
    seen: list[UploadProgress] = []
    await client.upload(CONTENT, spec=SPEC, progress=seen.append)
    assert [each.sent for each in seen] == sorted({each.sent for each in seen})
    assert seen[-1].sent == seen[-1].size == len(CONTENT)


async def test_connections_that_are_reset(server: FakeTaskServer) -> None:
    service = server.service
    async with FaultProxy(upstream=("127.0.0.1", server.port)) as proxy:

        def cut_now_and_then(_progress: UploadProgress) -> None:
            if proxy.connections < 5:
                proxy.cut_after(MIB)

        proxy.cut_after(MIB)
        async with AsyncClient(server=proxy.address, patience=20) as client:
            await client.upload(CONTENT, spec=SPEC, progress=cut_now_and_then)
        assert proxy.connections >= 5
    assert stored(service) == CONTENT


async def test_a_server_that_comes_back(server: FakeTaskServer) -> None:
    service = server.service
    async with FaultProxy(upstream=("127.0.0.1", server.port)) as proxy:
        proxy.refusing = True

        def come_back(progress: UploadProgress) -> None:
            if progress.problem is not None:
                proxy.refusing = False

        async with AsyncClient(server=proxy.address, patience=20) as client:
            await client.upload(CONTENT, spec=SPEC, progress=come_back)
    assert stored(service) == CONTENT


async def test_a_cancelled_upload_makes_no_task(client: AsyncClient, service: FakeService) -> None:
    reached = asyncio.Event()
    uploading = asyncio.create_task(client.upload(CONTENT, spec=SPEC, progress=lambda _: reached.set()))
    await asyncio.wait_for(reached.wait(), 5)
    uploading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await uploading
    assert not any(upload.complete for upload in service.stored.values())


@pytest.mark.parametrize("name", ["missing", "."])
async def test_an_unreadable_source_raises(
    client: AsyncClient, service: FakeService, tmp_path: Path, name: str
) -> None:
    with pytest.raises(SourceError):
        await client.upload(tmp_path / name, spec=SPEC)
    assert service.headers == []
