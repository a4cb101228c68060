"""Uploads of 1 KiB accepted a second, 64 at once, each its own durable task.

Ours: the real `longshored` with its defaults on SQLite with full durability, over loopback; each upload is a stream of
its own (header, chunk, finish; the generated contract, one process with one connection: bench/upload_small_sender.py),
into a file of its own, and is answered when bytes and task are committed.

Celery enqueues to Redis with appendfsync always (bench/queue_peers.py), so that both are durable when they answer; with
1 KiB of argument, from eight threads of one process, over a unix socket. Neither has workers.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from typing import Final

from bench.queue_peers import celery_enqueues
from bench.rows import Goal, Run, row
from bench.uploading import KIB, Longshored, Sender, cpu

SIZE: Final = KIB
AT_ONCE: Final = 64
COUNT: Final = 4_000
"""Uploads a round; all rounds stay below the server's limit of 100,000 live tasks in a queue."""
SECONDS: Final = 2.0
"""Of enqueuing, a round."""


async def measure(run: Run) -> None:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Longshored(run))
        sender = await stack.enter_async_context(
            Sender(
                *(sys.executable, "-m", "bench.upload_small_sender", server.port, str(server.token_file)),
                *(str(SIZE), str(COUNT), str(AT_ONCE)),
            )
        )
        enqueue = await stack.enter_async_context(celery_enqueues(run, size=SIZE))

        async def ours() -> float:
            before = cpu([server.pid]), cpu([sender.pid])
            seconds = await sender.send()
            serving, sending = cpu([server.pid]) - before[0], cpu([sender.pid]) - before[1]
            run.say(
                f"{run.row}: CPU us an upload: server {serving / COUNT * 1e6:.0f}, sender {sending / COUNT * 1e6:.0f}"
            )
            return COUNT / seconds

        figures = await run.turns({"ours": ours, "celery": lambda: enqueue(SECONDS)})
    peer = "Celery on Redis always (enqueue)"
    # The absolute goal is for the disk as it is.
    floor = None if run.slow else Goal(at_least=5_000, ours=True)
    run.compare(what="here", peer=peer, unit="/s", ours=figures["ours"], theirs=figures["celery"], goal=floor)
    run.compare(peer=peer, unit="/s", ours=figures["ours"], theirs=figures["celery"], goal=Goal(at_least=2.0))


main = row("small-uploads", measure, rounds=4, durable=True)

if __name__ == "__main__":
    main()
