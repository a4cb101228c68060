"""The client against a real server: cuts, restarts, limits, and watches through a broken network."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from longshore.client import (
    AlreadyExists,
    AsyncClient,
    InvalidArgument,
    ResourceExhausted,
    SourceError,
    TaskFilter,
    UploadProgress,
    push_spec,
)
from longshore.v1 import task_pb2
from tests.support.commandline import COMMAND
from tests.support.network.proxy import FaultProxy
from tests.support.servers.processes import Process, ServerProcess, eventually
from tests.support.servers.stage import Stage, staged
from tests.support.waiting import until

MIB = 1024 * 1024


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path) as stage:
        yield stage


@pytest.fixture
async def proxy(stage: Stage) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(upstream=str(stage.server.socket)) as proxy:
        yield proxy


@pytest.fixture
async def client(stage: Stage, proxy: FaultProxy) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server=proxy.address, token=stage.server.token, patience=30) as client:
        yield client


async def delivered(stage: Stage, client: AsyncClient, task_id: str, to: str) -> bytes:
    with stage.worker():
        await client.wait(task_id)
    return (stage.instances / to).read_bytes()


@pytest.mark.cluster("P2", "P5")
async def test_ten_cuts_send_little_more_than_the_file(stage: Stage, proxy: FaultProxy, client: AsyncClient) -> None:
    content = os.urandom(200 * MIB)
    cuts = iter(range(10))

    def cut_again(progress: UploadProgress) -> None:
        if progress.problem is not None and next(cuts, None) is not None:
            proxy.cut_after(18 * MIB)

    next(cuts)
    proxy.cut_after(18 * MIB)
    [task] = await client.upload(content, spec=push_spec("web/etc/big"), progress=cut_again)
    assert next(cuts, None) is None, "it was not cut ten times"
    # Bytes that were in flight at a cut are sent again, and no more.
    assert proxy.sent_up < 1.2 * len(content)
    assert task.payload.size == len(content)
    assert await delivered(stage, client, task.id, "web/etc/big") == content


async def test_a_server_killed_in_the_middle_costs_at_most_a_checkpoint(
    stage: Stage, proxy: FaultProxy, client: AsyncClient
) -> None:
    content = os.urandom(150 * MIB)
    killed = False

    def kill_once(progress: UploadProgress) -> None:
        nonlocal killed
        if progress.sent > 100 * MIB and not killed:
            killed = True
            stage.server.kill()
            stage.server.start()

    [task] = await client.upload(content, spec=push_spec("web/etc/big"), progress=kill_once)
    assert killed
    assert proxy.sent_up < len(content) + 80 * MIB
    assert await delivered(stage, client, task.id, "web/etc/big") == content


async def at_rest(client: AsyncClient, request_id: str) -> int:
    """Bytes that are durable once the server has noticed that the connection is gone."""
    async with asyncio.timeout(30):
        while True:
            upload = await client.get_upload(request_id)
            if not upload.active:
                return upload.offset
            await asyncio.sleep(0.02)


async def send_half(stage: Stage, proxy: FaultProxy, content: bytes, spec: task_pb2.TaskSpec) -> None:
    """Send 20 MiB of the upload `one-upload` or more, and cut its connection."""
    async with AsyncClient(server=proxy.address, token=stage.server.token) as client:
        half = asyncio.Event()
        upload = asyncio.create_task(
            client.upload(
                content,
                spec=spec,
                request_id="one-upload",
                progress=lambda progress: half.set() if progress.sent >= 20 * MIB else None,
            )
        )
        await asyncio.wait_for(half.wait(), 30)
        proxy.cut()
        upload.cancel()


async def test_another_process_goes_on_where_one_was_killed(stage: Stage, proxy: FaultProxy) -> None:
    content = os.urandom(40 * MIB)
    spec = push_spec("web/etc/big")
    await send_half(stage, proxy, content, spec)
    sent = proxy.sent_up
    offsets: list[int] = []
    async with AsyncClient(server=proxy.address, token=stage.server.token, patience=30) as second:
        durable = await at_rest(second, "one-upload")
        assert 0 < durable < len(content)
        [task] = await second.upload(
            content, spec=spec, request_id="one-upload", progress=lambda progress: offsets.append(progress.sent)
        )
        assert offsets[-1] == len(content)
        assert proxy.sent_up - sent < len(content) - durable + 2 * MIB
        # And a third time there is nothing to send.
        sent = proxy.sent_up
        assert [again.id for again in await second.upload(content, spec=spec, request_id="one-upload")] == [task.id]
        assert proxy.sent_up - sent < MIB


async def test_a_resume_of_another_process_never_joins_two_contents(stage: Stage, proxy: FaultProxy) -> None:
    """The file was replaced between the cut and the resume: what is durable is old, and the rest would be new."""
    old, new, spec = os.urandom(40 * MIB), os.urandom(40 * MIB), push_spec("web/etc/big")
    await send_half(stage, proxy, old, spec)
    async with AsyncClient(server=proxy.address, token=stage.server.token, patience=30) as second:
        assert 0 < await at_rest(second, "one-upload") < len(old)
        with pytest.raises(SourceError, match="another request id") as caught:
            await second.upload(new, spec=spec, request_id="one-upload")
        assert caught.value.reason == "SOURCE_CHANGED"
        assert [task async for task in second.list(request_id="one-upload")] == []
        # The old content still goes on, and arrives whole.
        [task] = await second.upload(old, spec=spec, request_id="one-upload")
        assert await delivered(stage, second, task.id, "web/etc/big") == old


async def test_the_same_request_twice_at_once_makes_one_task(client: AsyncClient) -> None:
    content, spec = os.urandom(3 * MIB), push_spec("web/etc/motd")
    both = await asyncio.gather(*(client.upload(content, spec=spec, request_id="twice") for _ in range(2)))
    assert both[0][0].id == both[1][0].id
    assert len([task async for task in client.list(filter=TaskFilter(request_id="twice"))]) == 1


async def test_another_request_under_the_same_id_is_refused(client: AsyncClient) -> None:
    await client.upload(b"one", spec=push_spec("web/etc/motd"), request_id="id")
    for content, to in ((b"one", "web/etc/other"), (b"two", "web/etc/motd")):
        with pytest.raises((AlreadyExists, InvalidArgument)) as caught:
            await client.upload(content, spec=push_spec(to), request_id="id")
        assert caught.value.reason in {"REQUEST_ID_REUSED", "CRC_MISMATCH"}


@pytest.mark.cluster("P3")
async def test_a_client_with_patience_gets_into_a_full_queue(tmp_path: Path) -> None:
    with staged(tmp_path, "--queue-limit", "1") as stage:
        async with AsyncClient(server=stage.server.address, token=stage.server.token, patience=30) as client:
            spec = push_spec("absent/etc/x", when_absent=task_pb2.WHEN_ABSENT_WAIT)
            [first] = await client.upload(b"one", spec=spec)
            with pytest.raises(ResourceExhausted) as caught:
                await client.upload(b"two", spec=spec, patience=0)
            assert (caught.value.reason, caught.value.retry_after is not None) == ("QUEUE_FULL", True)
            reasons: set[str] = set()
            waits = asyncio.Event()

            def note(progress: UploadProgress) -> None:
                if progress.problem is not None:
                    reasons.add(progress.problem.reason)
                    waits.set()

            waiting = asyncio.create_task(client.upload(b"two", spec=spec, progress=note))
            await asyncio.wait_for(waits.wait(), 30)
            await client.cancel(first.id)
            [second] = await waiting
            assert reasons == {"QUEUE_FULL"}
            assert second.id != first.id


async def test_a_watch_through_a_broken_network_misses_nothing(
    stage: Stage, proxy: FaultProxy, client: AsyncClient
) -> None:
    chance = random.Random(11)
    tasks: list[task_pb2.Task] = []
    for number in range(20):
        tasks += await client.upload(bytes(1000), spec=push_spec(f"web/etc/f{number}"))

    async def follow(task: task_pb2.Task) -> list[int]:
        seen = []
        async for each in client.watch(task.id, after_revision=0):
            seen.append(each.revision)
            if chance.random() < 0.3:
                proxy.cut()
        return seen

    wanted: list[int] = []
    async with asyncio.timeout(60):
        following = asyncio.gather(*(follow(task) for task in tasks))
        while proxy.connections <= 5:  # the tasks wait for a worker: so many cuts there are, however fast it is
            wanted.append(proxy.connections + 1)
            proxy.cut()
            await until(lambda: proxy.connections >= wanted[-1])
        with stage.worker():
            found = await following
    assert proxy.connections > 5
    for task, seen in zip(tasks, found, strict=True):
        last = (await client.get(task.id)).revision
        assert seen == list(range(1, last + 1))


async def test_a_stalled_connection_is_given_up(
    stage: Stage, proxy: FaultProxy, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longshore.client.transfer.upload._STALL", 1.0)
    monkeypatch.setattr("longshore.client.transfer.upload._ADMISSION", 1.0)
    content = os.urandom(60 * MIB)
    stalls = 0

    def stall_once(progress: UploadProgress) -> None:
        nonlocal stalls
        if progress.problem is not None:
            proxy.cut()
            proxy.release()
        elif progress.sent > 8 * MIB and not stalls:
            stalls += 1
            proxy.stall()

    [task] = await client.upload(content, spec=push_spec("web/etc/big"), progress=stall_once)
    assert stalls == 1
    assert task.payload.size == len(content)


@pytest.mark.embedded("half a GiB is too much for an object store in memory")
def test_memory_does_not_grow_with_the_file(stage: Stage, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(600 * MIB)
    argv = [*COMMAND, "push", str(big), "web/etc/big", "--server", stage.server.address]
    peak = 0
    with Process(name="push", root=tmp_path, argv=[*argv, "--token-file", str(stage.server.token_file)]) as push:

        def done() -> bool:
            nonlocal peak
            if not push.running:
                return True
            try:
                peak = max(peak, push.resident(peak=True))
            except (AssertionError, FileNotFoundError):
                pass  # It ended between the two looks.
            return not push.running

        eventually(done, within=90, what="the upload")
        assert push.process.returncode == 0, push.log()
    assert 0 < peak < 160 * MIB


def test_the_server_is_found_without_being_told(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:

        async def ask() -> str:
            async with AsyncClient(server=server.address, data_dir=server.data) as client:
                return (await client.stats()).version

        assert asyncio.run(ask())
