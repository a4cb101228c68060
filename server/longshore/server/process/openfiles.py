"""This module bounds open files: how many this process may have, and how many of them connections may take. It warns
when these are used up.

Each connection takes a descriptor and each upload another two. gRPC accepts connections until there is no descriptor
left, and then nothing works for anybody: 230 idle clients at a limit of 256 left none for uploads. So connections are
given a bound of their own, beyond which gRPC closes each new one at once.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

OWN: Final = 64
"""Descriptors that a server has beside connections and uploads: it starts with about 25, and reads, downloads, other
servers and the worker child take some more."""
FOR_EACH_UPLOAD: Final = 2

FEW: Final = 512
"""Fewer connections than this are worth a warning at the start."""

SLACK: Final = 4
"""Files that may have been open for a moment when the server's own were counted."""

LOOK: Final = 5.0
"""Seconds between counts of the open files. One takes 5 µs, and 0.2 µs more for each file."""

_OPEN: Final = next(filter(Path.is_dir, (Path("/proc/self/fd"), Path("/dev/fd"))))

_log = structlog.get_logger("longshore.server")


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one, as every process may; answers with the limit then.

    Shells and init systems start processes with 1024, a number kept for the sake of select(2), which nothing here uses.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        _log.warning("open_files_limit", limit=soft, error=str(error))
        return soft
    return hard


def limit_now() -> int:
    """Return the soft limit of open files."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def for_connections(limit: int, *, uploads: int, listeners: int = 1) -> int:
    """Return how many connections each listener may have, of `limit` descriptors and beside `uploads` uploads at once.

    All listeners together get at least half of the descriptors, also where the uploads would need more than the rest.
    """
    if limit == resource.RLIM_INFINITY:
        limit = 1 << 30
    return max(1, max(limit - OWN - FOR_EACH_UPLOAD * uploads, limit // 2) // listeners)


def count_open() -> int:
    """Count the descriptors that this process has."""
    return sum(1 for _ in _OPEN.iterdir())


class OpenFiles:
    """Warns once when a listener may have as many connections as it can, and again only after there were far fewer."""

    def __init__(self, *, limit: int, connections: int, count: Callable[[], int] = count_open) -> None:
        """`connections` is how many each listener may have."""
        self._limit = limit
        self._connections = connections
        self._count = count
        self._others = count()
        """Descriptors of the server itself, before there is a connection."""
        self._full = False

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        if self._connections < FEW:
            _log.warning(
                "open_files_few",
                limit=self._limit,
                connections=self._connections,
                remedy="raise the hard limit of open files (LimitNOFILE=, ulimit -n) for more clients at once",
            )
        while True:
            await asyncio.sleep(LOOK)
            self.look()

    def look(self) -> None:
        """Compare the open files with the limit, and warn if connections may have used it up."""
        # gRPC tells nobody that it has closed a connection, so open files are counted. Uploads are among them, and all
        # listeners' connections: the warning may come a little early, and never too late.
        taken = self._count() - self._others + SLACK
        if not self._full and taken >= self._connections:
            self._full = True
            _log.warning(
                "connections_full",
                connections=self._connections,
                limit=self._limit,
                remedy="further clients are turned away: raise the hard limit of open files (LimitNOFILE=, ulimit -n)",
            )
        elif self._full and taken <= self._connections * 3 // 4:
            self._full = False
            _log.info("connections_free", connections=self._connections)
