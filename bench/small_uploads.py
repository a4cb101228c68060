"""Files of 1 KiB accepted a second, 64 at once, each its own durable task.

    make bench ROW=small-uploads       [SLOWSYNC_US=1000]

Ours: the real `longshored` with its defaults on SQLite with full durability, over loopback, and one sending process
with one connection (bench/upload_small_sender.py). Each file comes with its submission (`submit_many`, which is there
for this), 64 unanswered at once, and is answered when bytes and task are committed. `uploads`: the same files with an
Upload stream each (header, chunk, finish), as files of any size have it.

Celery enqueues to Redis with appendfsync always, so that both are durable when they answer: `apply_async` with 1 KiB of
argument from eight threads of one process, over a unix socket; more threads are slower there. Neither has workers.
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
"""Celery enqueues for so many seconds in each round."""


async def measure(run: Run) -> None:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Longshored(run))
        senders = {
            how: await stack.enter_async_context(
                Sender(
                    *(sys.executable, "-m", "bench.upload_small_sender", server.port, str(server.token_file)),
                    *(str(SIZE), str(COUNT), str(AT_ONCE), how),
                )
            )
            for how in ("submit", "upload")
        }
        enqueue = await stack.enter_async_context(celery_enqueues(run, size=SIZE))

        async def ours(how: str) -> float:
            sender = senders[how]
            before = cpu([server.pid]), cpu([sender.pid])
            seconds = await sender.send()
            serving, sending = cpu([server.pid]) - before[0], cpu([sender.pid]) - before[1]
            run.say(
                f"{run.row}: CPU us of each {how}: server {serving / COUNT * 1e6:.0f}, "
                f"sender {sending / COUNT * 1e6:.0f}"
            )
            return COUNT / seconds

        figures = await run.turns(
            {"ours": lambda: ours("submit"), "uploads": lambda: ours("upload"), "celery": lambda: enqueue(SECONDS)}
        )
    peer, unit, theirs = "Celery on Redis always (enqueue)", "/s", figures["celery"]
    # The absolute goal is for the disk as it is.
    floor = None if run.slow else Goal(at_least=5_000, ours=True)
    run.compare(what="here", peer=peer, unit=unit, ours=figures["ours"], theirs=theirs, goal=floor)
    run.compare(peer=peer, unit=unit, ours=figures["ours"], theirs=theirs, goal=Goal(at_least=2.0))
    run.compare(what="uploads", peer=peer, unit=unit, ours=figures["uploads"], theirs=theirs)


main = row("small-uploads", measure, rounds=4, durable=True)

if __name__ == "__main__":
    main()
