"""Uploads of 1 KiB accepted a second, 64 at once, each its own durable task.

Ours: the real `longshored` with its defaults on SQLite with full durability, over loopback; each upload is a stream of
its own (header, chunk, finish; the generated contract, one process with one connection: bench/upload_small_sender.py),
into a file of its own, and is answered when bytes and task are committed.

Celery enqueues to Redis with appendfsync always (bench/queue_peers.py), so that both are durable when they answer; from
eight threads of one process, over a unix socket, with the 200 bytes of argument that all queues of the bench are given.
Neither has workers.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final

from bench.queue_peers import CELERY, install, opened
from bench.queues import client_cpu
from bench.rows import Contender, Goal, Run, row
from bench.uploading import KIB, Longshored, Sender, cpu

SIZE: Final = KIB
AT_ONCE: Final = 64
COUNT: Final = 4_000
"""Uploads a round; 4 rounds and a warm-up stay below the server's limit of 100,000 live tasks in a queue."""
ENQUEUED: Final = 2_000


async def measure(run: Run) -> None:
    install()
    peer = CELERY["always"]
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Longshored(run))
        ours = await stack.enter_async_context(
            Sender(
                *(sys.executable, "-m", "bench.upload_small_sender", server.port, str(server.token_file)),
                *(str(SIZE), str(COUNT), str(AT_ONCE)),
            )
        )
        site = await stack.enter_async_context(opened(run, peer, started=False))

        async def enqueue() -> float:
            return (await site.client.submit("noop", at_once=site.at_once, count=ENQUEUED)).seconds

        def contender(
            who: str,
            count: int,
            send: Callable[[], Awaitable[float]],
            serving: Callable[[], float],
            sending: Callable[[], float],
        ) -> Contender:
            async def once() -> float:
                before = serving(), sending()
                seconds = await send()
                run.say(
                    f"{run.row}: {who} CPU \N{MICRO SIGN}s each: server {(serving() - before[0]) / count * 1e6:.0f}, "
                    f"sender {(sending() - before[1]) / count * 1e6:.0f}"
                )
                return count / seconds

            return once

        figures = await run.turns(
            {
                "ours": contender("ours", COUNT, ours.send, lambda: cpu([server.pid]), lambda: cpu([ours.pid])),
                "celery": contender("celery", ENQUEUED, enqueue, site.parts["broker"], lambda: client_cpu(site.client)),
            }
        )
    name = f"{peer.name} (enqueue)"
    run.compare(what="here", peer=name, unit="/s", ours=figures["ours"], theirs=figures["celery"], goal=_floor(run))
    run.compare(peer=name, unit="/s", ours=figures["ours"], theirs=figures["celery"], goal=Goal(at_least=2.0))


def _floor(run: Run) -> Goal | None:
    """The absolute goal is for the disk as it is."""
    return None if run.slow else Goal(at_least=5_000, ours=True)


main = row("small-uploads", measure, rounds=4, durable=True)

if __name__ == "__main__":
    main()
