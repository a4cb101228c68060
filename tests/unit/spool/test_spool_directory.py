"""The directory spool: what is durable, what is resumed, what the disk's errors become."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import pytest

from longshore.server.model.errors import SpoolDamaged, SpoolFull, StoreUnavailable
from longshore.server.model.task import Payload
from longshore.server.spool.directory.names import OwnNames
from longshore.server.spool.directory.partial import DirectoryPartial
from longshore.server.spool.directory.spool import DirectorySpool
from longshore.server.spool.faults import fault

ONE = "a1" * 16
TWO = "b2" * 16


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[DirectorySpool]:
    spool = DirectorySpool(root=tmp_path / "spool")
    await spool.open()
    yield spool
    await spool.close()


def _payload(data: bytes, payload_id: str = ONE) -> Payload:
    return Payload(payload_id, len(data), google_crc32c.value(data))


async def _all(spool: DirectorySpool, data: bytes, offset: int = 0, size: int = 10) -> list[bytes]:
    return [piece async for piece in spool.read(_payload(data), offset, size)]


async def _sealed(spool: DirectorySpool, upload_id: str, data: bytes) -> Path:
    partial = await spool.create(upload_id)
    await partial.write(data)
    await partial.seal(upload_id)
    await partial.close()
    path = spool.path(_payload(data, upload_id))
    assert path is not None
    return path


async def test_sealed_bytes_are_read_back_from_any_offset(spool: DirectorySpool) -> None:
    partial = await spool.create(ONE)
    await partial.write(b"hello ")
    await partial.write(b"world, hello container")
    content = b"hello world, hello container"
    assert (partial.offset, partial.crc32c) == (len(content), google_crc32c.value(content))
    assert await partial.sha256() == hashlib.sha256(content).digest()
    await partial.seal(ONE)
    await partial.close()
    assert await _all(spool, content) == [content[:10], content[10:20], content[20:]]
    assert b"".join(await _all(spool, content, offset=13)) == content[13:]
    assert await _all(spool, content, offset=len(content)) == []


async def test_nothing_is_under_the_final_name_before_the_seal(spool: DirectorySpool) -> None:
    partial = await spool.create(ONE)
    await partial.write(b"abc")
    await partial.sync()
    assert spool.path(_payload(b"abc")) is None
    with pytest.raises(SpoolDamaged):
        await _all(spool, b"abc")
    await partial.close()


async def test_folders_and_files_are_the_owners_alone(spool: DirectorySpool, tmp_path: Path) -> None:
    path = await _sealed(spool, ONE, b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    folders = [tmp_path / "spool", *(p for p in (tmp_path / "spool").rglob("*") if p.is_dir())]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


async def test_a_resume_truncates_the_file_at_the_checkpoint(spool: DirectorySpool) -> None:
    partial = await spool.create(ONE)
    await partial.write(b"0123456789")
    offset, crc = await partial.sync()
    await partial.write(b"lost in the crash")
    await partial.close()
    again = await spool.resume(ONE, offset, crc)
    assert (again.offset, again.crc32c, again.sealed) == (10, google_crc32c.value(b"0123456789"), False)
    await again.write(b"abc")
    await again.seal(ONE)
    await again.close()
    assert b"".join(await _all(spool, b"0123456789abc")) == b"0123456789abc"


async def test_resuming_with_fewer_bytes_than_were_durable_is_damage(spool: DirectorySpool) -> None:
    partial = await spool.create(ONE)
    await partial.write(b"0123")
    await partial.close()
    with pytest.raises(SpoolDamaged, match="Of 10 bytes"):
        await spool.resume(ONE, 10, 0)
    with pytest.raises(SpoolDamaged):
        await spool.resume(TWO, 10, 0)


async def test_a_resume_from_nothing_makes_the_file(spool: DirectorySpool) -> None:
    partial = await spool.resume(ONE, 0, 0)
    await partial.write(b"abc")
    await partial.seal(ONE)
    await partial.close()
    assert b"".join(await _all(spool, b"abc")) == b"abc"


async def test_an_upload_sealed_before_a_crash_opens_as_sealed(spool: DirectorySpool) -> None:
    content = os.urandom(3_000_000)
    await _sealed(spool, ONE, content)
    mark = 1_000_001
    again = await spool.resume(ONE, mark, google_crc32c.value(content[:mark]))
    assert (again.sealed, again.offset, again.crc32c) == (True, len(content), google_crc32c.value(content))
    with pytest.raises(SpoolDamaged, match="sealed"):
        await again.write(b"more")
    await again.seal(ONE)
    await again.close()
    assert b"".join(await _all(spool, content, size=1 << 20)) == content


async def test_deleting_is_idempotent_and_takes_sealed_bytes_of_given_up_uploads_too(spool: DirectorySpool) -> None:
    await _sealed(spool, ONE, b"x")
    partial = await spool.create(TWO)
    await partial.close()
    for _ in range(2):
        await spool.delete_upload(ONE)
        await spool.delete_upload(TWO)
        await spool.delete_payload(ONE)
    assert list(await spool.files_older_than(-1)) == []


async def test_strays_go_to_the_trash_and_stay_there_for_a_day(tmp_path: Path) -> None:
    now = [time.time()]
    spool = DirectorySpool(root=tmp_path / "spool", now=lambda: now[0])
    await spool.open()
    await _sealed(spool, ONE, b"stray")
    await (await spool.create(TWO)).close()
    (tmp_path / "spool" / "uploads" / "notes.txt").write_text("somebody's")
    assert list(await spool.files_older_than(60)) == []
    now[0] += 90_000
    assert list(await spool.files_older_than(86_400)) == [ONE, TWO]
    await spool.to_trash([ONE, TWO])
    assert list(await spool.files_older_than(60)) == []
    trash = tmp_path / "spool" / "trash"
    assert len(list(trash.iterdir())) == 2
    now[0] += 80_000
    await spool.to_trash([])
    assert len(list(trash.iterdir())) == 2
    now[0] += 10_000
    await spool.to_trash([])
    assert list(trash.iterdir()) == []
    assert (tmp_path / "spool" / "uploads" / "notes.txt").exists()
    await spool.close()


async def test_free_bytes_leave_the_reserve_alone(tmp_path: Path) -> None:
    plain, kept = DirectorySpool(root=tmp_path), DirectorySpool(root=tmp_path, reserve=1 << 50)
    await plain.open()
    assert await plain.free_bytes() > 0
    assert await kept.free_bytes() < 0
    for spool in (plain, kept):
        await spool.close()


@pytest.mark.parametrize("bad", ["", "..", "../../etc/passwd", "ab/cd", "A1" * 16, "a1\0" + "b" * 10, "a" * 80])
async def test_an_id_that_is_no_name_reaches_no_file(spool: DirectorySpool, bad: str) -> None:
    with pytest.raises(ValueError, match="no id"):
        await spool.create(bad)
    with pytest.raises(ValueError, match="no id"):
        await spool.delete_payload(bad)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, SpoolFull),
        (errno.EDQUOT, SpoolFull),
        (errno.EIO, SpoolDamaged),
        (errno.ENOENT, SpoolDamaged),
        (errno.EROFS, StoreUnavailable),
        (errno.EMFILE, StoreUnavailable),
    ],
)
def test_every_word_of_the_disk_has_an_error(number: int, kind: type[Exception]) -> None:
    assert isinstance(fault(OSError(number, os.strerror(number)), "testing"), kind)


async def test_a_full_device_is_reported_and_keeps_the_durable_bytes(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        partial = DirectoryPartial(
            fd=os.open("/dev/full", os.O_RDWR),
            part=tmp_path / "x.part",
            names=OwnNames(tmp_path),
            written=(7, 99),
            sealed=False,
            writers=pool,
            syncers=pool,
        )
        with pytest.raises(SpoolFull):
            await partial.write(b"more")
        assert (partial.offset, partial.crc32c) == (7, 99)
        await partial.close()


async def test_pieces_of_one_write_follow_each_other_however_many_they_are(spool: DirectorySpool) -> None:
    pieces = [memoryview(bytes([number % 251]) * (number % 5)) for number in range(3000)]
    content = b"".join(pieces)
    partial = await spool.create(ONE)
    await partial.write(*pieces)
    partial.begin_write(b"", *pieces, crc32c=google_crc32c.value(content)).result(10)
    assert (partial.offset, partial.crc32c) == (2 * len(content), google_crc32c.value(content * 2))
    await partial.seal(ONE)
    await partial.close()
    assert b"".join(await _all(spool, content * 2, size=1 << 20)) == content * 2


async def test_a_write_that_the_disk_takes_a_part_of_fails_as_a_whole(spool: DirectorySpool) -> None:
    """With a limit for the size of files: the system writes up to it, and refuses the rest."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    partial = await spool.create(ONE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(StoreUnavailable):
            await partial.write(b"123456", b"789012")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (partial.offset, partial.crc32c) == (0, 0)
    await partial.write(b"abcdefghijkl")
    await partial.seal(ONE)
    await partial.close()
    assert await _all(spool, b"abcdefghijkl", size=100) == [b"abcdefghijkl"]


async def test_after_a_failed_sync_the_file_is_not_believed_any_more(tmp_path: Path) -> None:
    reader, writer = os.pipe()  # a pipe cannot be synced: EINVAL, which stands for any failure
    with ThreadPoolExecutor(1) as pool:
        partial = DirectoryPartial(
            fd=writer,
            part=tmp_path / "x.part",
            names=OwnNames(tmp_path),
            written=(0, 0),
            sealed=False,
            writers=pool,
            syncers=pool,
        )
        with pytest.raises(StoreUnavailable):
            await partial.sync()
        for step in (partial.sync, lambda: partial.seal(ONE), lambda: partial.write(b"x")):
            with pytest.raises(SpoolDamaged):
                await step()
        await partial.close()
    os.close(reader)


async def test_leaving_a_read_early_closes_the_file(spool: DirectorySpool) -> None:
    path = await _sealed(spool, ONE, bytes(100))

    def open_here() -> int:
        return sum(1 for fd in Path("/proc/self/fd").iterdir() if fd.exists() and fd.resolve() == path)

    pieces = spool.read(_payload(bytes(100)), 0, 10)
    await anext(pieces)
    assert open_here() == 1
    await pieces.aclose()  # type: ignore[attr-defined]
    assert open_here() == 0


async def test_a_shared_directory_copies_only_durable_bytes(tmp_path: Path) -> None:
    """The checksum is compared on the way: a file that somebody wrote to in the wrong place is not continued."""
    spool = DirectorySpool(root=tmp_path / "spool", shared=True)
    await spool.open()
    partial = await spool.create(ONE, connection=1)
    await partial.write(b"0123456789")
    offset, crc = await partial.sync()
    await partial.close()
    (path,) = (tmp_path / "spool" / "uploads").iterdir()
    path.write_bytes(b"0123x56789")
    with pytest.raises(SpoolDamaged, match="not those that were durable"):
        await spool.resume(ONE, offset, crc, connection=2)
    assert [entry.name for entry in (tmp_path / "spool" / "uploads").iterdir()] == [path.name]
    path.write_bytes(b"0123456789 and more")
    again = await spool.resume(ONE, offset, crc, connection=3)
    assert again.offset == 10
    await again.close()
    assert [entry.name for entry in (tmp_path / "spool" / "uploads").iterdir()] == [f"{ONE}.3.part"]
    await spool.close()
