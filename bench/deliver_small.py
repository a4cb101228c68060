"""Files of 1 KiB into one running container, each a durable task of its own, end to end, files/s.

Ours: every file is a submission of its own that brings its content (`submit_many`, 64 at once, one process), accepted
durably, claimed, delivered by a real worker as atomically and as verified as a large one, and durably SUCCEEDED;
measured from the first submission until the server counts the last one as finished. `uploads`: the same with an Upload
stream for each file, as larger ones have it. Server and worker are told to have more than usual under way at
one instance (`--instance-limit`, `--concurrency`): three commits are awaited for each file, and files share them.

The peer is what people run today: the command `lxc file push`, once for each file, one after the other; 8 at once and
pylxd's `files.put` from one long-lived process are there for information. None of them is atomic or verified, or
remembers anything after a crash. Fewer files for those who are slower, since the figure is a rate.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import google_crc32c
import grpc.aio

from bench.delivery import Pylxd, Site, fresh, said_cpu, site, timed
from bench.rows import Goal, Run, row
from longshore.client import AsyncClient, Submission, push_spec
from longshore.v1 import admin_service_pb2, admin_service_pb2_grpc, task_service_pb2_grpc
from longshore.v1 import task_service_pb2 as pb

FILES: Final = 1000
BY_COMMAND: Final = 60
BY_PYLXD: Final = 300
AT_ONCE: Final = 64
GOAL: Final = Goal(at_least=10)
UNDER_WAY: Final = 32
_SIZE: Final = 1024
_LOOK_S: Final = 0.05


async def measure(run: Run) -> None:
    content = os.urandom(_SIZE)
    source = run.folder / "small"
    source.write_bytes(content)
    options = {
        "server_options": ("--instance-limit", str(UNDER_WAY)),
        "worker_options": ("--concurrency", str(UNDER_WAY)),
    }
    with site(run, **options) as here:
        pylxd = await Pylxd.start(here.daemon, here.name)
        try:
            async with (
                grpc.aio.insecure_channel(here.server.address) as channel,
                AsyncClient(server=here.server.address, token_file=here.server.token_file) as client,
            ):
                await _measure(run, here, pylxd, Uploads(channel, client, here, content), source)
        finally:
            await pylxd.close()


async def _measure(run: Run, here: Site, pylxd: Pylxd, uploads: Uploads, source: Path) -> None:
    async def ours(how: str, send: Callable[[str, int], Awaitable[None]]) -> float:
        before = here.cpu()
        folder = fresh("ours")
        here.daemon.run_in(here.name, f"mkdir {folder}")
        took = await uploads.run(send, folder, FILES)
        said_cpu(run, how, before, here.cpu(), FILES / 1000, "ms a file")
        left = here.daemon.run_in(here.name, f"ls -A {folder} | wc -l; find {folder} -size -2 | wc -l; rm -r {folder}")
        assert left.split()[0] == str(FILES), left
        return FILES / took

    async def lxc(at_once: int) -> float:
        folder = fresh("lxc")
        here.daemon.run_in(here.name, f"mkdir {folder}")
        numbers = iter(range(BY_COMMAND * (2 if at_once > 1 else 1)))
        count = 0
        began = time.perf_counter()

        async def push() -> None:
            nonlocal count
            for number in numbers:
                argv = ("lxc", "file", "push", "-q", str(source), f"{here.name}{folder}/{number}")
                await timed(*argv, environment=here.environment)
                count += 1

        await asyncio.gather(*(push() for _ in range(at_once)))
        return count / (time.perf_counter() - began)

    async def put() -> float:
        folder = fresh("pylxd")
        here.daemon.run_in(here.name, f"mkdir {folder}")
        return BY_PYLXD / await pylxd.put(source, [f"{folder}/{number}" for number in range(BY_PYLXD)])

    figures = await run.turns(
        {
            "ours": lambda: ours("ours", uploads.submit),
            "uploads": lambda: ours("uploads", uploads.upload),
            "lxc": lambda: lxc(1),
            "lxc8": lambda: lxc(8),
            "pylxd": put,
        }
    )
    for peer, name in (("lxc", "lxc file push"), ("lxc8", "lxc file push, 8 at once"), ("pylxd", "pylxd files.put")):
        goal = GOAL if peer == "lxc" else None
        run.compare(peer=name, unit="files/s", ours=figures["ours"], theirs=figures[peer], goal=goal)
    run.compare(what="uploads", peer="lxc file push", unit="files/s", ours=figures["uploads"], theirs=figures["lxc"])


class Uploads:
    """Files handed in, and the server's word that what they became is done."""

    def __init__(self, channel: grpc.aio.Channel, client: AsyncClient, here: Site, content: bytes) -> None:
        self._client = client
        self._content = content
        self._tasks: Any = task_service_pb2_grpc.TaskServiceStub(channel)
        self._admin: Any = admin_service_pb2_grpc.AdminServiceStub(channel)
        self._who = (("authorization", f"Bearer {here.server.token}"),)
        self._name = here.name
        chunk = pb.UploadChunk(offset=0, crc32c=google_crc32c.value(content), data=content)
        self._rest = (
            pb.UploadRequest(chunk=chunk),
            pb.UploadRequest(finish=pb.UploadFinish(size=len(content), crc32c=google_crc32c.value(content))),
        )
        self._size = len(content)

    async def run(self, send: Callable[[str, int], Awaitable[None]], folder: str, count: int) -> float:
        """Seconds from the first file's start until all are delivered. Raises AssertionError when one is not."""
        goal = await self._finished() + count
        began = time.perf_counter()
        await send(folder, count)
        while await self._finished() < goal:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(_LOOK_S)
        return time.perf_counter() - began

    async def submit(self, folder: str, count: int) -> None:
        """Over one stream."""
        jobs = (
            Submission(spec=push_spec(f"{self._name}{folder}/{number}"), content=self._content)
            for number in range(count)
        )
        async for one in self._client.submit_many(jobs, at_once=AT_ONCE):
            assert one.error is None, one.error

    async def upload(self, folder: str, count: int) -> None:
        """Each over one of its own, by the generated stub."""
        numbers = iter(range(count))
        await asyncio.gather(*(self._upload(folder, numbers) for _ in range(AT_ONCE)))

    async def _upload(self, folder: str, numbers: Iterator[int]) -> None:
        for number in numbers:
            header = pb.UploadHeader(
                request_id=f"bench-{secrets.token_hex(12)}",
                spec=push_spec(f"{self._name}{folder}/{number}"),
                size=self._size,
            )
            await self._tasks.Upload(iter((pb.UploadRequest(header=header), *self._rest)), metadata=self._who)

    async def _finished(self) -> int:
        stats = await self._admin.GetStats(admin_service_pb2.GetStatsRequest(), metadata=self._who)
        others = {state: count for state, count in stats.finished.items() if count and "SUCCEEDED" not in state}
        assert not others, others
        return sum(stats.finished.values())


main = row("deliver-small", measure, rounds=3)

if __name__ == "__main__":
    main()
