"""A data directory belongs to one server at a time. It has the token that lets callers in."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final, Self

_TOKEN_BYTES: Final = 32
_SERVER: Final = re.compile(r"[0-9a-f]{16}")
_TOKEN: Final = re.compile(r"[\x21-\x7e]{16,4096}")
"""The shape of a token that travels in a header and cannot be guessed in an afternoon."""


class DataDirError(Exception):
    """The data directory cannot be used; the message says why and what to do."""


class DataDirInUse(DataDirError):
    """Another server has the data directory. `pid` is that server's. None means that it left none."""

    def __init__(self, path: Path, pid: int | None, *, option: str = "--data-dir") -> None:
        who = f"longshored with pid {pid}" if pid is not None else "another longshored"
        super().__init__(f"{path} is in use by {who}. Stop that one, or give this one its own {option}.")
        self.pid = pid


class DataDir:
    """A data directory that this process holds. Leaving the context manager lets the directory go.

    The lock is the kernel's (flock), so that it ends with the process however that ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._claims: list[int] = []

    @property
    def database(self) -> Path:
        return self.path / "longshore.db"

    @property
    def spool(self) -> Path:
        return self.path / "spool"

    @property
    def staging(self) -> Path:
        """Return the folder in which bytes wait for an object store. Its files have no names, so nothing is left after
        a stop."""
        return self.path / "staging"

    @property
    def instances(self) -> Path:
        """Return the folder in which the child worker's directory target has its instance roots."""
        return self.path / "instances"

    @property
    def generation(self) -> Path:
        """Return the folder that says outside of the database how far the database has come: see `generation`."""
        return self.path / "generation"

    @property
    def token_file(self) -> Path:
        return self.path / "token"

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataDirError(
                f"{self.path} cannot be used: {error.strerror}. "
                "Give a folder that this user may write to with --data-dir."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            written = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            raise DataDirInUse(self.path, int(written) if written.isdigit() else None) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock
        return self

    def __exit__(self, *_exc: object) -> None:
        while self._claims:
            os.close(self._claims.pop())
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def claim_database(self, path: Path) -> None:
        """Keep other servers off the database, whatever data directory they have. A missing database is made, for this
        user only.

        The lock is on the file itself, and SQLite's own locks are of another sort. Call it before SQLite opens the
        file: closing a descriptor lets go of all locks of that other sort. Raises DataDirError.
        """
        self._claim(path, "--database", os.O_RDWR | os.O_CREAT)

    def claim_spool(self, folder: Path) -> None:
        """Keep other servers off the spool: a server sweeps what its database does not know. Raises DataDirError."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(folder, "--spool", error) from error
        self._claim(folder, "--spool", os.O_RDONLY | os.O_DIRECTORY)

    def _claim(self, path: Path, option: str, flags: int) -> None:
        try:
            claim = os.open(path, flags | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(path, option, error) from error
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
            raise DataDirInUse(path, None, option=option) from None
        self._claims.append(claim)

    def succeed(self, server: str) -> str:
        """Write down which server has the directory now, and return the one that had it before. Empty means that none
        is known. That server has ended, because this one has the lock. A file that cannot be read or written does not
        stop the start: other servers notice the end in time."""
        path = self.path / "server"
        try:
            before = path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            before = ""
        with contextlib.suppress(OSError):
            path.write_text(f"{server}\n")
        return before if _SERVER.fullmatch(before) else ""

    def token(self) -> str:
        """Return the token, which is made at the first start (mode 0600) and kept from then on. Delete the file to have
        a new one made. Raises DataDirError, also for a token that every user of the machine may read."""
        try:
            mode = self.token_file.stat().st_mode
            token = self.token_file.read_text("ascii").strip()
        except FileNotFoundError:
            return self._new_token()
        except (OSError, UnicodeDecodeError) as error:
            raise DataDirError(
                f"{self.token_file} cannot be read: {error}. Delete it to have a new one made."
            ) from error
        if not token:
            raise DataDirError(f"{self.token_file} is empty. Delete it to have a new one made.")
        if not _TOKEN.fullmatch(token):
            raise DataDirError(
                f"{self.token_file} holds no token: 16 or more printable characters without spaces are wanted. Delete "
                "it to have a new one made."
            )
        # A group may be let in on purpose: that of the workers, say.
        if mode & stat.S_IRWXO:
            raise DataDirError(
                f"{self.token_file} has mode {stat.S_IMODE(mode):04o}: other users of this machine may have read it. "
                "`chmod 600` it if they have not, or delete it to have a new one made."
            )
        return token

    def _new_token(self) -> str:
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        fresh = self.path / "token.new"
        # Written beside and renamed: a reader finds no token or the whole one.
        fresh.unlink(missing_ok=True)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, f"{token}\n".encode("ascii"))
            os.fsync(handle)
        finally:
            os.close(handle)
        fresh.rename(self.token_file)
        return token


def _unusable(path: Path, option: str, error: OSError) -> DataDirError:
    return DataDirError(f"{option}: {path} cannot be used: {error.strerror}.")
