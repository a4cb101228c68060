"""This module finds the earlier sessions of this worker that are certainly dead.

A worker process holds a lock (flock) on a file for as long as it lives, and writes its session id into it. A process
that gets the lock later knows that the process of the session in the file has ended, and tells the server, which then
need not wait for its lease. Only the kernel gives such a lock back, so a stopped or slow process is never taken for a
dead one.

The file holds one session id a line: first the holder's own, then the dead ones that no server has heard of yet.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from typing import Final

from longshore.contract.names import wrong_session_id

_MOST_SLOTS: Final = 1000


class Slot:
    """One lock of one worker process, held until `close` or its end."""

    def __init__(self, fd: int, path: Path, session_id: str, dead_sessions: tuple[str, ...]) -> None:
        self._fd = fd
        self._path: Final = path
        self._session_id: Final = session_id
        self._dead = dead_sessions

    @classmethod
    def take(cls, folder: Path, name: str, session_id: str) -> Slot:
        """Take the first free slot of the worker's name: `name`, `name.2`, ... Raises OSError.

        Every other slot of that name whose holder is dead is emptied too: it may never be taken again.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(1, _MOST_SLOTS):
            path = folder / (name if number == 1 else f"{name}.{number}")
            fd = _lock(path)
            if fd is not None:
                break
        else:
            raise OSError(f"{folder} has {_MOST_SLOTS} workers named {name}")
        try:
            slot = cls(fd, path, session_id, _sessions(fd))
            slot.write()
            slot.adopt(folder, name)
        except BaseException:
            os.close(fd)
            raise
        return slot

    @property
    def path(self) -> Path:
        """The locked file."""
        return self._path

    @property
    def dead_sessions(self) -> tuple[str, ...]:
        """Return the sessions whose process has ended and that no server has been told of yet."""
        return self._dead

    def adopt(self, folder: Path, name: str) -> None:
        """Take over the sessions of other slots whose holder is dead. They are written into this file before they leave
        the other one."""
        for path in sorted(folder.glob(f"{name}*")):
            if path == self._path or not re.fullmatch(rf"{re.escape(name)}(\.\d+)?", path.name):
                continue
            fd = _lock(path)
            if fd is None:
                continue
            try:
                if sessions := _sessions(fd):
                    self._dead += sessions
                    self.write()
                    os.ftruncate(fd, 0)
            finally:
                os.close(fd)

    def told(self, sessions: tuple[str, ...]) -> None:
        """Forget these sessions, because a server has been told of them."""
        self._dead = tuple(session for session in self._dead if session not in sessions)
        self.write()

    def write(self) -> None:
        """Replace the file's content. Not synced: after a power cut every process is dead anyway, and leases end."""
        text = "".join(f"{line}\n" for line in (self._session_id, *self._dead)).encode()
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))

    def close(self, *, ended: bool = False) -> None:
        """Give the lock back. With `ended` the session has said goodbye, and no server need be told that it is dead."""
        if ended and not self._dead:
            os.ftruncate(self._fd, 0)
        os.close(self._fd)


def _lock(path: Path) -> int | None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _sessions(fd: int) -> tuple[str, ...]:
    text = os.pread(fd, 1 << 16, 0).decode("ascii", "replace")
    return tuple(line for line in text.splitlines() if not wrong_session_id(line))
