"""The files of a SQLite database, as they were when the server opened them.

SQLite writes on into a file that was removed, renamed or replaced below it, and says that the commit is durable: all of
it is gone at the next start. So the files are looked at after each commit and before anybody hears of it, and while
they are not the ones that were opened, nothing is acknowledged. A look is two or three `stat`, 1 to 3 µs each. What is
removed after the look was acknowledged before it was removed.

The write-ahead log (`-wal`) belongs to it: a commit is there until the next checkpoint. So does the index of the log
(`-shm`), without which another process would make a new one and overwrite what this one has written.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path
from typing import Final

from longshore.server.store.errors import DatabaseLost

_SIDES: Final = ("", "-wal", "-shm")
_SMALLEST: Final = 512
"""Bytes of the smallest page; a database with tables has more."""
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_Identity = tuple[int, int]


class DatabaseFile:
    """Watches the files for one dialect, whose connections say when they are opened and closed. Works in any thread.

    A connection that is closed while its file is lost stays open instead: the last one to a removed file would take
    the only copy of the data with it, which `/proc/PID/fd` still shows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # SQLite follows a link to the file, and makes the other two beside the file itself.
        itself = os.path.realpath(path)
        self._names: Final = (str(path), *(f"{itself}{side}" for side in _SIDES[1:]))
        self._known: dict[str, _Identity] = {}
        self._database: _Identity | None = None
        self._open = 0
        self._lock = threading.Lock()
        self._damage: DatabaseLost | None = None
        self._kept: list[object] = []

    def before_opening(self) -> None:
        """Raise DatabaseLost if a connection would open, or make, another file than the first one did."""
        if self._open or self._damage is not None:
            self.check()
        elif self._database is not None and self._identity(self._names[0]) != self._database:
            raise self._lost(self._names[0])

    def opened(self) -> None:
        """Note a connection that is open and has read something: all three files are there."""
        with self._lock:
            if not self._open:
                # The last connection to be closed removes the log, and the first one makes it anew.
                found = {name: self._identity(name) for name in self._names}
                self._known = {name: identity for name, identity in found.items() if identity is not None}
                self._database = found[self._names[0]]
            self._open += 1

    def closing(self, connection: object) -> bool:
        """Whether the connection may be closed; otherwise it is kept here."""
        if self._is_lost():
            self._kept.append(connection)
            return False
        with self._lock:
            self._open -= 1
        return True

    def check(self) -> None:
        """Raise DatabaseLost unless all files are those that were opened."""
        if self._damage is not None:
            raise self._damage
        for name, known in self._known.items():
            try:
                found = os.stat(name)  # noqa: PTH116  after each commit, and twice as quick as a Path
            except OSError:
                raise self._lost(name) from None
            if (found.st_dev, found.st_ino) != known:
                raise self._lost(name)
            if name == self._names[0] and found.st_size < _SMALLEST:
                raise self._damaged("it is empty")

    def failed(self, error: BaseException) -> None:
        """Note that a statement failed. After damage nothing is believed any more, even if more could still be read."""
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            self._damaged(str(error))

    def _damaged(self, why: str) -> DatabaseLost:
        if self._damage is None:
            self._damage = DatabaseLost(
                "its file is damaged",
                f"{self._path} is damaged ({why}). Stop the server, keep a copy of the file, its -wal and its -shm, "
                "and restore a backup (docs/operations.md); what is left can be read with `sqlite3 FILE .recover`.",
            )
        return self._damage

    def _is_lost(self) -> bool:
        with contextlib.suppress(DatabaseLost):
            self.check()
            return False
        return True

    def _lost(self, name: str) -> DatabaseLost:
        what = "is another file than at the start" if os.path.lexists(name) else "is not there any more"
        return DatabaseLost(
            "its file is gone, or another one",
            f"{name} {what}, and nothing is acknowledged until it is back. If it was moved, move it back with its -wal "
            f"and -shm. If it was removed: before the server stops, its content is in /proc/{os.getpid()}/fd only; "
            "copy the database and its -wal from there, or stop the server and restore a backup (docs/operations.md).",
        )

    @staticmethod
    def _identity(name: str) -> _Identity | None:
        try:
            found = Path(name).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino
