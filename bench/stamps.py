"""Moments that one process tells another, and what many of them come to.

A stamp is time.monotonic(), which is one clock for all processes of a machine. It is taken before the message that
carries it is sent, so that telling it costs the measurement nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

WAIT: Final = 30.0
"""Seconds after which a stamp that does not come is an error."""


class Stamps:
    """A unix datagram socket at `path` that hears `NAME STAMP` words from other processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    async def next(self, name: str) -> float:
        """The next stamp, which must be of this name. Raises TimeoutError, AssertionError."""
        async with asyncio.timeout(WAIT):
            said, stamp = (await asyncio.get_running_loop().sock_recv(self._socket, 200)).split()
        if said.decode() != name:
            raise AssertionError(f"{said.decode()} instead of {name}")
        return float(stamp)


class Stamping:
    """The other end."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def tell(self, name: str, stamp: float) -> None:
        self._socket.sendto(f"{name} {stamp!r}".encode(), self._path)


def quantile(values: Sequence[float], of: float) -> float:
    """The value below which this share of them lies; 0.5 is the upper median."""
    return sorted(values)[min(len(values) - 1, int(of * len(values)))]
