"""16 uploads of 64 MiB at once over loopback, MB/s of all of them, and the server's peak resident memory.

As in the row `upload` (bench/upload.py): the real `longshored` with its defaults and a sender with its messages
serialized beforehand, beside a Go net/http handler that copies each body into a file, and neither syncs nor checks.
Ours sends on four connections, four uploads on each, Go on 16. The memory is the server's peak since its start, with
the warm-up and all rounds behind it; Go's is shown beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from bench.rows import Contender, Goal, Run, row
from bench.uploading import MIB, Longshored, Sender, go_handler, go_sender, measured, our_sender
from tests.support.servers.processes import Process

COUNT: Final = 16
SIZE: Final = 64 * MIB
GOAL: Final = Goal(at_least=1.0)
MEMORY: Final = Goal(at_most=250.0, ours=True)


async def measure(run: Run) -> None:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Longshored(run))
        go = stack.enter_context(go_handler(run))
        peaks: dict[str, float] = {}

        async def contender(who: str, sender: Sender, process: Process, forget: Callable[[], None]) -> Contender:
            await stack.enter_async_context(sender)

            async def once() -> float:
                try:
                    return await measured(run, who, COUNT * SIZE, sender, [process.pid])
                finally:
                    forget()
                    peaks[who] = process.resident(peak=True) / MIB

            return once

        figures = await run.turns(
            {
                "ours": await contender("ours", our_sender(server, SIZE, COUNT), server, server.forget),
                "go": await contender("go", go_sender(go.address, SIZE, COUNT), go, go.forget),
            }
        )
    run.compare(peer="Go net/http", unit="MB/s", ours=figures["ours"], theirs=figures["go"], goal=GOAL)
    run.compare(what="memory", peer="Go net/http", unit="MiB", ours=[peaks["ours"]], theirs=[peaks["go"]], goal=MEMORY)


main = row("uploads16", measure, rounds=7)

if __name__ == "__main__":
    main()
