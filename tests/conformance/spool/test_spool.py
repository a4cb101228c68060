"""Every spool keeps these promises: a directory, one that servers share, an object store."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import google_crc32c
import pytest

from longshore.server.model.errors import SpoolDamaged, StoreUnavailable, UploadTakenOver
from longshore.server.model.task import Payload
from longshore.server.spool.errors import SpoolRefused
from longshore.server.spool.protocol import PartialFile, Spool
from tests.support.stores.spoolkinds import DirectoryKind, ObjectKind, SpoolKind

MIB = 1 << 20
ONE = "a1" * 16
TWO = "b2" * 16
NOISE = random.Random(3).randbytes(40 * MIB)

SIZES = [0, 1, 64 * 1024, 8 * MIB, 16 * MIB - 1, 16 * MIB + 1, 40 * MIB]
"""Around the ends of an object store's segments, and over several."""


@pytest.fixture(params=["directory", "shared directory", "object store"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> SpoolKind:
    if request.param == "object store":
        return ObjectKind(request.getfixturevalue("s3_spool_url"), tmp_path / "staging")
    return DirectoryKind(tmp_path / "spool", shared=request.param == "shared directory")


@pytest.fixture
async def spool(kind: SpoolKind) -> AsyncIterator[Spool]:
    spool = kind.spool()
    await spool.open()
    yield spool
    await spool.close()


@pytest.fixture
async def other(kind: SpoolKind) -> AsyncIterator[Spool]:
    """Another server on the same spool; on a directory of one server, the server after a restart."""
    spool = kind.spool()
    await spool.open()
    yield spool
    await spool.close()


def crc(data: bytes) -> int:
    return int(google_crc32c.value(data))


def payload_of(data: bytes, one: str = ONE) -> Payload:
    return Payload(one, len(data), crc(data))


async def write(partial: PartialFile, data: bytes) -> None:
    """In steps as the engine makes them."""
    for at in range(0, len(data), MIB):
        await partial.write(data[at : at + MIB])


async def read(spool: Spool, data: bytes, one: str = ONE, offset: int = 0, size: int = 512 * 1024) -> bytes:
    pieces = [piece async for piece in spool.read(payload_of(data, one), offset, size)]
    assert all(0 < len(piece) <= size for piece in pieces)
    return b"".join(pieces)


async def sealed(spool: Spool, data: bytes, one: str = ONE) -> None:
    partial = await spool.create(one)
    await write(partial, data)
    await partial.seal(one)
    await partial.close()


# The way of a payload ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_a_payload_of_any_size_comes_back_from_any_offset(spool: Spool, kind: SpoolKind, size: int) -> None:
    data = NOISE[:size]
    partial = await spool.create(ONE)
    await write(partial, data)
    assert (partial.offset, partial.crc32c) == (size, crc(data))
    assert await partial.sync() == (size, crc(data))
    assert await partial.sha256() == hashlib.sha256(data).digest()
    await partial.seal(ONE)
    assert partial.sealed
    await partial.close()
    assert await read(spool, data) == data
    for offset in {size, max(size - 1, 0), max(size - 300_000, 0), min(size, 16 * MIB)}:
        assert await read(spool, data, offset=offset) == data[offset:]
    await spool.delete_payload(ONE)
    assert kind.left() == []


async def test_a_write_longer_than_anything_is_taken(spool: Spool) -> None:
    partial = await spool.create(ONE)
    await partial.write(NOISE)
    await partial.seal(ONE)
    await partial.close()
    assert await read(spool, NOISE) == NOISE


async def test_pieces_are_as_long_as_asked_for_and_no_longer(spool: Spool) -> None:
    data = NOISE[: 9 * MIB + 1]
    await sealed(spool, data)
    for size in (MIB - 7, 3 * MIB, 20 * MIB):
        assert await read(spool, data, size=size) == data
    assert await read(spool, data, offset=len(data) - 30, size=7) == data[-30:]


async def test_unsealed_bytes_are_no_payload(spool: Spool) -> None:
    partial = await spool.create(ONE)
    await partial.write(b"abc")
    await partial.sync()
    with pytest.raises(SpoolDamaged):
        await read(spool, b"abcdef")
    await partial.close()


@pytest.mark.parametrize("shared", [False, True], ids=["directory", "shared directory"])
async def test_payloads_on_an_unmounted_spool_do_not_count_as_lost(tmp_path: Path, shared: bool) -> None:
    root = tmp_path / "spool"
    spool = DirectoryKind(root, shared=shared).spool()
    await spool.open()
    await sealed(spool, b"payload")
    partial = await spool.create(TWO)
    await partial.write(b"part")
    await partial.sync()
    await partial.close()
    root.rename(tmp_path / "away")
    for _ in range(2):
        for work in (
            read(spool, b"payload"),
            spool.resume(TWO, 4, crc(b"part")),
            spool.create("c3" * 16),
            spool.free_bytes(),
            spool.files_older_than(0),
        ):
            with pytest.raises(StoreUnavailable):
                await work
        root.mkdir(exist_ok=True)  # the empty folder below a mount
    (tmp_path / "away").rename(root)
    assert await read(spool, b"payload") == b"payload"
    resumed = await spool.resume(TWO, 4, crc(b"part"))
    await resumed.close()
    with pytest.raises(SpoolDamaged):
        await read(spool, b"never was")
    await spool.close()


async def test_a_read_that_is_left_early_leaves_nothing_behind(spool: Spool) -> None:
    data = NOISE[: 20 * MIB]
    await sealed(spool, data)
    pieces = spool.read(payload_of(data), 0, 100_000)
    assert await anext(pieces) == data[:100_000]
    await pieces.aclose()  # type: ignore[attr-defined]
    assert len(asyncio.all_tasks()) == 1
    assert await read(spool, data) == data


async def test_many_uploads_at_once_do_not_disturb_each_other(spool: Spool) -> None:
    ids = [f"{number:02x}" * 16 for number in range(12)]
    contents = [NOISE[number * 1000 : number * 1000 + 9 * MIB + number] for number in range(12)]
    async with asyncio.TaskGroup() as group:
        for one, data in zip(ids, contents, strict=True):
            group.create_task(sealed(spool, data, one))
    for one, data in zip(ids, contents, strict=True):
        assert await read(spool, data, one) == data


async def test_a_sync_may_run_beside_writes(spool: Spool) -> None:
    partial = await spool.create(ONE)
    marks: list[tuple[int, int]] = []
    done = asyncio.Event()

    async def keep_syncing() -> None:
        while not done.is_set():
            marks.append(await partial.sync())
            await asyncio.sleep(0)  # a sync with nothing to do does not wait, and would let nobody write

    syncing = asyncio.create_task(keep_syncing())
    await write(partial, NOISE[: 20 * MIB])
    done.set()
    await syncing
    assert marks == sorted(marks)
    assert all(mark == (mark[0], crc(NOISE[: mark[0]])) for mark in marks)
    await partial.seal(ONE)
    await partial.close()
    assert await read(spool, NOISE[: 20 * MIB]) == NOISE[: 20 * MIB]


# Resuming ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [1, 5 * MIB, 8 * MIB, 19 * MIB + 7])
async def test_a_resume_goes_on_at_the_checkpoint_on_any_server(spool: Spool, other: Spool, mark: int) -> None:
    data = NOISE[: 24 * MIB]
    partial = await spool.create(ONE)
    await write(partial, data[:mark])
    assert await partial.sync() == (mark, crc(data[:mark]))
    await write(partial, data[mark : mark + 9 * MIB])
    await partial.close()  # what lies beyond the checkpoint may be there or not
    again = await other.resume(ONE, mark, crc(data[:mark]), connection=2)
    assert (again.offset, again.crc32c, again.sealed) == (mark, crc(data[:mark]), False)
    await write(again, data[mark:])
    assert await again.sha256() == hashlib.sha256(data).digest()
    await again.seal(ONE)
    await again.close()
    assert await read(spool, data) == data
    assert await read(other, data, offset=mark) == data[mark:]


async def test_other_bytes_may_follow_a_checkpoint_than_before(spool: Spool, other: Spool) -> None:
    first, then = NOISE[: 10 * MIB], NOISE[: 4 * MIB] + NOISE[20 * MIB : 30 * MIB]
    partial = await spool.create(ONE)
    await write(partial, first[: 4 * MIB])
    await partial.sync()
    await write(partial, first[4 * MIB :])
    await partial.sync()
    await partial.close()
    again = await other.resume(ONE, 4 * MIB, crc(first[: 4 * MIB]), connection=2)
    await write(again, then[4 * MIB :])
    await again.seal(ONE)
    await again.close()
    assert await read(spool, then) == then


async def test_a_resume_from_nothing_needs_nothing(spool: Spool, kind: SpoolKind) -> None:
    partial = await spool.resume(ONE, 0, 0, connection=2)
    await partial.write(b"abc")
    await partial.seal(ONE)
    await partial.close()
    assert await read(spool, b"abc") == b"abc"
    await spool.delete_upload(ONE)
    assert kind.left() == []


async def test_resuming_beyond_the_durable_bytes_is_damage(spool: Spool) -> None:
    partial = await spool.create(ONE)
    await partial.write(b"0123")
    await partial.sync()
    await partial.close()
    with pytest.raises(SpoolDamaged):
        await spool.resume(ONE, 10, crc(b"0123456789"), connection=2)
    with pytest.raises(SpoolDamaged):
        await spool.resume(TWO, 10, crc(b"0123456789"), connection=2)


async def test_a_payload_sealed_before_a_crash_can_be_sealed_again(spool: Spool, other: Spool) -> None:
    data = NOISE[: 10 * MIB]
    mark = 4 * MIB
    partial = await spool.create(ONE)
    await write(partial, data[:mark])
    await partial.sync()
    await write(partial, data[mark:])
    await partial.seal(ONE)
    await partial.seal(ONE)
    await partial.close()
    again = await other.resume(ONE, mark, crc(data[:mark]), connection=2)
    assert again.offset in (mark, len(data))
    await write(again, data[again.offset :])
    assert (again.offset, again.crc32c) == (len(data), crc(data))
    await again.seal(ONE)
    await again.close()
    assert await read(spool, data) == data


async def test_the_bytes_of_a_resumed_upload_are_counted_once(spool: Spool, kind: SpoolKind) -> None:
    """Leftovers of older connections go with the payload at the latest."""
    data = NOISE[: 20 * MIB]
    partial = await spool.create(ONE)
    await write(partial, data[: 3 * MIB])
    for connection in range(2, 6):
        mark = await partial.sync()
        await write(partial, data[mark[0] : mark[0] + 2 * MIB])
        await partial.close()
        partial = await spool.resume(ONE, *mark, connection=connection)
    await write(partial, data[partial.offset :])
    await partial.seal(ONE)
    await partial.close()
    assert await read(spool, data) == data
    await spool.delete_payload(ONE)
    assert kind.left() == []


# Two servers, one of which was asleep --------------------------------------------------------------------------------


@pytest.fixture(params=["shared directory", "object store"])
def shared_kind(request: pytest.FixtureRequest, tmp_path: Path) -> SpoolKind:
    if request.param == "object store":
        return ObjectKind(request.getfixturevalue("s3_spool_url"), tmp_path / "staging")
    return DirectoryKind(tmp_path / "spool", shared=True)


@pytest.fixture
async def both(shared_kind: SpoolKind) -> AsyncIterator[tuple[Spool, Spool]]:
    async with contextlib.AsyncExitStack() as stack:
        spools = shared_kind.spool(), shared_kind.spool()
        for spool in spools:
            await spool.open()
            stack.push_async_callback(spool.close)
        yield spools


async def test_a_server_that_lost_an_upload_may_go_on_writing(both: tuple[Spool, Spool]) -> None:
    asleep, awake = both
    data, lost = NOISE[: 20 * MIB], NOISE[: 4 * MIB] + bytes(16 * MIB)
    old = await asleep.create(ONE)
    await write(old, data[: 4 * MIB])
    mark = await old.sync()
    new = await awake.resume(ONE, *mark, connection=2)
    await write(old, lost[4 * MIB : 10 * MIB])
    await write(new, data[4 * MIB : 10 * MIB])
    await old.sync()
    await write(new, data[10 * MIB :])
    await new.seal(ONE)
    await write(old, lost[10 * MIB :])
    assert await read(awake, data) == data
    with contextlib.suppress(UploadTakenOver):
        await old.seal(ONE)
    for spool in both:
        assert await read(spool, data) == data
    await old.close()
    await new.close()
    assert await read(asleep, data) == data


async def test_a_seal_by_a_server_that_lost_the_upload_does_not_count(
    both: tuple[Spool, Spool], shared_kind: SpoolKind
) -> None:
    asleep, awake = both
    data, lost = NOISE[: 9 * MIB], NOISE[: 4 * MIB] + bytes(5 * MIB)
    old = await asleep.create(ONE)
    await write(old, data[: 4 * MIB])
    mark = await old.sync()
    new = await awake.resume(ONE, *mark, connection=2)
    await write(old, lost[4 * MIB :])
    with contextlib.suppress(UploadTakenOver):
        await old.seal(ONE)
    await write(new, data[4 * MIB :])
    await new.seal(ONE)
    for spool in both:
        assert await read(spool, data) == data
    for partial in (old, new):
        await partial.close()
    await awake.delete_payload(ONE)
    assert shared_kind.left() == []


async def test_the_same_bytes_sealed_by_two_are_one_payload(both: tuple[Spool, Spool], shared_kind: SpoolKind) -> None:
    asleep, awake = both
    data = NOISE[: 9 * MIB]
    old = await asleep.create(ONE)
    await write(old, data[: 4 * MIB])
    mark = await old.sync()
    await write(old, data[4 * MIB :])
    new = await awake.resume(ONE, *mark, connection=2)
    await write(new, data[4 * MIB :])
    await new.seal(ONE)
    with contextlib.suppress(UploadTakenOver):
        await old.seal(ONE)
    assert await read(awake, data) == data
    for partial in (old, new):
        await partial.close()
    await asleep.delete_payload(ONE)
    assert shared_kind.left() == []


async def test_a_resume_that_was_asleep_takes_nothing_from_a_newer_one(both: tuple[Spool, Spool]) -> None:
    """Connection 3 goes on and gets further; connection 2's resume comes to its end after that."""
    asleep, awake = both
    data = NOISE[: 12 * MIB]
    first = await asleep.create(ONE)
    await write(first, data[: 2 * MIB])
    mark = await first.sync()
    await first.close()
    new = await awake.resume(ONE, *mark, connection=3)
    await write(new, data[2 * MIB : 10 * MIB])
    further = await new.sync()
    await new.close()
    old = await asleep.resume(ONE, *mark, connection=2)
    await old.close()
    last = await asleep.resume(ONE, *further, connection=4)
    await write(last, data[10 * MIB :])
    await last.seal(ONE)
    await last.close()
    assert await read(awake, data) == data


async def test_every_server_reads_the_same_identity_and_one_makes_it(shared_kind: SpoolKind) -> None:
    spools = [shared_kind.spool(database="0001") for _ in range(8)]
    async with asyncio.TaskGroup() as group:
        for spool in spools:
            group.create_task(spool.open())
    assert len({spool.identity for spool in spools}) == 1
    assert len(spools[0].identity) == 32
    for spool in spools:
        await spool.close()


# Whose spool it is ---------------------------------------------------------------------------------------------------


async def test_another_databases_spool_is_refused(kind: SpoolKind) -> None:
    mine, foreign = kind.spool(database="0001"), kind.spool(database="0002")
    await mine.open()
    with pytest.raises(SpoolRefused, match=r"another database.*write .*0002.* into .*/identity"):
        await foreign.open()
    again = kind.spool(database="0001")
    await again.open()
    assert again.identity == mine.identity
    for spool in (mine, foreign, again):
        await spool.close()


# Damage, leftovers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["remove", "shorten"])
@pytest.mark.parametrize("size", [1000, 20 * MIB])
async def test_a_payload_that_is_not_whole_is_damage(spool: Spool, kind: SpoolKind, how: str, size: int) -> None:
    data = NOISE[:size]
    await sealed(spool, data)
    getattr(kind, how)(ONE)
    with pytest.raises(SpoolDamaged):
        await read(spool, data)


@pytest.mark.parametrize("how", ["remove", "shorten"])
async def test_a_checkpoint_that_is_not_whole_is_damage(spool: Spool, kind: SpoolKind, how: str) -> None:
    data = NOISE[: 9 * MIB]
    partial = await spool.create(ONE)
    await write(partial, data)
    mark = await partial.sync()
    await partial.close()
    getattr(kind, how)(ONE)
    with pytest.raises(SpoolDamaged):
        await spool.resume(ONE, *mark, connection=2)


async def test_deleting_is_idempotent_and_removes_sealed_files_too(spool: Spool, kind: SpoolKind) -> None:
    await sealed(spool, NOISE[: 9 * MIB])
    partial = await spool.create(TWO)
    await partial.write(b"some")
    await partial.sync()
    await partial.close()
    for _ in range(2):
        await spool.delete_upload(ONE)
        await spool.delete_upload(TWO)
        await spool.delete_payload(ONE)
    assert kind.left() == []
    assert list(await spool.files_older_than(-5)) == []


async def test_strays_go_to_the_trash_and_stay_there_for_a_day(kind: SpoolKind) -> None:
    start = time.time()
    now = [start]
    spool = kind.spool(now=lambda: now[0])
    await spool.open()
    await sealed(spool, NOISE[: 9 * MIB])
    partial = await spool.create(TWO)
    await partial.write(b"some")
    await partial.sync()
    await partial.close()
    assert list(await spool.files_older_than(60)) == []
    now[0] = start + 90_000
    assert list(await spool.files_older_than(86_400)) == [ONE, TWO]
    await spool.to_trash([ONE, TWO, "c3" * 16])
    assert kind.left() == []
    kept = kind.trash()
    assert len(kept) >= 2
    now[0] += 80_000
    await spool.to_trash([])
    assert kind.trash() == kept
    now[0] += 10_000
    await spool.to_trash([])
    assert kind.trash() == []
    await spool.close()


@pytest.mark.parametrize("bad", ["", "..", "../../etc/passwd", "ab/cd", "A1" * 16, "a1\0" + "b" * 10, "a" * 80])
async def test_an_id_that_is_no_name_reaches_nothing(spool: Spool, bad: str) -> None:
    with pytest.raises(ValueError, match="no id"):
        await spool.create(bad)
    with pytest.raises(ValueError, match="no id"):
        await spool.delete_payload(bad)
    with pytest.raises(ValueError, match="no id"):
        await spool.resume(bad, 0, 0)


async def test_the_spool_reports_free_bytes(spool: Spool) -> None:
    assert await spool.free_bytes() > 0
