"""This module puts a backup in place. A server that starts on it notices the restore, and begins with its queues
paused."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from longshore.server.config.settings import Settings, SettingsError, spool_path
from longshore.server.data.datadir import DataDir, DataDirError
from longshore.server.data.generation import mark_restored
from longshore.server.process.backup import (
    DATABASE,
    MANIFEST,
    NOT_POSTGRES,
    SPOOL,
    TOKEN,
    Manifest,
    check_room,
    digest_of,
    link_or_copy,
)
from longshore.server.spool.directory.files import sync_folder
from longshore.server.spool.identity import NAME as IDENTITY

_SIDES: Final = ("", "-wal", "-shm")
_SPOOL_NAMES: Final = (IDENTITY, "payloads", "uploads", "trash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """Tells what was put in place. `aside` is where the former files are; None means that there were none. `live_tasks`
    counts the tasks that would run again."""

    manifest: Manifest
    database: Path
    aside: Path | None
    live_tasks: int


def restore(settings: Settings, backup: Path, *, replace: bool) -> Restored:
    """Put the backup in place of the data directory's database, spool and token.

    Nothing is touched before every digest is checked. With `replace` what is there is moved aside, else it is refused.
    The database comes last, so that what an interruption leaves is no server's data yet, and a second try mends it.
    Raises SettingsError, DataDirError.
    """
    if settings.database.shared:
        raise SettingsError(NOT_POSTGRES)
    manifest = Manifest.read(backup)
    _check(backup, manifest)
    with DataDir(settings.data_dir) as data:
        database = settings.database.file(data.database)
        spool = None if manifest.payloads else spool_path(settings.spool, data.spool)
        if database.exists():
            data.claim_database(database)
        if spool is not None and spool.exists():
            data.claim_spool(spool)
        if not replace:
            _refuse(database, spool)
        # A link stays, and what it leads to is exchanged: it may be there to have the spool on another disk.
        database, spool = database.resolve(), None if spool is None else spool.resolve()
        try:
            return _Restore(backup, manifest, data, database, spool).run()
        except OSError as error:
            raise DataDirError(
                f"The restore failed: {error.strerror}: {error.filename or data.path}. Mend that and try again."
            ) from error


def _check(backup: Path, manifest: Manifest) -> None:
    """Raise DataDirError unless all files are what the manifest says."""
    wrong = []
    for file in manifest.files:
        path = backup / file.path
        try:
            if path.stat().st_size != file.size or digest_of(path) != file.sha256:
                wrong.append(f"{file.path} differs from the file that was backed up")
        except OSError as error:
            wrong.append(f"{file.path}: {error.strerror}")
    if DATABASE not in {file.path for file in manifest.files}:
        wrong.append(f"{MANIFEST} names no {DATABASE}")
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataDirError(f"{backup} is damaged, and nothing was restored: {'; '.join(wrong[:3])}{more}.")


def _refuse(database: Path, spool: Path | None) -> None:
    for path in (database, None if spool is None else spool / "payloads"):
        if path is not None and path.exists() and ((path.is_dir() and any(path.glob("*/*"))) or path.is_file()):
            raise DataDirError(
                f"{path} is there already. With --replace it is moved aside, and the backup takes its place."
            )


class _Restore:
    """One restore on its way."""

    def __init__(self, backup: Path, manifest: Manifest, data: DataDir, database: Path, spool: Path | None) -> None:
        self._backup = backup
        self._manifest = manifest
        self._data = data
        self._database = database
        self._spool = spool
        self._aside = data.path / f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"

    def run(self) -> Restored:
        self._database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_room(self._data.path, sum(file.size for file in self._manifest.files))
        # From here on a server that starts on whatever is there begins with its queues paused.
        mark_restored(self._data.generation, self._manifest.database)
        moved = self._move_aside()
        if self._spool is not None:
            self._fill_spool(self._spool)
        for file in self._manifest.files:
            if file.path == TOKEN:
                _copy_fresh(self._backup / TOKEN, self._data.token_file)
        fresh = self._database.with_name(f"{self._database.name}.restoring")
        _copy_fresh(self._backup / DATABASE, fresh)
        live = _live_tasks(fresh)
        self._give_to_owner(fresh)
        fresh.rename(self._database)
        sync_folder(self._database.parent)
        return Restored(
            manifest=self._manifest,
            database=self._database,
            aside=self._aside if moved else None,
            live_tasks=live,
        )

    def _move_aside(self) -> bool:
        """Move the old data aside. Returns whether there was any. The database goes first: without it no server starts
        on a mixture."""
        old = [self._database.with_name(self._database.name + side) for side in _SIDES]
        old += [self._data.token_file] if self._has(TOKEN) else []
        old += [self._spool] if self._spool is not None else []
        moved = False
        for path in old:
            if path.exists():
                self._aside.mkdir(mode=0o700, exist_ok=True)
                # A spool or database of another disk stays on it, under another name.
                near = self._aside if path.parent == self._data.path.resolve() else path.parent
                name = path.name if near == self._aside else f"{path.name}.{self._aside.name}"
                try:
                    path.rename(near / name)
                except OSError as error:
                    # A mount point has one name only, which is why its content moves, to a folder in it.
                    if path != self._spool or error.errno not in (errno.EBUSY, errno.EXDEV):
                        raise
                    _empty(path, path / self._aside.name)
                sync_folder(path.parent)
                moved = True
        return moved

    def _has(self, path: str) -> bool:
        return any(file.path == path for file in self._manifest.files)

    def _fill_spool(self, spool: Path) -> None:
        # The folder is there where it is a mount point.
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in self._manifest.files:
            folder, _, path = file.path.partition("/")
            if folder != SPOOL or not path:
                continue
            target = spool / path
            for parent in reversed(target.relative_to(spool).parents):
                (spool / parent).mkdir(mode=0o700, exist_ok=True)
            if path.startswith("payloads/"):
                link_or_copy(self._backup / file.path, target)
            else:
                # The file of an upload is written on.
                _copy_fresh(self._backup / file.path, target)
        for made in [spool, *(each for each in spool.rglob("*") if each.is_dir())]:
            sync_folder(made)
        sync_folder(spool.parent)

    def _give_to_owner(self, fresh: Path) -> None:
        """Give what was made to the data directory's owner, where root restores for a server of another user."""
        owner = self._data.path.stat()
        if os.geteuid() != 0 or owner.st_uid == 0:
            return
        made = [fresh, self._data.token_file, self._data.generation, self._data.path / "lock"]
        for root in (self._data.generation, self._spool):
            made += [root, *root.rglob("*")] if root is not None and root.exists() else []
        made += [self._aside]
        for path in made:
            with contextlib.suppress(FileNotFoundError):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _empty(spool: Path, aside: Path) -> None:
    """Move everything of a spool into the folder `aside` in it, and leave what is not the spool's (`lost+found`)."""
    own = [path for name in _SPOOL_NAMES if (path := spool / name).exists()]
    if own:
        aside.mkdir(mode=0o700, exist_ok=True)
    for path in own:
        path.rename(aside / path.name)
    if own:
        sync_folder(aside)
    sync_folder(spool)


def _copy_fresh(source: Path, target: Path) -> None:
    """Make a durable copy, 0600, in place of what an interrupted restore may have left."""
    target.unlink(missing_ok=True)
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with source.open("rb") as file, os.fdopen(handle, "wb") as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.flush()
        os.fsync(copy.fileno())


def _live_tasks(database: Path) -> int:
    with _looked_into(database) as connection:
        (count,) = connection.execute("SELECT count(*) FROM tasks WHERE live").fetchone()
    return int(count)


@contextlib.contextmanager
def _looked_into(database: Path) -> Iterator[sqlite3.Connection]:
    """Open the backup's database without a trace: `immutable` makes no -wal and no -shm."""
    connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        yield connection
    except sqlite3.Error as error:
        raise DataDirError(f"The database of the backup cannot be read: {error}.") from error
    finally:
        connection.close()
