"""P3: nobody keeps the others out of what all of them share, and a caller that is alone may use all of it."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest

from longshore.server.model.errors import (
    CallerShare,
    OverLimit,
    PayloadTooLarge,
    QueueFull,
    SpoolFull,
    TooManyUploads,
)
from longshore.server.model.task import Upload
from longshore.server.store.commands import AbandonIdleUploads, Bounds, Checkpoint
from longshore.server.store.handlers import shares
from tests.conformance.conftest import OpenStore
from tests.support.stores.postgres import shared_cluster
from tests.support.stores.store import ManualClock, StoreFleet, plan, push
from tests.support.stores.storekinds import PostgresKind

FOUR = Bounds(uploads=4)


async def opened(fleet: StoreFleet, principal: str, request_id: str, *, connect: bool = True, **more: Any) -> Upload:
    more = {"bounds": FOUR, "reserve": 0} | more
    return await fleet.open_upload(principal=principal, request_id=request_id, connect=connect, **more)


def checkpointed(upload: Upload, offset: int | None) -> Checkpoint:
    """Make a checkpoint: the upload is durable up to `offset`. None means only that the connection lives."""
    return Checkpoint(
        upload_id=upload.id,
        connection=upload.connection,
        offset=offset,
        crc32c=0,
        reserve=upload.reserved,
        bounds=Bounds(),
    )


async def refused(kind: type[OverLimit], coroutine: Any) -> OverLimit:
    with pytest.raises(kind) as caught:
        await coroutine
    assert "ry later" in caught.value.message
    return caught.value


async def test_one_caller_alone_has_every_slot(fleet: StoreFleet) -> None:
    for number in range(4):
        await opened(fleet, "alice", f"r{number}", connect=False)
    await refused(TooManyUploads, opened(fleet, "alice", "r4", connect=False))


async def test_idle_upload_slots_go_to_callers_with_less(fleet: StoreFleet) -> None:
    idle = [await opened(fleet, "alice", f"a{number}", connect=False, reserve=10) for number in range(4)]
    for number in range(2):
        await opened(fleet, "bob", f"b{number}")
    # Half is what a caller gets of what others hold; the rest of the slots is of those who hold nothing.
    await refused(TooManyUploads, opened(fleet, "bob", "b2"))
    await opened(fleet, "carol", "c0")
    # The reservation stays, and the upload is sent after all, as long as there is a slot.
    kept = await fleet.store.upload("alice", "a0")
    assert kept is not None
    assert (kept.id, kept.reserved) == (idle[0].id, 10)
    again = await opened(fleet, "alice", "a0")
    assert (again.id, again.connection) == (idle[0].id, 1)
    error = await refused(TooManyUploads, opened(fleet, "alice", "a1"))
    assert "stays" in error.message
    # Slots of connections that died are given up too, and durable bytes are not.
    fleet.clock.advance(shares.SENT + 1)
    resumed = await opened(fleet, "alice", "a0")
    assert resumed.connection == 2
    await opened(fleet, "dave", "d0")


@pytest.mark.parametrize("sent", [True, False])
async def test_an_upload_that_waits_for_a_slot_is_kept_while_its_caller_asks(fleet: StoreFleet, sent: bool) -> None:
    """It was: after --upload-idle, with all that was durable of it."""
    waiting = await opened(fleet, "alice", "a0", connect=sent)
    if sent:
        await fleet.run(checkpointed(waiting, 5))
        fleet.clock.advance(shares.SENT + 1)
    others = [await opened(fleet, who, f"{who}{n}") for n in range(2) for who in ("bob", "carol")]
    for _ in range(8):
        await refused(TooManyUploads, opened(fleet, "alice", "a0"))
        fleet.clock.advance(100)
        for each in others:
            await fleet.run(checkpointed(each, None))
        assert await fleet.run(AbandonIdleUploads(idle=600, limit=10)) == ()
    await fleet.finish(others[0])
    resumed = await opened(fleet, "alice", "a0")
    assert (resumed.id, resumed.offset) == (waiting.id, 5 if sent else 0)


async def test_a_checkpoint_is_a_sign_of_life_that_keeps_the_slot(fleet: StoreFleet) -> None:
    sent = [await opened(fleet, "alice", f"a{number}") for number in range(4)]
    for _ in range(3):
        fleet.clock.advance(shares.SENT - 1)
        for each in sent:
            await fleet.run(checkpointed(each, None))
        await refused(TooManyUploads, opened(fleet, "bob", "b0"))


async def test_while_others_ask_a_caller_gets_no_more_than_half(fleet: StoreFleet) -> None:
    sent = [await opened(fleet, "alice", f"a{number}") for number in range(4)]
    await refused(TooManyUploads, opened(fleet, "bob", "b0"))
    await fleet.finish(sent[0])
    error = await refused(CallerShare, opened(fleet, "alice", "a4"))
    assert "'alice' holds 3 of 4 slots for uploads" in error.message
    await opened(fleet, "bob", "b0")
    # Nobody waits any more after a while, and then one may have everything again.
    await fleet.finish(sent[1])
    fleet.clock.advance(shares.WAITING)
    await opened(fleet, "alice", "a5")


async def test_an_upload_without_tasks_needs_no_slot_in_a_queue(fleet: StoreFleet) -> None:
    bounds = Bounds(queue_tasks=4, caller_uploads=4)
    made = [(await fleet.submit(plan(push(f"/a{n}")), bounds=bounds))[0] for n in range(4)]
    await refused(QueueFull, fleet.submit(plan(push("/b")), principal="bob", bounds=bounds))
    await fleet.cancel(made[0])
    await refused(CallerShare, fleet.open_upload(tasks=1, bounds=bounds))
    assert (await fleet.finish_without_tasks(await fleet.open_upload(tasks=0, bounds=bounds))).tasks == ()


async def test_a_queue_that_empties_is_shared_among_callers(fleet: StoreFleet) -> None:
    bounds = Bounds(queue_tasks=4)
    made = [(await fleet.submit(plan(push(f"/a{n}")), bounds=bounds))[0] for n in range(4)]
    error = await refused(QueueFull, fleet.submit(plan(push("/b")), principal="bob", bounds=bounds))
    assert "'bob' has 0" in error.message
    await fleet.cancel(made[0])
    error = await refused(CallerShare, fleet.submit(plan(push("/a4")), bounds=bounds))
    assert "holds 3 of 4 slots in the queue 'default'" in error.message
    assert await fleet.submit(plan(push("/b")), principal="bob", bounds=bounds)
    # Another queue is another matter, and so is a caller with a share of its own.
    assert await fleet.submit(plan(push("/q"), queue="other"), bounds=bounds)
    await fleet.cancel(made[1])
    assert await fleet.submit(plan(push("/a5")), bounds=Bounds(queue_tasks=4, caller_tasks=100))


async def test_a_caller_that_holds_much_does_not_count_as_waiting(fleet: StoreFleet) -> None:
    bounds = Bounds(queue_tasks=4)
    made = [(await fleet.submit(plan(push(f"/a{n}")), bounds=bounds))[0] for n in range(4)]
    await refused(QueueFull, fleet.submit(plan(push("/a4")), bounds=bounds))
    await fleet.cancel(made[0])
    assert await fleet.submit(plan(push("/a4")), bounds=bounds)


async def test_a_full_spool_is_shared_when_room_arises(fleet: StoreFleet) -> None:
    bounds = Bounds(spool_bytes=100)
    big = await opened(fleet, "alice", "a0", reserve=60, size=60, bounds=bounds)
    await opened(fleet, "alice", "a1", reserve=40, size=40, bounds=bounds)
    await refused(SpoolFull, opened(fleet, "bob", "b0", reserve=50, size=50, bounds=bounds))
    await fleet.reject(big)
    await refused(CallerShare, opened(fleet, "alice", "a2", reserve=30, size=30, bounds=bounds))
    await opened(fleet, "bob", "b0", reserve=50, size=50, bounds=bounds)


async def test_a_file_larger_than_the_spool_is_refused_for_good(fleet: StoreFleet) -> None:
    bounds = Bounds(spool_bytes=100)
    await opened(fleet, "alice", "whole", reserve=100, size=100, bounds=bounds)
    with pytest.raises(PayloadTooLarge, match="--spool-limit"):
        await opened(fleet, "alice", "large", reserve=101, size=101, bounds=bounds)
    unknown = await fleet.open_upload(principal="bob", request_id="grows", reserve=0)
    with pytest.raises(PayloadTooLarge):
        await fleet.run(
            Checkpoint(upload_id=unknown.id, connection=1, offset=101, crc32c=0, reserve=128, bounds=bounds)
        )


async def test_servers_that_share_a_database_agree(open_store: OpenStore, clock: ManualClock) -> None:
    async with open_store(clock) as one:
        fleet = StoreFleet(one, clock)
        sent = [await opened(fleet, "alice", f"a{number}") for number in range(4)]
        await refused(TooManyUploads, opened(fleet, "bob", "b0"))
        await fleet.finish(sent[0])
    # The next process of the database knows who waits.
    async with open_store(clock) as other:
        fleet = StoreFleet(other, clock)
        await refused(CallerShare, opened(fleet, "alice", "a4", upload_id="next"))
        await opened(fleet, "bob", "b0", upload_id="bobs")
        await fleet.whole()


async def test_servers_that_run_at_once_share_among_callers_and_not_among_servers(clock: ManualClock) -> None:
    """Two servers on one PostgreSQL, and two callers that ask both of them all the time."""
    bounds = Bounds(uploads=8, spool_bytes=1000, queue_tasks=100)
    chance = random.Random(1)
    async with AsyncExitStack() as running:
        kind = PostgresKind(running.enter_context(shared_cluster().database()))
        servers = [StoreFleet(await running.enter_async_context(kind.opened(clock)), clock) for _ in range(2)]

        async def asked(name: str) -> list[Upload]:
            """Return the uploads that both callers got at both servers."""
            answers = await asyncio.gather(
                *(
                    opened(
                        fleet,
                        who,
                        f"{who}-{number}-{name}",
                        upload_id=f"{who}-{number}-{name}",
                        reserve=10,
                        bounds=bounds,
                    )
                    for who in ("alice", "bob")
                    for number, fleet in enumerate(servers)
                ),
                return_exceptions=True,
            )
            assert all(isinstance(each, Upload | OverLimit) for each in answers), answers
            return [each for each in answers if isinstance(each, Upload)]

        is_open: list[Upload] = []
        for number in range(50):
            if len(is_open) == 8:
                done = is_open.pop(chance.randrange(8))
                await chance.choice(servers).finish(done, plan(push("/x", f"i{number}")))
            is_open += await asked(f"{number}")
            assert len(is_open) <= 8
        assert sorted(each.principal for each in is_open) == ["alice"] * 4 + ["bob"] * 4
        for fleet in servers:
            await fleet.whole()
