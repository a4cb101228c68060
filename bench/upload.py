"""One upload of 1 GiB over loopback: MB/s.

Ours: the real `longshored` with its defaults, which checks each chunk's CRC32C and the whole's, syncs file and folder,
and answers when the task is committed. Its sender (bench/upload_sender.py) has the messages serialized beforehand, as
Go's and nginx's sender has the body in memory (bench/peers/upload.go): the figure is what the server carries, and this
one has the goal. `client` is the upload as users make it, AsyncClient from a file in the page cache: it reads, checks
and resumes, all in Python, in the time that the others only send. It has no goal, because the peers have no such
client.

The Go handler copies the body into a file with io.Copy; nginx has `dav_methods PUT`. Neither syncs or checks.
`dd conv=fsync` of the same size into the same file system is the limit without a network, and has no goal.

Every server and every sender is a process of its own, one upload at a time, all on the same cores and file system;
what came is removed between two measurements.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from bench.rows import Contender, Goal, Run, row
from bench.uploading import (
    GIB,
    MB,
    MIB,
    Longshored,
    Sender,
    family,
    go_handler,
    go_sender,
    measured,
    nginx,
    our_client,
    our_sender,
)

SIZE: Final = GIB
GOAL: Final = Goal(at_least=1.2)


async def measure(run: Run) -> None:
    content = run.folder / "content"
    await asyncio.to_thread(_fill, content)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Longshored(run))
        go = stack.enter_context(go_handler(run))
        dav = stack.enter_context(nginx(run))

        async def contender(who: str, sender: Sender, pids: list[int], forget: Callable[[], None]) -> Contender:
            await stack.enter_async_context(sender)

            async def once() -> float:
                try:
                    return await measured(run, who, SIZE, sender, pids)
                finally:
                    forget()

            return once

        figures = await run.turns(
            {
                "ours": await contender("ours", our_sender(server, SIZE, 1), [server.pid], server.forget),
                "client": await contender("client", our_client(server, content), [server.pid], server.forget),
                "go": await contender("go", go_sender(go.address, SIZE, 1), [go.pid], go.forget),
                "nginx": await contender("nginx", go_sender(dav.address, SIZE, 1), family(dav), dav.forget),
                "dd": lambda: _dd(run),
            }
        )
    for what, ours in (("", figures["ours"]), ("client", figures["client"])):
        goal = None if what else GOAL
        run.compare(what=what, peer="Go net/http", unit="MB/s", ours=ours, theirs=figures["go"], goal=goal)
    run.compare(peer="nginx PUT", unit="MB/s", ours=figures["ours"], theirs=figures["nginx"])
    run.compare(peer="dd conv=fsync", unit="MB/s", ours=figures["ours"], theirs=figures["dd"])


def _fill(path: Path) -> None:
    with path.open("wb") as file:
        for number in range(SIZE // MIB):
            file.write(bytes([number % 251]) * MIB)


async def _dd(run: Run) -> float:
    target = run.folder / "dd"
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        "dd",
        "if=/dev/zero",
        f"of={target}",
        "bs=1M",
        f"count={SIZE // MIB}",
        "conv=fsync",
        "status=none",
        env=dict(os.environ) | run.environment(),
    )
    if await process.wait():
        raise AssertionError("dd has failed")
    seconds = time.perf_counter() - began
    target.unlink()
    return SIZE / seconds / MB


main = row("upload", measure, rounds=5, durable=True)

if __name__ == "__main__":
    main()
