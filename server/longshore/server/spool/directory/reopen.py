"""This module continues an upload whose file is there already. Its functions run in threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import google_crc32c

from longshore.server.model.errors import SpoolDamaged
from longshore.server.spool.directory.files import sync_folder
from longshore.server.spool.directory.names import Names, connection_of
from longshore.server.spool.faults import DAMAGED, translated

_BLOCK: Final = 1 << 20


def in_place(part: Path, final: Path, offset: int, crc: int) -> tuple[int, tuple[int, int], bool]:
    """Open the file again where no other server can have it, and return (descriptor, (offset, crc32c), sealed). The
    file is cut at `offset`; one that was sealed before is opened as it is."""
    sealed = not part.exists() and final.exists()
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if not offset and not sealed else 0)
    with translated("opening an upload again"):
        fd = os.open(final if sealed else part, flags, 0o600)
    try:
        with translated("opening an upload again"):
            held = os.fstat(fd).st_size
            if held < offset:
                raise _short(offset, held)
            if sealed:
                return fd, (held, _crc_from(fd, offset, held, crc)), True
            os.ftruncate(fd, offset)
            return fd, (offset, crc), False
    except BaseException:
        os.close(fd)
        raise


def copied(names: Names, upload_id: str, offset: int, crc: int, connection: int) -> int:
    """Copy the first `offset` bytes into this connection's own file, and return its descriptor. Another server may
    still have the old file open and write to it.

    The copy is durable before the files of older connections go, and only theirs go: a server that was asleep in the
    middle of this finds newer files and leaves them.
    """
    part = names.part(upload_id, connection)
    with translated("opening an upload again"):
        # The file is made before the folder is read: on a network file system that makes this machine look anew.
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with translated("copying an upload"):
            others = [path for path in names.of(upload_id) if path != part]
            if offset:
                _copy_first(others, fd, offset, crc)
                os.fdatasync(fd)
                sync_folder(part.parent)
            for path in others:
                if path.parent == part.parent and connection_of(path) < connection:
                    path.unlink(missing_ok=True)
    except BaseException:
        os.close(fd)
        part.unlink(missing_ok=True)
        raise
    return fd


def _copy_first(sources: list[Path], to: int, offset: int, crc: int) -> None:
    """Copy `offset` bytes that have this checksum, from the first file that has them."""
    longest = 0
    for source in sources:
        try:
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            longest = max(longest, os.fstat(fd).st_size)
            if os.fstat(fd).st_size >= offset and _copy(fd, to, offset) == crc:
                return
        except OSError as error:
            # A newer connection has removed the file, or it is lost: another file may still have the bytes.
            if error.errno not in DAMAGED:
                raise
        finally:
            os.close(fd)
    raise _short(offset, longest)


def _copy(fd: int, to: int, size: int) -> int:
    """Copy at most `size` bytes, and return their CRC32C; `to` is no longer than that afterwards."""
    os.ftruncate(to, 0)
    at = crc = 0
    while at < size:
        block = os.pread(fd, min(_BLOCK, size - at), at)
        if not block:
            break
        crc = google_crc32c.extend(crc, block)
        rest = memoryview(block)
        while rest:
            count = os.pwrite(to, rest, at)
            rest, at = rest[count:], at + count
    return crc


def _crc_from(fd: int, start: int, end: int, crc: int) -> int:
    """Compute the CRC32C of everything, given that of the bytes before `start`."""
    at = start
    while at < end:
        block = os.pread(fd, min(_BLOCK, end - at), at)
        if not block:
            raise SpoolDamaged(f"A sealed payload ends at byte {at}, before its {end} bytes.")
        crc, at = google_crc32c.extend(crc, block), at + len(block)
    return crc


def _short(offset: int, held: int) -> SpoolDamaged:
    if held < offset:
        return SpoolDamaged(f"Of {offset} bytes that were durable {held} are left.")
    return SpoolDamaged(f"The first {offset} bytes are not those that were durable.")
