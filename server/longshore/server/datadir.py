"""The data directory: one server at a time, and the token that opens its door."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import Final, Self

_TOKEN_BYTES: Final = 32


class DataDirError(Exception):
    """The data directory cannot be used; the message says why and what to do."""


class DataDirInUse(DataDirError):
    """Another server has it. `pid` is that server's, or None where it left none."""

    def __init__(self, path: Path, pid: int | None) -> None:
        who = f"longshored with pid {pid}" if pid is not None else "another longshored"
        super().__init__(f"{path} is in use by {who}. Stop that one, or give this one its own --data-dir.")
        self.pid = pid


class DataDir:
    """A data directory that this process holds. A context manager: leaving it lets the directory go.

    The lock is the kernel's (flock), so that it ends with the process however that ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def database(self) -> Path:
        return self.path / "longshore.db"

    @property
    def spool(self) -> Path:
        return self.path / "spool"

    @property
    def instances(self) -> Path:
        """Where the embedded worker's directory target has its instance roots."""
        return self.path / "instances"

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
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def token(self) -> str:
        """The token, made at the first start (mode 0600) and kept from then on. Delete the file to have a new one
        made."""
        try:
            token = self.token_file.read_text("ascii").strip()
        except FileNotFoundError:
            return self._new_token()
        except (OSError, UnicodeDecodeError) as error:
            raise DataDirError(
                f"{self.token_file} cannot be read: {error}. Delete it to have a new one made."
            ) from error
        if not token:
            raise DataDirError(f"{self.token_file} is empty. Delete it to have a new one made.")
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
