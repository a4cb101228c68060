"""Deliveries into a running container: one file of 1 GiB, many of 1 KiB, and the memory that 10 GiB take.

`deliver-large`, MiB/s. Ours: a file_push with its defaults, that is a new temp, verified by size, owner, mode and the
CRC32C of what was sent, then granted and renamed; measured by the server's clock from the claim to the durable end of
the attempt. The upload, which is the row `upload`, is over by then and the file is in the server's spool, which the
worker on this machine reads in place. A second line is everything, with the command `longshore push --wait`, which
stores the file durably on the way, so that it is written twice and synced once. The peers read the same file from
the same disk: the command `lxc file push`, and `files.put` of pylxd with a file object. Both write in place,
unverified. LXD syncs the instance's file system at the end of a `files.put`; SFTP has no such request, and ours ends
with every write acknowledged.

`deliver-small`, files/s, each a durable task of its own, end to end. Ours: every file is a submission of its own that
brings its content (`submit_many`, 64 at once, one process), accepted durably, claimed, delivered by a real worker as
atomically and as verified as a large one, and durably SUCCEEDED; measured from the first submission until the server
counts the last one as finished. `uploads`: the same with an Upload stream for each file, as larger ones have it. Server
and worker are told to have more than usual under way at one instance (`--instance-limit`, `--concurrency`): three
commits are awaited for each file, and files share them. The peer is what people run today: the command `lxc file push`,
once for each file, one after the other; 8 at once and pylxd's `files.put` from one long-lived process are there for
information. None of them is atomic or verified, or remembers anything after a crash. Fewer files for those who are
slower, since the figure is a rate.

`memory`, peak resident MiB of server and worker while 10 GiB pass through both: ten files of 1 GiB, one after the
other, uploaded by a real client, read in place from the spool, delivered to the same place in a `directory` target (so
that none is kept), but the last one, which goes into a container over SFTP. Then the same with `--no-share-spool`, two
files, so that the worker downloads what it delivers. The peer is for information: one process that gives `files.put` of
pylxd a file of 1 GiB as a bytes body, which is how its documentation shows it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import google_crc32c
import grpc.aio

from bench.support.delivery import Pylxd, Site, fresh, pattern, said_cpu, site, timed
from bench.support.figures import GIB, MIB, Goal
from bench.support.run import Contender, Row, Run
from longshore.client import AsyncClient, Submission, push_spec
from longshore.v1 import admin_service_pb2, admin_service_pb2_grpc, task_pb2, task_service_pb2_grpc
from longshore.v1 import task_service_pb2 as pb

# One of 1 GiB ---------------------------------------------------------------------------------------------------------


class Large:
    """A site, and one file that is delivered again and again."""

    def __init__(self, run: Run, here: Site, client: AsyncClient, source: Path, payload: str) -> None:
        self._run, self._here, self._client, self._source, self._payload = run, here, client, source, payload

    @classmethod
    async def opened(cls, run: Run, stack: AsyncExitStack) -> Large:
        source = pattern(run.folder / "large", GIB)
        here = stack.enter_context(site(run))
        client = await stack.enter_async_context(_client(here))
        # Uploaded once: each delivery is a task of its own for the payload of this one, which is never due.
        (kept,) = await client.upload(source, spec=push_spec(f"{here.name}/never", not_before=3600))
        return cls(run, here, client, source, kept.payload.id)

    async def delivered(self, path: str) -> float:
        """Seconds of the attempt, by the server's clock."""
        (task,) = await self._client.submit(spec=push_spec(f"{self._here.name}{path}"), payload_id=self._payload)
        await self._client.wait(task.id)
        attempt = (await self._client.attempts(task.id))[-1]
        assert attempt.outcome == "OK", attempt
        return (attempt.end_time.ToNanoseconds() - attempt.start_time.ToNanoseconds()) / 1e9

    async def command(self, path: str) -> float:
        argv = (self._run.tree.python, "-m", "longshore.client.cli", "push", "--wait")
        return await timed(*argv, *self._from_to(path), environment=self._here.environment)

    async def lxc(self, path: str) -> float:
        return await timed("lxc", "file", "push", "-q", *self._from_to(path), environment=self._here.environment)

    def _from_to(self, path: str) -> tuple[str, str]:
        return str(self._source), f"{self._here.name}{path}"

    async def pylxd(self, stack: AsyncExitStack) -> Contender:
        process = await stack.enter_async_context(Pylxd(self._here))
        return self.contender("pylxd", lambda path: process.put(self._source, [path]), pylxd=process.pid)

    def contender(self, name: str, push: Callable[[str], Awaitable[float]], **others: int) -> Contender:
        async def once() -> float:
            path = fresh(name)
            before = self._here.cpu(**others)
            seconds = await push(path)
            said_cpu(self._run, name, before, self._here.cpu(**others), 1, "s/GiB")
            size = self._here.daemon.run_in(self._here.name, f"stat -c %s {path} && rm {path}")
            assert int(size) == GIB, size
            # So that nobody pays for what another has left to be written.
            os.sync()
            return GIB / MIB / seconds

        return once

    @property
    def ours(self) -> dict[str, Contender]:
        return {"ours": self.contender("ours", self.delivered), "command": self.contender("command", self.command)}


def _client(here: Site) -> AsyncClient:
    return AsyncClient(server=here.server.address, token_file=here.server.token_file)


async def ours_large(run: Run, stack: AsyncExitStack) -> dict[str, Contender]:
    return (await Large.opened(run, stack)).ours


async def measure_large(run: Run) -> None:
    async with AsyncExitStack() as stack:
        here = await Large.opened(run, stack)
        lxc, pylxd = here.contender("lxc", here.lxc), await here.pylxd(stack)
        figures = await run.turns({**here.ours, "lxc": lxc, "pylxd": pylxd}, warm=0)
    for peer, name in (("lxc", "lxc file push"), ("pylxd", "pylxd files.put")):
        run.compare(peer=name, unit="MiB/s", ours=figures["ours"], theirs=figures[peer], goal=Goal(at_least=2))
    what, theirs = "longshore push --wait, end to end", figures["lxc"]
    goal = Goal(at_least=1.5)
    run.compare(what=what, peer="lxc file push", unit="MiB/s", ours=figures["command"], theirs=theirs, goal=goal)


# Many of 1 KiB --------------------------------------------------------------------------------------------------------

FILES: Final = 1000
BY_COMMAND: Final = 60
BY_PYLXD: Final = 300
AT_ONCE: Final = 64
UNDER_WAY: Final = 64
"""Deliveries at once. The server's CPU a file is 0.74 of that with 32, since more of them share a commit."""
_SIZE: Final = 1024
_LOOK_S: Final = 0.05


async def ours_small(run: Run, stack: AsyncExitStack) -> dict[str, Contender]:
    return (await Small.opened(run, stack)).ours


class Small:
    """A site, and files that are delivered once each."""

    def __init__(self, run: Run, here: Site, uploads: Uploads, source: Path) -> None:
        self._run, self._here, self._uploads, self._source = run, here, uploads, source

    @classmethod
    async def opened(cls, run: Run, stack: AsyncExitStack) -> Small:
        source = run.folder / "small"
        source.write_bytes(os.urandom(_SIZE))
        under_way = str(UNDER_WAY)
        options = ("--instance-limit", under_way), ("--concurrency", under_way)
        here = stack.enter_context(site(run, server_options=options[0], worker_options=options[1]))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(here.server.address))
        client = await stack.enter_async_context(_client(here))
        return cls(run, here, Uploads(channel, client, here, source.read_bytes()), source)

    @property
    def ours(self) -> dict[str, Contender]:
        ways = {"ours": self._uploads.submit, "uploads": self._uploads.upload}

        def contender(how: str) -> Contender:
            return lambda: self._ours(how, ways[how])

        return {how: contender(how) for how in ways}

    async def _ours(self, how: str, send: Callable[[str, int], Awaitable[None]]) -> float:
        before, folder = self._here.cpu(), self._folder("ours")
        took = await self._uploads.run(send, folder, FILES)
        said_cpu(self._run, how, before, self._here.cpu(), FILES / 1000, "ms a file")
        look = f"ls -A {folder} | wc -l; find {folder} -size -2 | wc -l; rm -r {folder}"
        left = self._here.daemon.run_in(self._here.name, look)
        assert left.split()[0] == str(FILES), left
        return FILES / took

    def _folder(self, prefix: str) -> str:
        folder = fresh(prefix)
        self._here.daemon.run_in(self._here.name, f"mkdir {folder}")
        return folder

    async def lxc(self, at_once: int) -> float:
        folder = self._folder("lxc")
        numbers = iter(range(BY_COMMAND * (2 if at_once > 1 else 1)))
        count = 0
        began = time.perf_counter()

        async def push() -> None:
            nonlocal count
            for number in numbers:
                argv = ("lxc", "file", "push", "-q", str(self._source), f"{self._here.name}{folder}/{number}")
                await timed(*argv, environment=self._here.environment)
                count += 1

        await asyncio.gather(*(push() for _ in range(at_once)))
        return count / (time.perf_counter() - began)

    async def pylxd(self, stack: AsyncExitStack) -> Contender:
        process = await stack.enter_async_context(Pylxd(self._here))

        async def put() -> float:
            folder = self._folder("pylxd")
            return BY_PYLXD / await process.put(self._source, [f"{folder}/{number}" for number in range(BY_PYLXD)])

        return put


async def measure_small(run: Run) -> None:
    async with AsyncExitStack() as stack:
        here = await Small.opened(run, stack)
        peers = {"lxc": lambda: here.lxc(1), "lxc8": lambda: here.lxc(8), "pylxd": await here.pylxd(stack)}
        figures = await run.turns({**here.ours, **peers})
    for peer, name in (("lxc", "lxc file push"), ("lxc8", "lxc file push, 8 at once"), ("pylxd", "pylxd files.put")):
        goal = {"lxc": Goal(at_least=10), "pylxd": Goal(at_least=3)}.get(peer)
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


# Memory ---------------------------------------------------------------------------------------------------------------

PASSING: Final = 10
DOWNLOADED: Final = 2
MEMORY: Final = Goal(at_most=150, ours=True)

_PUT: Final = """
import resource, sys, urllib.parse
import pylxd
client = pylxd.Client(endpoint="http+unix://" + urllib.parse.quote(sys.argv[1], safe=""))
with open(sys.argv[3], "rb") as file:
    client.instances.get(sys.argv[2]).files.put(sys.argv[4], file.read())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


async def measure_memory(run: Run) -> None:
    source = pattern(run.folder / "large", GIB)
    (run.folder / "roots" / "web").mkdir(parents=True)
    there = f"roots=directory:{run.folder / 'roots'}"
    peaks: dict[str, list[float]] = {"server": [], "worker": []}
    theirs: list[float] = []
    for _ in range(run.rounds):
        for files, options in ((PASSING, ()), (DOWNLOADED, ("--no-share-spool",))):
            with site(run, targets=[there], server_options=options) as here:
                await _pass(here, source, files)
                for process in (here.server, here.worker):
                    peak = process.resident(peak=True) / MIB
                    run.say(f"memory: {process.name} {peak:.0f} MiB after {files} GiB {' '.join(options)}")
                    peaks[process.name].append(peak)
                if not options:
                    theirs.append(_pylxd(here, source))
    for name, found in peaks.items():
        run.compare(
            what=name, peer="pylxd files.put of bytes", unit="MiB", ours=[max(found)], theirs=theirs, goal=MEMORY
        )


async def ours_memory(run: Run, _stack: AsyncExitStack) -> dict[str, Contender]:
    """The server's peak."""
    source = pattern(run.folder / "large", GIB)
    (run.folder / "roots" / "web").mkdir(parents=True)

    async def once() -> float:
        with site(run, targets=[f"roots=directory:{run.folder / 'roots'}"]) as here:
            await _pass(here, source, DOWNLOADED)
            return here.server.resident(peak=True) / MIB

    return {"server": once}


async def _pass(here: Site, source: Path, files: int) -> None:
    async with _client(here) as client:
        for number in range(files):
            last = number == files - 1
            to = task_pb2.Destination(
                target="" if last else "roots", instance=here.name if last else "web", path=fresh("m") if last else "/m"
            )
            (task,) = await client.upload(source, spec=push_spec(to))
            ended = await client.wait(task.id)
            assert ended.state == task_pb2.TASK_STATE_SUCCEEDED, ended


def _pylxd(here: Site, source: Path) -> float:
    argv = [sys.executable, "-c", _PUT, str(here.daemon.socket), here.name, str(source), "/root/pylxd"]
    return float(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)


ROWS: Final = (
    Row(name="deliver-large", unit="MiB/s", measure=measure_large, ours=ours_large, rounds=3, pairs=4),
    Row(name="deliver-small", unit="files/s", measure=measure_small, ours=ours_small, rounds=3),
    Row(name="memory", unit="MiB", measure=measure_memory, ours=ours_memory, rounds=1, pairs=2),
)
