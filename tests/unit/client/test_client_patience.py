"""When to try again: pure, with a clock of its own."""

from __future__ import annotations

import google_crc32c
import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.client import errors
from longshore.client.servers.patience import FIRST_DELAY, LONGEST_CUT, LONGEST_DELAY, Patience, delay, may_pass
from longshore.client.transfer.frames import BATCH_SIZE, CHUNK_SIZE, chunk_frame, read_batch
from longshore.client.transfer.sources import BytesSource
from longshore.v1 import task_service_pb2 as pb


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (errors.Unavailable("x"), True),
        (errors.ResourceExhausted("x", from_server=True), True),
        (errors.ResourceExhausted("message too large"), False),
        (errors.Aborted("x", reason="UPLOAD_IN_PROGRESS"), True),
        (errors.Aborted("x", reason="UPLOAD_TAKEN_OVER"), False),
        (errors.Internal("rst stream", reason="INTERNAL"), True),
        (errors.Internal("a defect", reason="INTERNAL", from_server=True), False),
        (errors.Internal("x", reason="UNIMPLEMENTED"), False),
        (errors.InvalidArgument("x"), False),
        (errors.NotFound("x"), False),
        (errors.Unauthenticated("x"), False),
        (errors.DataLoss("x"), False),
        (ValueError("x"), False),
    ],
)
def test_which_errors_are_worth_another_try(error: BaseException, worth: bool) -> None:
    assert may_pass(error) is worth


@given(st.integers(1, 1000), st.floats(0, 1, exclude_max=True))
def test_the_back_off_is_bounded(failures: int, jitter: float) -> None:
    assert FIRST_DELAY / 2 <= delay(errors.Unavailable("x"), failures=failures, jitter=jitter) <= LONGEST_DELAY


@given(st.integers(1, 1000), st.floats(0, 1, exclude_max=True), st.floats(0, 1000))
def test_never_sooner_than_the_server_asked(failures: int, jitter: float, wish: float) -> None:
    full = errors.ResourceExhausted("x", retry_after=wish, from_server=True)
    waited = delay(full, failures=failures, jitter=jitter)
    assert wish <= waited <= max(wish * 1.25, LONGEST_DELAY)


class World:
    """A clock that only sleeping and working move."""

    def __init__(self, *, limit: float) -> None:
        self.now = 0.0
        self.tries = 0
        self.rests = 0
        self.waits: list[float] = []
        self.patience = Patience(
            limit=limit,
            route=self,
            on_wait=lambda _error, pause: self.waits.append(pause),
            clock=lambda: self.now,
            jitter=lambda: 0.999,
            sleep=self.sleep,
        )

    hopeless = False

    def worked(self) -> None:
        """One server, about which nothing is to be remembered."""

    def failed(self, error: errors.LongshoreError) -> bool:
        return False

    def rested(self) -> None:
        self.rests += 1

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def fail(self) -> None:
        self.tries += 1
        raise errors.Unavailable("away")


async def test_patience_ends_before_a_pause_that_is_too_long() -> None:
    world = World(limit=10)
    with pytest.raises(errors.Unavailable):
        await world.patience.run(world.fail)
    assert world.now <= 10
    # Where nobody answers it is asked often: who restarts again and again may be up for a second only.
    assert world.waits == pytest.approx([0.1, 0.2, 0.4, 0.8] + [1.0] * 8, rel=0.01)


@pytest.mark.parametrize(
    ("error", "longest"),
    [
        (errors.Unavailable("connection refused"), LONGEST_CUT),
        (errors.Unavailable("leaving", reason="DRAINING", from_server=True), LONGEST_CUT),
        (errors.Internal("rst stream", reason="INTERNAL"), LONGEST_CUT),
        (errors.Unavailable("no database", reason="STORE_UNAVAILABLE", from_server=True), LONGEST_DELAY),
        (errors.ResourceExhausted("full", reason="QUEUE_FULL", from_server=True), LONGEST_DELAY),
    ],
)
def test_a_server_that_cannot_serve_is_asked_less_often_than_an_absent_one(
    error: errors.LongshoreError, longest: float
) -> None:
    assert delay(error, failures=50, jitter=0.999) == pytest.approx(longest, rel=0.01)


async def test_without_patience_there_is_one_try() -> None:
    world = World(limit=0)
    with pytest.raises(errors.Unavailable):
        await world.patience.run(world.fail)
    assert (world.tries, world.waits) == (1, [])


async def test_progress_restores_the_patience() -> None:
    world = World(limit=1)

    async def crawl() -> str:
        world.tries += 1
        if world.tries == 50:
            return "there"
        world.patience.moved()
        raise errors.Unavailable("cut")

    assert await world.patience.run(crawl) == "there"
    assert world.waits == pytest.approx([FIRST_DELAY] * 49, rel=0.01)


async def test_other_errors_go_straight_through() -> None:
    world = World(limit=10)

    async def wrong() -> None:
        raise errors.InvalidArgument("x")

    with pytest.raises(errors.InvalidArgument):
        await world.patience.run(wrong)
    assert world.waits == []


@given(st.integers(0, 2**64 - 1), st.binary(min_size=1, max_size=300))
def test_a_frame_equals_protobufs_encoding(offset: int, data: bytes) -> None:
    chunk = pb.UploadChunk(offset=offset, crc32c=google_crc32c.value(data), data=data)
    parsed = pb.UploadRequest.FromString(chunk_frame(offset, data))
    assert parsed == pb.UploadRequest(chunk=chunk)
    assert parsed.chunk == chunk


@pytest.mark.parametrize("size", [1, 127, 128, 16383, 16384, CHUNK_SIZE])
def test_frames_of_every_length(size: int) -> None:
    data = bytes(size)
    assert pb.UploadRequest.FromString(chunk_frame(5, data)).chunk.data == data


@given(st.integers(0, 3 * CHUNK_SIZE // 2), st.integers(0, 3 * CHUNK_SIZE))
def test_batches_cover_everything_once(start: int, rest: int) -> None:
    content = bytes(range(256)) * ((start + rest) // 256 + 1)
    content = content[: start + rest]
    source, offset, crc, got = BytesSource(content), start, google_crc32c.value(content[:start]), b""
    while (batch := read_batch(source, offset=offset, crc32c=crc)).frames:
        for frame in batch.frames:
            chunk = pb.UploadRequest.FromString(frame).chunk
            assert chunk.offset == start + len(got)
            got += chunk.data
        assert batch.end - offset <= BATCH_SIZE
        offset, crc = batch.end, batch.crc32c
    assert got == content[start:]
    assert crc == google_crc32c.value(content)


def test_every_status_code_has_an_error() -> None:
    for code in grpc.StatusCode:
        error = errors.from_rpc_error(
            grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="why")
        )
        assert (error.reason, error.message) == (code.name, "why")


def test_details_that_cannot_be_read_hide_nothing() -> None:
    trailers = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff garbage"))
    error = errors.from_rpc_error(
        grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), trailers, details="gone")
    )
    assert isinstance(error, errors.NotFound)
    assert error.message == "gone"
