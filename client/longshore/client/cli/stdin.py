"""Standard input as the content of an upload."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from typing import Final

from longshore.client.cli.session import Session
from longshore.client.sources import Content

_PIECE: Final = 1024 * 1024


def stdin_content(session: Session) -> Content:
    """A file that was redirected is read where it is. Anything else is drawn as it comes, and kept for a resume."""
    descriptor = sys.stdin.fileno()
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return sys.stdin.buffer
    if os.isatty(descriptor):
        session.say("reading standard input until Ctrl-D")
    elif sys.stderr.isatty():
        session.say(f"reading standard input to its end; it is kept in {tempfile.gettempdir()} until it is accepted")
    return _drawn(descriptor)


async def _drawn(descriptor: int) -> AsyncIterator[bytes]:
    """Not in a thread, which could not be called back: Ctrl-C would wait for the other end of the pipe."""
    loop = asyncio.get_running_loop()
    while True:
        ready = asyncio.Event()
        try:
            loop.add_reader(descriptor, ready.set)
        except PermissionError:
            # epoll takes no devices such as /dev/null, which are always ready.
            ready.set()
        try:
            await ready.wait()
        finally:
            loop.remove_reader(descriptor)
        piece = os.read(descriptor, _PIECE)
        if not piece:
            return
        yield piece
