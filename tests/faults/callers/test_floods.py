"""P3, P14: callers that show no token cost a bounded amount of memory, which is given back, and no healthy call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from longshore.client import AsyncClient, Submission, errors, job_spec, push_spec
from longshore.server.edge.auth.roles import ROLES
from longshore.v1 import task_pb2
from tests.support.network.floods import HEADERS, Flooder
from tests.support.servers.processes import ServerProcess
from tests.support.waiting import until

MIB = 1 << 20
CONNECTIONS = 6
BOUND = 100 * MIB
HALF_OPEN = 150 * MIB
"""300,000 are refused while they come in, and refusals on their way take room too: 90 to 110 MiB measured."""
GIVEN_BACK = 50 * MIB
EVERY_METHOD = tuple(ROLES)
METHOD = "/longshore.v1.TaskService/GetTask"
pytestmark = [pytest.mark.embedded("the database has no part in it"), pytest.mark.timeout(180)]


@asynccontextmanager
async def healthy(server: ServerProcess) -> AsyncIterator[None]:
    """A client that calls again and again meanwhile, of which no call may fail."""
    over = asyncio.Event()
    calls = 0

    async def go_on() -> None:
        nonlocal calls
        async with AsyncClient(server=server.address, token_file=server.token_file) as client:
            (task,) = await client.submit(spec=job_spec("nobodys"))
            while not over.is_set():
                assert (await client.get(task.id)).id == task.id
                calls += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(go_on())
        await until(lambda: calls)
        yield
        # At least once more when the flood is over.
        before = calls
        await until(lambda: calls > before)
        over.set()


async def all_at_once(
    server: ServerProcess, flood: Callable[[Flooder], Awaitable[object]], count: int = CONNECTIONS
) -> None:
    """Run `flood` on six connections, and close them when every one has sent what it has."""
    async with AsyncExitStack() as stack:
        flooders = [await stack.enter_async_context(Flooder.connected(server.address)) for _ in range(CONNECTIONS)]
        await asyncio.gather(*(flood(one) for one in flooders))
        # Each is still there, and was told how many calls it may have.
        await until(lambda: all(one.limit == 1000 for one in flooders))
        await asyncio.gather(*(one.read() for one in flooders))
        assert not any(one.closed.is_set() for one in flooders)


async def test_calls_opened_and_reset(tmp_path: Path, record_property: Callable[..., None]) -> None:
    with ServerProcess(tmp_path) as server:
        async with healthy(server):
            before = server.resident()
            await all_at_once(server, lambda flooder: flooder.open_and_reset(10_000, METHOD))
            await until(lambda: server.resident() - before <= GIVEN_BACK, within=60)
        grown = server.resident(peak=True) - before
        record_property("grown_mib", grown // MIB)
        assert grown <= BOUND, f"{grown / MIB:.0f} MiB"


async def test_half_open_calls(tmp_path: Path, record_property: Callable[..., None]) -> None:
    """A refusal waits for no message, and what was not taken yet is bounded."""
    with ServerProcess(tmp_path) as server:
        async with healthy(server):
            before = server.resident()
            await all_at_once(server, lambda flooder: flooder.open_half(50_000, METHOD))
            await until(lambda: server.resident() - before <= GIVEN_BACK, within=60)
        grown = server.resident(peak=True) - before
        record_property("grown_mib", grown // MIB)
        assert grown <= HALF_OPEN, f"{grown / MIB:.0f} MiB"


async def test_calls_of_every_method_share_one_bound(tmp_path: Path, record_property: Callable[..., None]) -> None:
    """30 connections hold 1,000 calls each: with a bound for each method they made the server 400 MiB larger."""
    with ServerProcess(tmp_path) as server:
        async with healthy(server):
            before = server.resident()
            async with AsyncExitStack() as stack:
                flooders = [await stack.enter_async_context(Flooder.connected(server.address)) for _ in range(30)]
                await asyncio.gather(*(one.open_half(5_000, *EVERY_METHOD) for one in flooders))
                await asyncio.gather(*(one.read() for one in flooders))
            await until(lambda: server.resident() - before <= GIVEN_BACK, within=60)
        grown = server.resident(peak=True) - before
        record_property("grown_mib", grown // MIB)
        assert grown <= HALF_OPEN, f"{grown / MIB:.0f} MiB"


async def test_paths_that_cannot_be_decoded_end_no_loop_for_good(tmp_path: Path) -> None:
    """Each ends the loop of grpc.aio that takes calls, and another takes over."""
    with ServerProcess(tmp_path) as server:
        async with healthy(server), Flooder.connected(server.address) as flooder:
            await flooder.open_half(500, "/\N{LATIN SMALL LETTER Y WITH DIAERESIS}/Get")
            await until(lambda: flooder.answers[HEADERS] == 500)
        assert not list(server.events("engine_failed"))
        assert "Traceback" not in server.log()
        assert server.terminate() == 0


async def test_one_connection_takes_a_thousand_calls_and_a_client_more(tmp_path: Path) -> None:
    """1,500 watches of one client are all open at once, and its other calls get through."""
    with ServerProcess(tmp_path) as server:
        async with AsyncClient(server=server.address, token_file=server.token_file) as client:
            jobs = (Submission(spec=job_spec("watched")) for _ in range(1500))
            ids = [one.task_ids[0] async for one in client.submit_many(jobs)]
            watches = [client.watch(task_id) for task_id in ids]
            first = await asyncio.gather(*(anext(watch) for watch in watches))
            assert {task.state for task in first} == {task_pb2.TASK_STATE_QUEUED}
            await client.cancel(ids[-1])
            assert (await anext(watches[-1])).state == task_pb2.TASK_STATE_CANCELLED
            for watch in watches:
                await watch.aclose()


LIMIT = 256


@asynccontextmanager
async def idle_clients(server: ServerProcess, count: int) -> AsyncIterator[list[Flooder]]:
    """So many connections that say nothing; answers with those that the server has kept."""
    async with AsyncExitStack() as stack:
        flooders = [await stack.enter_async_context(Flooder.connected(server.address)) for _ in range(count)]
        await until(lambda: all(one.answers or one.closed.is_set() for one in flooders))
        yield [one for one in flooders if not one.closed.is_set()]


async def test_connections_leave_descriptors_for_uploads(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    server.argv = ["sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh", *server.argv]
    source = tmp_path / "file"
    source.write_bytes(b"x" * (200 << 10))
    with server:
        async with AsyncClient(server=server.address, token_file=server.token_file) as client:
            await client.stats()
            async with idle_clients(server, 240) as kept:
                # Some and not all of them.
                assert LIMIT // 3 <= len(kept) <= LIMIT * 2 // 3
                async with asyncio.TaskGroup() as group:
                    for number in range(20):
                        spec = push_spec(f"web/etc/{number}")
                        group.create_task(client.upload(source, spec=spec))
                assert not any(one.closed.is_set() for one in kept)
                with pytest.raises(errors.Unavailable):
                    async with AsyncClient(
                        server=server.address, token_file=server.token_file, patience=0.1
                    ) as another:
                        await another.stats()
                # Once, however long it lasts.
                await until(lambda: list(server.events("connections_full")))
            # There is room again as soon as they are gone.
            async with AsyncClient(server=server.address, token_file=server.token_file) as another:
                await another.stats()
            await until(lambda: list(server.events("connections_free")))
        assert len(list(server.events("connections_full"))) == 1
