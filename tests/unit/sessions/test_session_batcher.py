from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from longshore.server.engine.sessions import batcher as session_batcher
from longshore.server.engine.sessions.batcher import Batcher
from longshore.server.model.errors import StoreUnavailable
from tests.support.waiting import running


class Sink:
    """Where batches go: each waits until it is let through."""

    def __init__(self) -> None:
        self.batches: list[dict[str, int]] = []
        self.failures = 0
        self.arrived = asyncio.Event()
        self.open = asyncio.Event()

    async def flush(self, batch: Mapping[str, int]) -> None:
        self.arrived.set()
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("not now")
        self.batches.append(dict(batch))


async def test_entries_during_a_batch_form_the_next_batch() -> None:
    sink = Sink()
    batcher = Batcher(sink.flush)
    async with running(batcher.run()):
        batcher.put("a", 1)
        await sink.arrived.wait()
        batcher.put("b", 2)
        batcher.put("c", 3)
        batcher.put("b", 4)
        assert "a" in batcher
        assert "b" in batcher
        assert len(batcher) == 3
        sink.open.set()
        await batcher.idle()
    assert sink.batches == [{"a": 1}, {"b": 4, "c": 3}]
    assert len(batcher) == 0
    assert "a" not in batcher


async def test_an_unavailable_store_is_asked_again_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_batcher, "PAUSE_FIRST", 0.001)
    sink = Sink()
    sink.failures = 3
    batcher = Batcher(sink.flush)
    async with running(batcher.run()):
        batcher.put("a", 1)
        await sink.arrived.wait()
        batcher.put("b", 2)
        batcher.put("a", 5)
        sink.open.set()
        async with asyncio.timeout(5):
            await batcher.idle()
    # The newest of each, once.
    assert sorted((key, value) for batch in sink.batches for key, value in batch.items()) == [("a", 5), ("b", 2)]


async def test_a_defect_comes_out_of_run() -> None:
    async def broken(_batch: Mapping[str, int]) -> None:
        raise ZeroDivisionError

    batcher = Batcher(broken)
    batcher.put("a", 1)
    with pytest.raises(ZeroDivisionError):
        await batcher.run()


async def test_one_indigestible_entry_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_batcher, "PAUSE_FIRST", 0.001)
    monkeypatch.setattr(session_batcher, "PAUSE_MOST", 0.001)
    passed: set[str] = set()
    others = {f"good-{number}" for number in range(40)}
    done = asyncio.Event()

    async def picky(batch: Mapping[str, int]) -> None:
        if "bad" in batch:
            raise StoreUnavailable("this one is a defect")
        passed.update(batch)
        if passed == others:
            done.set()

    batcher = Batcher(picky)
    for number in range(40):
        batcher.put(f"good-{number}", 1)
        if number == 20:
            batcher.put("bad", 1)
    async with running(batcher.run()), asyncio.timeout(5):
        await done.wait()
        assert "bad" in batcher
