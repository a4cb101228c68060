"""Content of every kind is read to its true end or refused, and never cut in silence."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import io
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from longshore.client import AsyncClient, SourceError, push_spec
from tests.support.files import CONTENT, UNTRUE, content_of, size_of
from tests.support.servers.fakeservice import Cut, FakeService, stored

MIB = 1024 * 1024
SPEC = push_spec("web/etc/motd")

pytestmark = pytest.mark.usefixtures("temporary")


# Sizes that are not believed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", UNTRUE, ids=str)
@pytest.mark.parametrize("how", ["path", "buffered", "raw", "iterated"])
async def test_a_file_that_does_not_tell_its_size_is_read_to_its_end(
    client: AsyncClient, service: FakeService, path: Path, how: str
) -> None:
    expected = content_of(path)
    assert expected
    assert size_of(path) != len(expected)
    match how:
        case "path":
            await client.upload(path, spec=SPEC)
        case "buffered":
            with path.open("rb") as file:
                await client.upload(file, spec=SPEC)
        case "raw":
            with path.open("rb", buffering=0) as file:
                await client.upload(file, spec=SPEC)
        case "iterated":
            with path.open("rb") as file:
                await client.upload(iter(file), spec=SPEC)
    assert stored(service) == expected


async def test_a_long_procfs_file_survives_a_cut(client: AsyncClient, service: FakeService, tmp_path: Path) -> None:
    # A file of procfs comes in short reads, each of which once looked like the end.
    expected = content_of(Path("/proc/self/environ"))
    service.uploads += [Cut(after=0), None]
    await client.upload("/proc/self/environ", spec=SPEC)
    assert stored(service) == expected


async def test_from_the_middle_of_a_file_that_does_not_tell_its_size(client: AsyncClient, service: FakeService) -> None:
    with UNTRUE[0].open("rb") as file:
        file.read(5)
        await client.upload(file, spec=SPEC)
    assert stored(service) == content_of(UNTRUE[0])[5:]


class Liar(io.BytesIO):
    """Says of itself that it ends elsewhere than where it does."""

    def __init__(self, content: bytes, told: int) -> None:
        super().__init__(content)
        self._told = told

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(self._told) if whence == os.SEEK_END else super().seek(offset, whence)


@pytest.mark.parametrize("told", [0, 7, 18, 4096])
async def test_a_file_object_that_does_not_tell_its_size(client: AsyncClient, service: FakeService, told: int) -> None:
    file = Liar(b"nineteen bytes long", told)
    await client.upload(file, spec=SPEC)
    assert stored(service) == b"nineteen bytes long"


async def test_a_gzip_file_sends_its_unpacked_content(
    client: AsyncClient, service: FakeService, tmp_path: Path
) -> None:
    with gzip.open(tmp_path / "packed", "wb") as file:
        file.write(CONTENT)
    with gzip.open(tmp_path / "packed", "rb") as file:
        await client.upload(file, spec=SPEC)
    assert stored(service) == CONTENT


async def test_unflushed_bytes_of_a_file_are_sent(client: AsyncClient, service: FakeService, tmp_path: Path) -> None:
    with (tmp_path / "both").open("w+b") as file:
        file.write(b"written")
        file.seek(2)
        await client.upload(file, spec=SPEC)
    assert stored(service) == b"itten"


class Ending:
    """A file object that wraps an iterator, and lets the iterator's end through."""

    def __init__(self) -> None:
        self._pieces = iter([b"one", b"two"])

    def read(self, _: int) -> bytes:
        return next(self._pieces)


async def test_a_read_that_raises_stop_iteration_is_refused(client: AsyncClient, service: FakeService) -> None:
    """No future takes that exception, so the caller waited for ever."""
    async with asyncio.timeout(20):
        with pytest.raises(SourceError, match=r"Ending raised StopIteration: return b\"\" at the end"):
            await client.upload(Ending(), spec=SPEC)  # type: ignore[arg-type]
    assert service.nothing_made()


@contextmanager
def cut_response() -> Iterator[http.client.HTTPResponse]:
    """A response whose connection ends 60 bytes before the length that it announced."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 40)

        answering = threading.Thread(target=answer)
        answering.start()
        connection = http.client.HTTPConnection(*listener.getsockname())
        try:
            connection.request("GET", "/")
            yield connection.getresponse()
        finally:
            connection.close()
            answering.join()


async def test_an_http_response_that_is_cut_is_refused(client: AsyncClient, service: FakeService) -> None:
    """Its read() gives no bytes at the cut, as at the end, and raises nothing."""
    with cut_response() as response, pytest.raises(SourceError, match="60 bytes are missing"):
        await client.upload(response, spec=SPEC)
    assert service.nothing_made()


async def test_compressed_content_that_is_cut_is_refused(
    client: AsyncClient, service: FakeService, tmp_path: Path
) -> None:
    packed = gzip.compress(CONTENT)[: len(CONTENT) // 2]
    (tmp_path / "packed").write_bytes(packed)
    with gzip.open(tmp_path / "packed", "rb") as file, pytest.raises(SourceError, match="end-of-stream marker"):
        await client.upload(file, spec=SPEC)
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as unnamed, pytest.raises(SourceError, match="end-of-stream marker"):
        await client.upload(unnamed, spec=SPEC)
    assert service.nothing_made()


# What is not there yet is not the end --------------------------------------------------------------------------------


def slow_source(kind: str) -> tuple[Any, Callable[[], None]]:
    """A non-blocking end that has 6 of 19 bytes, and what makes the rest come."""
    if kind == "socket":
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        file: Any = ours.makefile("rb", buffering=0)
        ours.close()
        far = theirs.detach()
    else:
        near, far = os.pipe()
        os.set_blocking(near, False)
        file = os.fdopen(near, "rb", buffering=0 if kind == "raw" else -1)
    os.write(far, b"first ")

    def finish() -> None:
        os.write(far, b"and the rest.")
        os.close(far)

    return file, finish


@pytest.mark.parametrize("kind", ["raw", "buffered", "socket"])
async def test_a_non_blocking_source_is_waited_for(client: AsyncClient, service: FakeService, kind: str) -> None:
    file, finish = slow_source(kind)
    with file:
        uploading = asyncio.create_task(client.upload(file, spec=SPEC))
        # It has all there is, and waits for the rest: a None was answered by now.
        await asyncio.sleep(0.1)
        assert not uploading.done()
        finish()
        await uploading
    assert stored(service) == b"first and the rest."


class Answers(io.RawIOBase):
    """A file object without a descriptor that gives these, one after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers = [*answers]

    def read(self, size: int = -1) -> Any:
        return self.answers.pop(0) if self.answers else b""


async def test_none_that_cannot_be_waited_for_is_refused(client: AsyncClient, service: FakeService) -> None:
    with pytest.raises(SourceError, match=r"Answers returned None.*make it blocking"):
        await client.upload(Answers(b"first ", None, b"and the rest."), spec=SPEC)
    assert service.headers == []


class Coroutines:
    """A file object whose read is a coroutine."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = [*answers]

    async def read(self, size: int = -1) -> bytes:
        return self.answers.pop(0) if self.answers else b""


async def test_a_read_that_is_a_coroutine(client: AsyncClient, service: FakeService) -> None:
    await client.upload(Coroutines(b"first ", b"and the rest."), spec=SPEC)  # type: ignore[arg-type]
    assert stored(service) == b"first and the rest."


def given(*pieces: Any) -> Iterator[Any]:
    yield from pieces


async def given_asynchronously(*pieces: Any) -> AsyncIterator[Any]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize("giving", [given, given_asynchronously])
async def test_empty_pieces_are_not_the_end(client: AsyncClient, service: FakeService, giving: Any) -> None:
    pieces = (
        b"",
        b"first ",
        b"",
        bytearray(b"and "),
        b"",
        memoryview(b"the xrxexsxt.x")[:4],
        memoryview(b"r.e.s.t..")[::2],
    )
    await client.upload(giving(*pieces), spec=SPEC)
    assert stored(service) == b"first and the rest."


@pytest.mark.parametrize("giving", [given, given_asynchronously, Answers])
@pytest.mark.parametrize(
    ("piece", "said"),
    [
        (None, r"None"),
        ("text", r"gave a str .*text\.encode\(\)"),
        ("", r"gave a str"),
        (5, r"gave a int"),
        ([b"x"], r"gave a list"),
        (0, r"gave a int"),
        (False, r"gave a bool"),
    ],
    ids=repr,
)
async def test_other_pieces_are_refused_by_their_type(
    client: AsyncClient, service: FakeService, giving: Any, piece: Any, said: str
) -> None:
    with pytest.raises(SourceError, match=said) as caught:
        await client.upload(giving(b"first ", piece, b"and the rest."), spec=SPEC)
    assert caught.value.reason == "SOURCE_UNREADABLE"
    assert service.headers == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "a NoneType is no content"),
        (7, "a int is no content"),
        ({"a": 1}, "gave a str"),
        (io.StringIO("text"), "binary mode"),
        (object(), "a object is no content"),
        ("a\0b", "null"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_unusable_content_is_refused_by_its_type(
    client: AsyncClient, service: FakeService, content: Any, said: str
) -> None:
    with pytest.raises(SourceError, match=said):
        await client.upload(content, spec=SPEC)
    assert service.headers == []


async def test_a_text_file_and_a_closed_file_are_refused(
    client: AsyncClient, service: FakeService, tmp_path: Path
) -> None:
    (tmp_path / "motd").write_text("hello")
    with (tmp_path / "motd").open() as file, pytest.raises(SourceError, match="binary mode"):
        await client.upload(file, spec=SPEC)  # type: ignore[arg-type]
    with (tmp_path / "motd").open("rb") as closed:
        pass
    with pytest.raises(SourceError, match="closed file"):
        await client.upload(closed, spec=SPEC)
    assert service.headers == []


async def test_a_silent_pipe_can_be_left(client: AsyncClient, service: FakeService, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    far = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        uploading = asyncio.create_task(client.upload(tmp_path / "fifo", spec=SPEC))
        await asyncio.sleep(0.1)
        uploading.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await uploading
    finally:
        os.close(far)


async def test_a_named_pipe_without_a_writer_can_be_left(
    client: AsyncClient, service: FakeService, tmp_path: Path
) -> None:
    """Its opening waited for a writer, in a thread: neither Ctrl-C nor a time-out came through."""
    os.mkfifo(tmp_path / "fifo")
    uploading = asyncio.create_task(client.upload(tmp_path / "fifo", spec=SPEC))
    _, pending = await asyncio.wait({uploading}, timeout=0.3)
    uploading.cancel()
    done, _ = await asyncio.wait(pending, timeout=5)
    # So that a thread that waits comes back.
    os.close(os.open(tmp_path / "fifo", os.O_RDWR))
    assert done, "it waits for a writer"
    assert uploading.cancelled()
    assert service.headers == []


async def test_a_named_pipe_is_read_from_its_writer_s_coming_to_its_going(
    client: AsyncClient, service: FakeService, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    uploading = asyncio.create_task(client.upload(tmp_path / "fifo", spec=SPEC))
    await asyncio.wait({uploading}, timeout=0.2)
    with (tmp_path / "fifo").open("wb", buffering=0) as far:
        for piece in (b"one ", b"two ", b"three"):
            await asyncio.wait({uploading}, timeout=0.1)
            far.write(piece)
    async with asyncio.timeout(20):
        await uploading
    assert stored(service) == b"one two three"


async def test_a_named_pipe_whose_writer_has_gone_is_read_to_its_end(
    client: AsyncClient, service: FakeService, tmp_path: Path
) -> None:
    """As `push /dev/stdin <fifo` meets it."""
    os.mkfifo(tmp_path / "fifo")
    held = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        (tmp_path / "fifo").write_bytes(b"written before")
        async with asyncio.timeout(20):
            await client.upload(tmp_path / "fifo", spec=SPEC)
    finally:
        os.close(held)
    assert stored(service) == b"written before"
