"""Uploads of 1 KiB accepted a second, 64 at once, each its own durable task.

Ours: the real `longshored` with its defaults on SQLite with full durability, over loopback; each upload is a stream of
its own (header, chunk, finish; the generated contract, one process with one connection: bench/upload_small_sender.py),
into a file of its own, and is answered when bytes and task are committed.

Celery enqueues to Redis with appendfsync always, so that both are durable when they answer: `apply_async` with 1 KiB of
argument from eight threads of one process, over a unix socket; more threads are slower there. Neither has workers.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.rows import ROOT, Contender, Goal, Run, installed, row
from bench.uploading import KIB, Longshored, Sender, cpu
from tests.support.processes import Process, eventually

SIZE: Final = KIB
AT_ONCE: Final = 64
COUNT: Final = 6_000
"""Uploads a round; 4 rounds and a warm-up stay below the server's limit of 100,000 live tasks in a queue."""
ENQUEUED: Final = 2_000
THREADS: Final = 8
PACKAGES: Final = ("celery==5.7.0", "kombu==5.7.0", "redis==8.1.0", "hiredis==3.5.0", "packaging")


async def measure(run: Run) -> None:
    python = await asyncio.to_thread(_celery)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Longshored(run))
        redis, broker = stack.enter_context(_redis(run))
        ours = Sender(
            *(sys.executable, "-m", "bench.upload_small_sender", server.port, str(server.token_file)),
            *(str(SIZE), str(COUNT), str(AT_ONCE)),
        )
        program = str(ROOT / "bench" / "peers" / "celery_enqueue.py")
        theirs = Sender(str(python), program, broker, str(ENQUEUED), str(THREADS))

        async def contender(who: str, sender: Sender, process: Process, count: int) -> Contender:
            await stack.enter_async_context(sender)

            async def once() -> float:
                before = cpu([process.pid]), cpu([sender.pid])
                seconds = await sender.send()
                serving, sending = cpu([process.pid]) - before[0], cpu([sender.pid]) - before[1]
                run.say(
                    f"{run.row}: {who} CPU \N{MICRO SIGN}s each: server {serving / count * 1e6:.0f}, "
                    f"sender {sending / count * 1e6:.0f}"
                )
                return count / seconds

            return once

        figures = await run.turns(
            {
                "ours": await contender("ours", ours, server, COUNT),
                "celery": await contender("celery", theirs, redis, ENQUEUED),
            }
        )
    ours_figures, peer = figures["ours"], "Celery enqueue, Redis always"
    run.compare(what="here", peer=peer, unit="/s", ours=ours_figures, theirs=figures["celery"], goal=_floor(run))
    run.compare(peer=peer, unit="/s", ours=ours_figures, theirs=figures["celery"], goal=Goal(at_least=2.0))


def _floor(run: Run) -> Goal | None:
    """The absolute goal is for the disk as it is."""
    return None if run.slow else Goal(at_least=5_000, ours=True)


def _celery() -> Path:
    """The interpreter of an environment with Celery. Raises CalledProcessError."""
    installed("redis")
    folder = ROOT / "build" / "celery"
    python, done = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(PACKAGES)
    if not done.exists() or done.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True
        )
        done.write_text(wanted)
    return python


@contextmanager
def _redis(run: Run) -> Iterator[tuple[Process, str]]:
    """A broker that syncs before each answer, on a unix socket, and its URL."""
    folder = run.folder / "redis"
    socket = folder / "s.sock"
    argv = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(folder)]
    argv += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    with Process(name="redis", root=folder, argv=argv, environment=run.environment()) as process:
        eventually(socket.exists, what="Redis")
        yield process, f"redis+socket://{socket}"


main = row("small-uploads", measure, rounds=4, durable=True)

if __name__ == "__main__":
    main()
