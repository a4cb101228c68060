"""The folder `generation/` of the data directory says how far the database has come, outside of the database.

A database that was put back from a backup cannot tell that by itself. So after each commit that moved tasks the server
writes the commit's position into a small file before anybody hears of the commit, and a database that is behind its
file was restored. The file has the position that was reached, never one to come: no crash makes it run ahead.

What it costs: a `pwrite` of one record for each commit (about 2 µs), and one `fdatasync` a second at most. A killed
server therefore leaves the exact position; after a power cut the file may be behind by the commits of the last
second, or by those after which the server was idle for less than `writer.PROBE_IDLE`.

A data directory that was copied back as a whole brings its old file along. Each start gives the file a new name, and
the file says which inode it is: a copy is another one. File systems without inode generations (tmpfs, network and FUSE
ones) tell nothing by that, and there only the position counts.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import re
import secrets
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import structlog

from longshore.server.spool.directory.files import sync_folder
from longshore.server.store.protocol import Behind

_log = structlog.get_logger("longshore.server")

RESTORED: Final = 2**62
"""A position that no database reaches: `longshored restore` writes it, so that the next start knows."""
SYNC_EVERY: Final = 1.0
"""Seconds of commits that a power cut may take from the file."""

_RESTORED: Final = "it was put in place by `longshored restore`"
_OLDER: Final = "it is older than what was done with it"
_MOVED: Final = "the data directory does not say how far it had come"
_COPIED: Final = "the data directory is a copy"

_GET_VERSION: Final = 0x80087601
"""FS_IOC_GETVERSION: the generation of an inode, which tells two files apart that had the same number in turn."""
_RECORD: Final = re.compile(
    rb"longshore-generation 1 ([0-9a-f]{16}) (\d{20}) (\d{20}) (\d{10}) ([0-9a-f]{8})\n", re.ASCII
)
_NAME: Final = re.compile(r"([0-9a-f]{16})-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Record:
    """The content of a file. `inode` and `version` are those of the file that it was written into. Both are 0 where
    that tells nothing."""

    database: int
    position: int
    inode: int
    version: int

    @classmethod
    def read(cls, content: bytes) -> Self | None:
        """Read a record. None means that the content is no record, or a damaged one."""
        found = _RECORD.fullmatch(content)
        if found is None or int(found[5], 16) != zlib.crc32(content[: found.start(5)]):
            return None
        return cls(int(found[1], 16), int(found[2]), int(found[3]), int(found[4]))

    def content(self) -> bytes:
        said = b"longshore-generation 1 %016x %020d %020d %010d " % (
            self.database,
            self.position,
            self.inode,
            self.version,
        )
        return said + b"%08x\n" % zlib.crc32(said)


class GenerationFile:
    """Keeps `store.protocol.Generation` in the folder `folder`, which is made when it is not there.

    `alone` means that the database has one server, so that a database that has come somewhere must have a file here.
    Belongs to the writer's thread.
    """

    def __init__(self, folder: Path, *, alone: bool) -> None:
        self._folder = folder
        self._alone = alone
        self._file: int | None = None
        self._record = Record(0, 0, 0, 0)
        self._synced_at = float("-inf")
        self._dirty = False
        self._complained = False

    def compare(self, database: int, position: int) -> Behind | None:
        if self._file is not None and self._record.database == database:
            known = self._record.position
            return Behind(_OLDER, known) if known > position else None
        found = list(self._files(database))
        records = [record for _, record, _ in found if record is not None]
        # `longshored restore` has left a position that none was: what else is known counts.
        known = max((record.position for record in records if record.position != RESTORED), default=0)
        if any(record.position == RESTORED for record in records):
            return Behind(_RESTORED, known)
        if known > position:
            return Behind(_OLDER, known)
        if not self._alone or not position:
            return None
        if not records:
            return Behind(_MOVED, known)
        return None if any(is_own for _, record, is_own in found if record is not None) else Behind(_COPIED, known)

    def begin(self, database: int, position: int) -> None:
        if self._file is not None and self._record.database == database:
            self.reached(position)
            return
        self.close()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        older = [path for path, _, _ in self._files(database)]
        path = self._folder / f"{database:016x}-{secrets.token_hex(8)}"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            inode, version = _identity(file)
            record = Record(database, position, inode, version)
            os.pwrite(file, record.content(), 0)
            os.fsync(file)
            sync_folder(self._folder)
            sync_folder(self._folder.parent)
            for each in older:
                each.unlink(missing_ok=True)
        except OSError:
            # The older ones stay in force until the next try: a full disk must not leave an empty file as the newest.
            os.close(file)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            raise
        self._file, self._record = file, record

    def reached(self, position: int) -> None:
        if self._file is None or position <= self._record.position:
            return
        before = self._record
        self._record = Record(before.database, position, before.inode, before.version)
        try:
            os.pwrite(self._file, self._record.content(), 0)
            self._dirty = True
            if time.monotonic() - self._synced_at >= SYNC_EVERY:
                self._fdatasync(self._file)
        except OSError as error:
            self._complain(error)

    def sync(self) -> None:
        if self._file is not None and self._dirty:
            try:
                self._fdatasync(self._file)
            except OSError as error:
                self._complain(error)

    def close(self) -> None:
        self.sync()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _fdatasync(self, file: int) -> None:
        os.fdatasync(file)
        self._synced_at = time.monotonic()
        self._dirty = False

    def _complain(self, error: OSError) -> None:
        """Complain once. The commits are safe; only a restore to a state after the last record would go unnoticed."""
        if not self._complained:
            self._complained = True
            _log.error("generation_not_written", folder=str(self._folder), error=error.strerror)

    def _files(self, database: int) -> Iterator[tuple[Path, Record | None, bool]]:
        """Files of the database, with their records (None: damaged), and whether each is the file that it says."""
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.iterdir()):
            named = _NAME.fullmatch(path.name)
            if named is None or int(named[1], 16) != database:
                continue
            with path.open("rb") as file:
                record = Record.read(file.read(4096))
                same = record is not None and (
                    not record.version or (record.inode, record.version) == _identity(file.fileno())
                )
            yield path, record, same


def mark_restored(folder: Path, database: int) -> None:
    """Write down that the database counts as restored, whatever it says. This is durable on return. Raises OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{database:016x}-{secrets.token_hex(8)}"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, Record(database, RESTORED, 0, 0).content())
        os.fsync(file)
    finally:
        os.close(file)
    sync_folder(folder)
    sync_folder(folder.parent)


def _identity(file: int) -> tuple[int, int]:
    """Return the number and the generation of the file's inode; zeros where the file system has no generations."""
    version = array.array("l", [0])
    with contextlib.suppress(OSError):
        fcntl.ioctl(file, _GET_VERSION, version)
        if number := version[0] & 0xFFFFFFFF:
            return os.fstat(file).st_ino, number
    return 0, 0
