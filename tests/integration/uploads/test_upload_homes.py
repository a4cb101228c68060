"""An upload costs at most one command more with several servers, and they are told of one that takes its time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from longshore.server.engine.uploads import heartbeats as upload_signs
from longshore.server.engine.uploads import stream as upload_stream
from longshore.server.engine.uploads.uploads import UploadLimits
from longshore.server.model.errors import StoreUnavailable
from longshore.server.model.servers import Here, Home
from longshore.server.store.commands import Command
from longshore.server.store.commands.servers import HearUploads, RecordHome
from tests.support.servers.rawgrpc import MIB, Sender, TaskServer, chunks, finish, header_of, refused, whole
from tests.support.stores.wrapped import Wrapped
from tests.support.waiting import until

R = TypeVar("R")

HERE = Here("server-1", "spool-1")
LIMITS = UploadLimits(inline_bytes=1000, patience=0.2)


class Counting(Wrapped):
    """The real store, and which commands it was given."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.commands: Counter[str] = Counter()
        self.fails: type[Command[Any]] | None = None

    def begin(self, command: Command[R]) -> asyncio.Future[R]:
        self.commands[type(command).__name__] += 1
        if self.fails is not None and isinstance(command, self.fails):
            raise StoreUnavailable("pulled out by the test")
        begun: asyncio.Future[R] = self.inner.begin(command)
        return begun

    async def run(self, command: Command[R]) -> R:
        return await self.begin(command)


def served(root: Path, here: Here | None = HERE) -> tuple[TaskServer, list[Counting]]:
    stores: list[Counting] = []

    def counted(store: Any) -> Any:
        stores.append(Counting(store))
        return stores[0]

    return TaskServer(root, limits=LIMITS, store_of=counted, here=here), stores


@pytest.mark.parametrize(
    ("here", "size", "declared", "more"),
    [
        (HERE, 1000, True, 0),
        (HERE, 1000, False, 0),
        (HERE, 1001, True, 0),
        (HERE, 1001, False, 1),
        (HERE, 3 * MIB, True, 0),
        (HERE, 3 * MIB, False, 1),
        (None, 3 * MIB, False, 0),
    ],
)
async def test_at_most_one_more_command_and_none_for_small_ones(
    tmp_path: Path, here: Here | None, size: int, declared: bool, more: int
) -> None:
    server, stores = served(tmp_path, here)
    async with server:
        fields: dict[str, Any] = {"size": size} if declared else {}
        answer = await server.upload(whole(header_of(**fields), bytes(size)))
        (store,) = stores
        small = declared and size <= LIMITS.inline_bytes
        usual = Counter(SubmitTasks=1) if small else Counter(OpenUpload=1, FinishUpload=1)
        assert store.commands == usual + Counter(RecordHome=more)
        home = await server.store.home(answer.payload.id)
        assert (home is not None) is (here is not None and size > 1000)


async def test_no_file_without_a_home(tmp_path: Path) -> None:
    server, stores = served(tmp_path)
    async with server:
        stores[0].fails = RecordHome
        refusal = await refused(server.upload(whole(header_of(), bytes(3 * MIB))))
        assert refusal.reason == "STORE_UNAVAILABLE"
        assert server.parts == []
        stores[0].fails = None
        await server.idle()
        await server.upload(whole(header_of(), bytes(3 * MIB)))


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life without a wait."""
    for module in (upload_signs, upload_stream):
        monkeypatch.setattr(module, "HEARD_EVERY", 0.01)


async def seen(server: TaskServer, upload_id: str, holds: Callable[[Home | None], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds(await server.store.home(upload_id)):
            pass  # asking is what is waited for


@pytest.mark.usefixtures("soon")
async def test_a_small_upload_that_takes_its_time_is_known_meanwhile(tmp_path: Path) -> None:
    server, _ = served(tmp_path)
    async with server:
        signs = asyncio.create_task(server.uploads.run())
        sender = Sender(server, header_of())
        await sender.begin()
        await sender.send(*chunks(b"half "))
        (stream,) = [slot.stream for slot in server.uploads._live]
        assert stream is not None
        await seen(server, stream.upload.id, lambda home: home is not None and home.sender == "server-1")
        await sender.send(*chunks(b"half and half", start=5), finish(b"half and half"))
        await sender.end()
        await server.idle()
        await seen(server, stream.upload.id, lambda home: home is None)
        signs.cancel()


@pytest.mark.usefixtures("soon")
async def test_a_database_that_is_away_ends_no_upload(tmp_path: Path) -> None:
    server, stores = served(tmp_path)
    async with server:
        signs = asyncio.create_task(server.uploads.run())
        stores[0].fails = HearUploads
        sender = Sender(server, header_of())
        await sender.begin()
        await sender.send(*chunks(bytes(2 * MIB)))
        await until(lambda: stores[0].commands["HearUploads"] > 2)
        stores[0].fails = None
        await sender.send(finish(bytes(2 * MIB)))
        await sender.end()
        assert not signs.done()
        signs.cancel()


@pytest.mark.usefixtures("soon")
async def test_a_connection_that_ends_lets_go_of_it(tmp_path: Path) -> None:
    server, _ = served(tmp_path)
    async with server:
        signs = asyncio.create_task(server.uploads.run())
        for request_id, size in (("large", 2 * MIB), ("small", 10)):
            sender = Sender(server, header_of(request_id))
            await sender.begin()
            await sender.send(*chunks(bytes(size)))
            (stream,) = [slot.stream for slot in server.uploads._live]
            assert stream is not None
            await refused(sender.end())
            await server.idle()
            home = await server.store.home(stream.upload.id)
            assert home is not None
            assert (home.sender, home.spool) == ("", "spool-1" if size > 1000 else "")
        signs.cancel()
