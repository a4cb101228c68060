"""The caller without a token of the row `floods`: a process of its own, whose work is not the healthy client's.

    python -m bench.floods_sender ADDRESS reset|half CALLS

Opens so many calls on six connections within two seconds, and resets each at once or leaves its message out. Two
seconds later it closes the connections.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Final

from tests.support.network.floods import Flooder

CONNECTIONS: Final = 6
SLICES: Final = 20
PAUSE: Final = 0.1
HOLD: Final = 2.0
METHOD: Final = "/longshore.v1.TaskService/GetTask"


async def flood(address: str, kind: str, calls: int) -> None:
    """Open the calls, slice by slice."""
    async with AsyncExitStack() as stack:
        flooders = [await stack.enter_async_context(Flooder.connected(address)) for _ in range(CONNECTIONS)]
        each = calls // CONNECTIONS // SLICES
        for _ in range(SLICES):
            opening = (one.open_and_reset if kind == "reset" else one.open_half for one in flooders)
            await asyncio.gather(asyncio.sleep(PAUSE), *(begin(each, METHOD) for begin in opening))
        await asyncio.sleep(HOLD)


if __name__ == "__main__":
    asyncio.run(flood(sys.argv[1], sys.argv[2], int(sys.argv[3])))
