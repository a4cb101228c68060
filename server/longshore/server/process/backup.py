"""This module backs up a server's data directory, beside the running server.

The database is copied by SQLite's own backup, from one snapshot. Payloads are taken while that snapshot is held and
before the long copy begins: sealed payloads never change, so that a second name (a hard link) is a copy, and only on
another file system the bytes are read. A payload that was removed between the snapshot and its link has belonged to a
task that is done: then a new snapshot is taken, and what was taken already stays until the end.

The file `manifest.json` is written last. A folder without it is no backup.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from longshore.server import version
from longshore.server.config.settings import Settings, SettingsError, spool_path
from longshore.server.data.datadir import DataDir, DataDirError
from longshore.server.model.errors import StoreUnavailable
from longshore.server.model.values import UploadState
from longshore.server.spool.directory.files import sync_folder
from longshore.server.spool.directory.names import OwnNames
from longshore.server.spool.identity import NAME as IDENTITY

DATABASE: Final = "longshore.db"
TOKEN: Final = "token"
SPOOL: Final = "spool"
MANIFEST: Final = "manifest.json"
FORMAT: Final = 1

_PASSES: Final = 20
_BLOCK: Final = 1 << 20
_LIVE_PAYLOADS: Final = (
    "SELECT id, size FROM payloads WHERE NOT doomed AND id NOT IN (SELECT payload_id FROM inline_payloads) ORDER BY id"
)
_UPLOADS: Final = 'SELECT id, "offset" FROM uploads WHERE state = ? AND "offset" > 0 ORDER BY id'
_DATABASE_ID: Final = "SELECT value FROM sequence WHERE name = 'database'"

NOT_POSTGRES: Final = (
    "--database postgresql://: back it up with PostgreSQL's own means (pg_dump, or a base backup with its log), which "
    'this command does not replace; payloads stay in the spool. docs/operations.md, "Restore on PostgreSQL", has the '
    "procedure."
)


@dataclass(frozen=True, slots=True)
class File:
    """A file of a backup, by its path in it."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Says what a backup has. `missing` are the payloads that the database names and the spool did not have. `payloads`
    names the place of payloads that are not in the backup; empty means that they are in it."""

    format: int
    version: str
    made: str
    database: int
    payloads: str
    missing: tuple[str, ...]
    files: tuple[File, ...]

    def content(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest of a backup. Raises DataDirError where there is none that this version can read."""
        try:
            raw = json.loads((folder / MANIFEST).read_bytes())
            files = tuple(File(str(one["path"]), int(one["size"]), str(one["sha256"])) for one in raw["files"])
            known = cls(
                format=int(raw["format"]),
                version=str(raw["version"]),
                made=str(raw["made"]),
                database=int(raw["database"]),
                payloads=str(raw["payloads"]),
                missing=tuple(str(one) for one in raw["missing"]),
                files=files,
            )
        except OSError as error:
            raise DataDirError(f"{folder} is no backup: {MANIFEST} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataDirError(f"{folder} is no backup: {MANIFEST} is damaged.") from error
        if known.format != FORMAT:
            raise DataDirError(
                f"{folder}: the backup has format {known.format}, which this version of Longshore does not know; take "
                f"the version that made it, {known.version}."
            )
        return known


def back_up(settings: Settings, to: Path) -> Manifest:
    """Make a backup in the folder `to`, which must be new or empty. A backup that fails leaves nothing there.

    Raises SettingsError, DataDirError, and StoreUnavailable where another try may help.
    """
    if settings.database.shared:
        raise SettingsError(NOT_POSTGRES)
    data = DataDir(settings.data_dir)
    database = settings.database.file(data.database)
    if not database.exists():
        raise DataDirError(f"{database} is not there. Give the server's own --data-dir, --database or --config.")
    elsewhere = settings.spool if settings.spool.startswith("s3:") else ""
    spool = None if elsewhere else spool_path(settings.spool, data.spool)
    with _folder(to), _troubles(to, database), contextlib.closing(_opened(database)) as source:
        return _Backup(to, source, spool, data.token_file, elsewhere).run()


class _Backup:
    """One backup on its way."""

    def __init__(self, to: Path, source: sqlite3.Connection, spool: Path | None, token: Path, elsewhere: str) -> None:
        self._to = to
        self._source = source
        self._spool = spool
        self._token = token
        self._elsewhere = elsewhere
        self._missing: tuple[str, ...] = ()

    def run(self) -> Manifest:
        self._check_room()
        self._hold()
        (database,) = self._source.execute(_DATABASE_ID).fetchone() or (0,)
        uploads = self._source.execute(_UPLOADS, (UploadState.OPEN.value,)).fetchall() if self._spool else []
        self._copy_database()
        self._source.rollback()
        if self._spool is not None:
            self._copy_uploads(self._spool, uploads)
            _copy(self._spool / IDENTITY, self._to / SPOOL / IDENTITY)
        if self._token.exists():
            _copy(self._token, self._to / TOKEN)
        manifest = Manifest(
            format=FORMAT,
            version=version.VERSION,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            database=database,
            payloads=self._elsewhere,
            missing=self._missing,
            files=tuple(files_of(self._to)),
        )
        for folder in [self._to, *(path for path in self._to.rglob("*") if path.is_dir())]:
            sync_folder(folder)
        _write(self._to / MANIFEST, manifest.content())
        sync_folder(self._to)
        sync_folder(self._to.parent)
        return manifest

    def _hold(self) -> None:
        """Hold a snapshot of the database of which every payload is taken, as far as it is there."""
        before: set[str] = set()
        for _ in range(_PASSES):
            self._source.execute("BEGIN")
            wanted = [row[0] for row in self._source.execute(_LIVE_PAYLOADS)] if self._spool is not None else []
            missing = {one for one in wanted if self._spool is not None and not self._take(self._spool, one)}
            if missing <= before:
                # Of all that is missing nothing was removed meanwhile: it had not been there.
                break
            before = missing
            self._source.rollback()
        else:
            raise StoreUnavailable("Payloads come and go faster than they can be taken: try again.")
        self._missing = tuple(sorted(missing))
        taken = self._to / SPOOL / "payloads"
        for path in taken.glob("*/*") if taken.is_dir() else ():
            if path.name not in set(wanted):
                path.unlink()

    def _take(self, spool: Path, payload: str) -> bool:
        """Take a payload into the backup. Returns whether the backup has it."""
        source = OwnNames(spool).final(payload, 0, 0)
        target = OwnNames(self._to / SPOOL).final(payload, 0, 0)
        if target.exists():
            return True
        _make_folder(target.parent, below=self._to)
        try:
            link_or_copy(source, target)
        except FileNotFoundError:
            return False
        return True

    def _copy_database(self) -> None:
        path = self._to / DATABASE
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with contextlib.closing(sqlite3.connect(path)) as copy:
            # On the connection that holds the snapshot, so that it copies that one. In one step: in several, each
            # commit of the server would make it begin anew. The server goes on writing meanwhile.
            self._source.backup(copy)
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as copy:
            (said,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise DataDirError(f"The database is damaged, and so is its copy: restore an older backup. ({said})")
        _sync(path)

    def _copy_uploads(self, spool: Path, uploads: list[tuple[str, int]]) -> None:
        """Copy the durable beginnings of uploads. An upload that was completed since has its bytes in its payload; one
        that is gone begins anew when it is resumed."""
        names, taken = OwnNames(spool), OwnNames(self._to / SPOOL)
        for upload, offset in uploads:
            _make_folder(taken.uploads, below=self._to)
            for source in (names.part(upload, 0), names.final(upload, 0, 0)):
                with contextlib.suppress(FileNotFoundError):
                    _copy(source, taken.part(upload, 0), most=offset)
                    break

    def _check_room(self) -> None:
        (pages,), (size,) = (self._source.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
        needed = pages * size
        if self._spool is not None:
            here, there = self._to.stat().st_dev, self._spool.stat().st_dev
            (payloads,) = self._source.execute("SELECT coalesce(sum(size), 0) FROM payloads").fetchone()
            (uploads,) = self._source.execute('SELECT coalesce(sum("offset"), 0) FROM uploads').fetchone()
            needed += uploads + (payloads if here != there else 0)
        check_room(self._to, needed)


def check_room(folder: Path, needed: int) -> None:
    """Raise DataDirError unless the disk of the folder has so many bytes left."""
    figures = os.statvfs(folder)
    free = figures.f_bavail * figures.f_frsize
    if free < needed:
        raise DataDirError(f"{folder}: {needed:,} bytes are needed there, and {free:,} are free.")


def files_of(folder: Path) -> Iterator[File]:
    """Yield all files below a folder but its manifest, with their digests."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            yield File(path.relative_to(folder).as_posix(), path.stat().st_size, digest_of(path))


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that never changes a second name, or copy it where there are no names across. Raises OSError."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        _copy(source, target)


def _copy(source: Path, target: Path, *, most: int | None = None) -> None:
    """Copy a file durably, 0600; at most so many bytes of it."""
    with source.open("rb") as file:
        _make_parent(target)
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as copy:
            if most is None:
                shutil.copyfileobj(file, copy, _BLOCK)
            else:
                while most and (block := file.read(min(_BLOCK, most))):
                    copy.write(block)
                    most -= len(block)
            copy.flush()
            os.fsync(copy.fileno())


def _write(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_parent(path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)


def _make_folder(folder: Path, *, below: Path) -> None:
    """Make a folder with its parents, for this user only (what `parents=True` makes is not)."""
    if folder != below and not folder.is_dir():
        _make_folder(folder.parent, below=below)
        folder.mkdir(mode=0o700, exist_ok=True)


def _opened(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)


@contextlib.contextmanager
def _folder(to: Path) -> Iterator[None]:
    """Provide the folder of the backup, which must be new or empty. If the block fails, the folder is left as it
    was."""
    made = False
    try:
        try:
            to.mkdir(mode=0o700)
            made = True
        except FileExistsError:
            if not to.is_dir() or any(to.iterdir()):
                raise DataDirError(f"{to} is not empty. Give a new folder.") from None
            to.chmod(0o700)
    except OSError as error:
        raise DataDirError(f"{to} cannot be used: {error.strerror}.") from error
    try:
        yield
    except BaseException:
        for path in tuple(to.iterdir()):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if made:
            to.rmdir()
        raise


@contextlib.contextmanager
def _troubles(to: Path, database: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise DataDirError(f"{database} cannot be backed up: {error}.") from error
    except OSError as error:
        raise DataDirError(f"The backup in {to} failed: {error.strerror}: {error.filename or to}.") from error
