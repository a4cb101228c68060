"""A file that is written to meanwhile is refused, copied or cut, as the caller says; its name and mode come along."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longshore.client import AsyncClient, Changing, ConfigurationError, SourceError, UploadProgress, push_spec
from longshore.client.transfer import content as contents
from longshore.client.transfer import sources
from tests.support.files import CONTENT, UNTRUE, content_of, size_of
from tests.support.servers.fakeservice import Cut, FakeService, stored

MIB = 1024 * 1024
SPEC = push_spec("web/etc/motd")

pytestmark = pytest.mark.usefixtures("temporary")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_bytes(CONTENT)
    os.utime(path, (1, 1))
    return path


def appending(path: Path) -> Callable[[UploadProgress], None]:
    def append(_progress: UploadProgress) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    return append


def rewriting(path: Path, *, keep_time: bool = False) -> Callable[[UploadProgress], None]:
    """Writes into what was sent already, so that the file has as many bytes as before."""

    def rewrite(progress: UploadProgress) -> None:
        if not progress.sent:
            return
        with path.open("r+b") as file:
            file.write(b"other")
        if keep_time:
            os.utime(path, ns=(1, before))

    before = path.stat().st_mtime_ns
    return rewrite


@pytest.mark.parametrize("how", ["path", "file"])
async def test_a_growing_file_is_refused_with_the_remedy(
    client: AsyncClient, service: FakeService, log: Path, how: str
) -> None:
    with log.open("rb") as file, pytest.raises(SourceError, match=r"changed while.*--snapshot.*--as-of-now") as caught:
        await client.upload(log if how == "path" else file, spec=SPEC, progress=appending(log))
    assert caught.value.reason == "SOURCE_CHANGED"
    assert service.nothing_made()


async def test_a_snapshot_is_of_one_moment(
    client: AsyncClient, service: FakeService, log: Path, temporary: Path
) -> None:
    named: list[str] = []

    def change(progress: UploadProgress) -> None:
        rewriting(log)(progress)
        appending(log)(progress)
        named.extend(each.name for each in temporary.iterdir())

    service.uploads += [Cut(after=5 * MIB, durable=3 * MIB), None]
    await client.upload(log, spec=SPEC, progress=change, changing="snapshot")
    assert stored(service) == CONTENT
    assert content_of(log) != CONTENT
    assert named == []


async def test_a_snapshot_of_an_always_changing_file_is_refused(
    client: AsyncClient, service: FakeService, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = sources.FileSource.read

    def written_to_meanwhile(source: sources.FileSource, offset: int, count: int) -> bytes:
        data = read(source, offset, count)
        with log.open("r+b") as file:
            file.write(os.urandom(8))
        return data

    monkeypatch.setattr(sources.FileSource, "read", written_to_meanwhile)
    with pytest.raises(SourceError, match=r"each of the 3 times.*--as-of-now") as caught:
        await client.upload(log, spec=SPEC, changing=Changing.SNAPSHOT)
    assert caught.value.reason == "SOURCE_CHANGED"
    assert service.headers == []


async def test_as_of_now_is_cut_at_the_size_of_the_beginning(
    client: AsyncClient, service: FakeService, log: Path
) -> None:
    service.uploads += [Cut(after=5 * MIB, durable=3 * MIB), None]
    await client.upload(log, spec=SPEC, progress=appending(log), changing="as-of-now")
    assert stored(service) == CONTENT
    assert size_of(log) > len(CONTENT)


async def test_as_of_now_refuses_a_file_that_does_not_only_grow(
    client: AsyncClient, service: FakeService, log: Path
) -> None:
    with pytest.raises(SourceError, match=r"written to where.*--snapshot"):
        await client.upload(log, spec=SPEC, progress=rewriting(log), changing="as-of-now")
    with pytest.raises(SourceError, match="shorter"):
        await client.upload(log, spec=SPEC, progress=lambda _: os.truncate(log, 10), changing="as-of-now")
    assert service.nothing_made()


async def test_as_of_now_without_a_size_is_refused(client: AsyncClient, service: FakeService) -> None:
    for content in (UNTRUE[0], (piece for piece in [b"x"])):
        with pytest.raises(SourceError, match="as-of-now is for regular files"):
            await client.upload(content, spec=SPEC, changing="as-of-now")
    with pytest.raises(ConfigurationError, match=r'changing is .*"snapshot"'):
        await client.upload(b"x", spec=SPEC, changing="copy")  # type: ignore[arg-type]
    assert service.headers == []


async def test_a_change_that_its_time_does_not_tell_is_noticed(
    client: AsyncClient, service: FakeService, tmp_path: Path
) -> None:
    """A file written to a moment before: a second write within the same tick has the same time."""
    path = tmp_path / "fresh"
    path.write_bytes(CONTENT)
    with pytest.raises(SourceError, match="written to where"):
        await client.upload(path, spec=SPEC, progress=rewriting(path, keep_time=True))
    assert service.nothing_made()


async def test_a_change_whose_time_was_set_back_is_noticed(
    client: AsyncClient, service: FakeService, log: Path
) -> None:
    """As `rsync --inplace --times` leaves a file: other bytes, and the same size and time of its content."""
    with pytest.raises(SourceError, match="written to where"):
        await client.upload(log, spec=SPEC, progress=rewriting(log, keep_time=True))
    assert service.nothing_made()
    service.stored.clear()
    await client.upload(log, spec=SPEC, progress=lambda _: log.chmod(0o640))
    assert stored(service) == content_of(log), "another mode is no other content"


async def test_a_large_file_written_a_moment_before_is_not_read_twice(
    client: AsyncClient, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "READ_AGAIN", MIB)
    monkeypatch.setattr(contents, "READ_AGAIN", MIB)
    read: list[int] = []
    reading = sources.FileSource.read

    def counted(self: sources.FileSource, offset: int, count: int) -> bytes:
        data = reading(self, offset, count)
        read.append(len(data))
        return data

    monkeypatch.setattr(sources.FileSource, "read", counted)
    path = tmp_path / "fresh"
    path.write_bytes(CONTENT)
    await client.upload(path, spec=SPEC, request_id="untouched")
    assert sum(read) == len(CONTENT)
    # A tick has passed, so that the time of a change tells it.
    path.write_bytes(CONTENT)
    with pytest.raises(SourceError, match="changed while"):
        await client.upload(path, spec=SPEC, request_id="touched", progress=rewriting(path))
    assert not service.stored["touched"].complete


async def test_a_buffer_that_is_written_to_is_noticed(client: AsyncClient, service: FakeService) -> None:
    buffer = bytearray(CONTENT)

    def write(_progress: UploadProgress) -> None:
        buffer[0] ^= 1

    with pytest.raises(SourceError, match="buffer was written to"):
        await client.upload(buffer, spec=SPEC, progress=write)
    assert service.nothing_made()


@pytest.mark.parametrize("changing", ["refuse", "as-of-now"])
async def test_a_cut_never_joins_two_contents(
    client: AsyncClient, service: FakeService, log: Path, changing: Any
) -> None:
    """Rewritten between the cut and the resume: what is durable is of the old content, the rest would be of the new."""
    service.uploads += [Cut(after=5 * MIB, durable=5 * MIB), None]

    def replace_once(progress: UploadProgress) -> None:
        if progress.problem is not None:
            stat = log.stat()
            with log.open("r+b") as file:
                file.write(os.urandom(stat.st_size))
            os.utime(log, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    with pytest.raises(SourceError) as caught:
        await client.upload(log, spec=SPEC, progress=replace_once, changing=changing)
    assert caught.value.reason == "SOURCE_CHANGED"
    assert service.nothing_made()


# Names and modes -----------------------------------------------------------------------------------------------------


async def test_a_name_that_is_not_utf_8(client: AsyncClient, service: FakeService, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    path.write_bytes(b"coffee")
    with pytest.raises(ConfigurationError, match=r"caf\\xe9 is not UTF-8.*--to web/srv/NAME"):
        await client.push(path, "web/srv/")
    assert service.headers == []
    await client.push(path, "web/srv/cafe")
    assert stored(service) == b"coffee"
    path.unlink()
    with pytest.raises(SourceError, match=r"caf\\xe9: No such file") as caught:
        await client.push(path, "web/srv/cafe")
    assert caught.value.message.encode()


@pytest.mark.parametrize(
    ("mode", "sent"), [(0o755, 0o755), (0o600, 0o600), (0o4755, 0o755), (0o1777, 0o777), (0o444, 0o444)]
)
async def test_a_file_that_is_new_gets_its_source_s_mode(
    client: AsyncClient, service: FakeService, tmp_path: Path, mode: int, sent: int
) -> None:
    path = tmp_path / "script"
    path.write_bytes(b"#!/bin/sh\n")
    path.chmod(mode)
    await client.push(path, "web/bin/a", "web/bin/b")
    await client.upload(path, spec=SPEC)
    await client.upload(path, spec=SPEC, changing="snapshot")
    for header in service.headers:
        for push in header.spec.file_push.pushes:
            assert (push.HasField("mode"), push.mode_if_new) == (False, sent)
    assert not SPEC.file_push.pushes[0].HasField("mode_if_new")


async def test_a_given_mode_is_kept(client: AsyncClient, service: FakeService, tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_bytes(b"#!/bin/sh\n")
    path.chmod(0o755)
    await client.push(path, "web/bin/a", mode="640")
    await client.push(path, "web/bin/a", mode_if_new=0o600)
    await client.push(path, "web/bin/a", keep_mode=False)
    await client.push(path.read_bytes(), "web/bin/a")
    with path.open("rb") as file:
        await client.push(file, "web/bin/a")
    modes = [
        (push.mode if push.HasField("mode") else None, push.mode_if_new if push.HasField("mode_if_new") else None)
        for header in service.headers
        for push in header.spec.file_push.pushes
    ]
    assert modes == [(0o640, None), (None, 0o600), (None, None), (None, None), (None, None)]
