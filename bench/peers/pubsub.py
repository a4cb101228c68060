"""The other process of the peer of the row `cancel`: it subscribes to a channel of Redis, and stamps what it hears.

Usage: python -m bench.peers.pubsub REDIS STAMPS, two unix sockets. It runs in the environment of the bench.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

from bench.support.processes import Stamping

CHANNEL: Final = b"stop"


def command(*words: bytes) -> bytes:
    """Encode a command as Redis reads it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


async def hear(redis: str, stamps: str) -> None:
    told = Stamping(stamps)
    reader, writer = await asyncio.open_unix_connection(redis)
    writer.write(command(b"SUBSCRIBE", CHANNEL))
    await reader.readuntil(b":1\r\n")
    told.tell("runs", time.monotonic())
    # One message at a time is under way, and each is one write of the server's.
    while await reader.readuntil(b"now\r\n"):
        told.tell("stopped", time.monotonic())


if __name__ == "__main__":
    asyncio.run(hear(sys.argv[1], sys.argv[2]))
