"""Several servers on one database: who sends an upload, which spool has its file, who is there at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from longshore.server.model.errors import UploadInProgress, UploadTakenOver
from longshore.server.model.servers import DEAD_AFTER, HEARD_EVERY, Here, Home
from longshore.server.model.task import Task, Upload
from longshore.server.model.values import Outcome, UploadState
from longshore.server.store.commands import (
    AbandonIdleUploads,
    DoomPayloads,
    ForgetPayloads,
    ForgetUploads,
    RejectUpload,
)
from longshore.server.store.commands.servers import AnnounceServer, Heard, HearUploads, RecordHome, RetireServer
from longshore.server.store.handlers.janitor import PUT_OFF
from longshore.server.store.handlers.servers import REMEMBERED
from tests.conformance.store.test_store_uploads import checkpoint, finish
from tests.support.stores.store import StoreFleet, plan, push

A = Here("server-a", "spool-1")
B = Here("server-b", "spool-2")
NEIGHBOUR = Here("server-n", "spool-1")
"""Another server with A's spool."""
SILENCE = 10.0


async def announce(fleet: StoreFleet, *servers: Here) -> None:
    for here in servers:
        await fleet.run(AnnounceServer(here=here, address=f"{here.server}:7465", version="1"))


async def opened(fleet: StoreFleet, here: Here, request_id: str = "r", **more: Any) -> Upload:
    """Open an upload whose size needs a file, unless `more` says otherwise."""
    values: dict[str, Any] = {"upload_id": f"00-{request_id}", "request_id": request_id, "spooled": True}
    return await fleet.open_upload(here=here, silence=SILENCE, **(values | more))


async def home(fleet: StoreFleet, upload: Upload) -> Home | None:
    return await fleet.store.home(upload.id)


async def entries(fleet: StoreFleet) -> Mapping[str, bool]:
    """Server to "alive"."""
    return {one.id: one.alive(fleet.clock.ticks()) for one in await fleet.store.servers()}


# Who sends it -------------------------------------------------------------------------------------------------------


async def test_without_several_servers_nothing_is_written_down(fleet: StoreFleet) -> None:
    upload = await fleet.upload(request_id="r")
    assert await home(fleet, upload) is None
    again = await fleet.open_upload(request_id="s")
    again = await fleet.open_upload(request_id="s")
    assert again.connection == 2
    assert await home(fleet, again) is None


async def test_an_upload_with_a_file_has_a_home_before_the_file_and_a_small_one_has_none(fleet: StoreFleet) -> None:
    large = await opened(fleet, A)
    assert await home(fleet, large) == Home("spool-1", "server-a", fleet.clock.now())
    small = await opened(fleet, A, "small", spooled=False)
    assert await home(fleet, small) is None
    await fleet.run(RecordHome(upload_id=small.id, connection=1, here=A))  # it has outgrown the database
    assert await home(fleet, small) == Home("spool-1", "server-a", fleet.clock.now())
    with pytest.raises(UploadTakenOver):
        await fleet.run(RecordHome(upload_id=small.id, connection=2, here=A))
    with pytest.raises(UploadTakenOver):
        await fleet.run(RecordHome(upload_id="never", connection=1, here=A))
    made = await opened(fleet, A, "made", connect=False)
    assert await home(fleet, made) is None, "nobody sends it yet"
    await opened(fleet, A, "made", spooled=False)
    assert await home(fleet, made) is None, "it may stay small"


@pytest.mark.parametrize("spooled", [True, False], ids=["with a file", "still in memory"])
async def test_another_server_waits_for_silence(fleet: StoreFleet, spooled: bool) -> None:
    await announce(fleet, A, B)
    first = await opened(fleet, A, spooled=spooled)
    with pytest.raises(UploadInProgress):
        await opened(fleet, B)
    fleet.clock.advance(SILENCE - 1)
    await announce(fleet, A)
    assert await fleet.run(HearUploads(here=A, uploads=(Heard(first.id, 1, 0.5),))) == frozenset()
    fleet.clock.advance(SILENCE)
    with pytest.raises(UploadInProgress):
        await opened(fleet, B)
    await announce(fleet, A)
    fleet.clock.advance(HEARD_EVERY)
    taken = await opened(fleet, B)
    assert (taken.id, taken.connection) == (first.id, 2)
    assert await home(fleet, taken) == Home("spool-2", "server-b", fleet.clock.now())
    with pytest.raises(UploadTakenOver):
        await fleet.run(checkpoint(first, 5))
    with pytest.raises(UploadTakenOver):
        await fleet.run(finish(first))
    await fleet.run(RejectUpload(upload_id=first.id, connection=1))
    lost = await fleet.run(HearUploads(here=A, uploads=(Heard(first.id, 1, 0.0),)))
    assert lost == {first.id}, "the older server hears of it"
    assert await home(fleet, taken) == Home("spool-2", "server-b", fleet.clock.now())
    done = await fleet.run(finish(taken))
    assert done.state is UploadState.COMPLETE


async def test_the_sending_server_decides_whether_an_upload_is_silent(fleet: StoreFleet) -> None:
    await announce(fleet, A, B)
    first = await opened(fleet, A)
    await fleet.run(HearUploads(here=A, uploads=(Heard(first.id, 1, SILENCE + HEARD_EVERY),)))
    assert (await opened(fleet, B)).connection == 2


async def test_take_over_and_a_dead_server_need_no_silence(fleet: StoreFleet) -> None:
    await announce(fleet, A, B)
    first = await opened(fleet, A)
    second = await opened(fleet, B, take_over=True)
    assert (second.id, second.connection) == (first.id, 2)
    fleet.clock.advance(DEAD_AFTER)
    await announce(fleet, A)
    await fleet.run(HearUploads(here=B, uploads=(Heard(first.id, 2, 0.0),)))  # its last words
    third = await opened(fleet, A)
    assert third.connection == 3


async def test_a_cleanly_ended_connection_blocks_no_other(fleet: StoreFleet) -> None:
    await announce(fleet, A, B, NEIGHBOUR)
    for number, spooled in enumerate((True, False)):
        first = await opened(fleet, A, f"r{number}", spooled=spooled)
        await fleet.run(checkpoint(first, 7 if spooled else 0, release=True))
        second = await opened(fleet, NEIGHBOUR, f"r{number}")
        assert (second.connection, second.offset) == (2, 7 if spooled else 0)


async def test_a_resume_at_the_same_server_asks_no_other(fleet: StoreFleet) -> None:
    await announce(fleet, A)
    await opened(fleet, A)
    assert (await opened(fleet, A)).connection == 2


async def test_asking_for_an_upload_takes_nothing_away(fleet: StoreFleet) -> None:
    await announce(fleet, A, B)
    first = await opened(fleet, A)
    seen = await opened(fleet, B, connect=False)
    assert (seen.id, seen.connection) == (first.id, 1)
    assert await home(fleet, first) == Home("spool-1", "server-a", fleet.clock.now())


# Where it is --------------------------------------------------------------------------------------------------------


async def test_an_upload_resumes_at_its_checkpoint_on_the_same_spool_and_restarts_on_another(fleet: StoreFleet) -> None:
    await announce(fleet, A, B, NEIGHBOUR)
    first = await opened(fleet, A)
    await fleet.run(checkpoint(first, 50, release=True))
    second = await opened(fleet, NEIGHBOUR)
    assert (second.offset, second.crc32c) == (50, 50)
    await fleet.run(checkpoint(second, 60, release=True))
    third = await opened(fleet, B)
    assert (third.offset, third.crc32c, third.connection) == (0, 0, 3)
    stored = await fleet.store.upload("alice", "r")
    assert stored is not None
    assert (stored.offset, stored.crc32c) == (0, 0)
    assert await fleet.store.known_files([first.id], spool="spool-1") == frozenset(), "a stray there"
    assert await fleet.store.known_files([first.id], spool="spool-2") == {first.id}
    assert await fleet.store.known_files([first.id]) == {first.id}


async def delivered(fleet: StoreFleet, task: Task) -> None:
    await fleet.deliver(await fleet.claim_one())
    assert (await fleet.now(task)).status.state.terminal


async def sent(fleet: StoreFleet, here: Here, request_id: str, *, inline: bool = False, size: int = 10) -> Upload:
    """A whole upload, for a destination of its own."""
    upload = await opened(fleet, here, request_id, spooled=not inline)
    work = plan(push(f"/{request_id}"))
    return await fleet.run(finish(upload, size=size, plans=(work,), inline=b"x" * size if inline else None))


async def test_each_server_removes_files_of_its_own_spool_and_any_server_removes_rows(fleet: StoreFleet) -> None:
    await announce(fleet, A, B, NEIGHBOUR)
    await fleet.session()
    here, there, inline = [
        await sent(fleet, A, "here"), await sent(fleet, B, "there"), await sent(fleet, A, "inline", inline=True)
    ]  # fmt: skip
    for upload in (here, there, inline):
        await delivered(fleet, upload.tasks[0])
    assert await fleet.run(DoomPayloads(spool="spool-1")) == tuple(sorted((here.id, inline.id)))
    assert await fleet.run(DoomPayloads(spool="spool-1")) == tuple(sorted((here.id, inline.id))), "its neighbour too"
    assert await fleet.run(DoomPayloads(spool="spool-2")) == tuple(sorted((there.id, inline.id)))
    for _ in range(2):  # both of them: harmless
        await fleet.run(ForgetPayloads(payload_ids=(here.id, inline.id), homes=True))
    assert await fleet.run(DoomPayloads(spool="spool-1")) == ()
    assert await fleet.run(DoomPayloads(spool="spool-2")) == (there.id,), "nobody else's to remove"
    assert dict(await fleet.store.files_by_spool()) == {"spool-2": 1}
    await fleet.run(ForgetPayloads(payload_ids=(there.id,), homes=True))
    assert dict(await fleet.store.files_by_spool()) == {}


async def test_removing_files_of_a_lost_server_waits_until_it_returns(fleet: StoreFleet) -> None:
    await announce(fleet, A, B)
    await fleet.session()
    lost = await sent(fleet, B, "lost")
    await delivered(fleet, lost.tasks[0])
    fleet.clock.advance(DEAD_AFTER)
    await announce(fleet, A)
    assert await fleet.run(DoomPayloads(spool="spool-1")) == ()
    assert await fleet.run(DoomPayloads(spool="spool-2")) == (), "not marked, so that nobody looks at it each time"
    fleet.clock.advance(PUT_OFF)
    await announce(fleet, A, B)
    await fleet.run(DoomPayloads(spool="spool-1"))
    assert await fleet.run(DoomPayloads(spool="spool-2")) == (lost.id,)


async def test_payloads_are_evicted_on_the_spool_that_needs_room(fleet: StoreFleet) -> None:
    await announce(fleet, A, B)
    await fleet.session()
    kept = [await sent(fleet, B if number == 0 else A, f"r{number}", size=100) for number in range(4)]
    for _ in kept:
        task = await fleet.claim_one()
        assert task.submission.payload is not None
        assert await fleet.report(task, Outcome.PERMANENT)
        fleet.clock.advance(1)
        await fleet.session(held=())
    assert await fleet.run(DoomPayloads(free=150, spool="spool-1")) == (kept[1].id, kept[2].id), "the oldest here"
    assert await fleet.run(DoomPayloads(spool="spool-2")) == ()


async def test_any_server_gives_up_idle_uploads_and_their_home_removes_the_files(fleet: StoreFleet) -> None:
    await announce(fleet, A, B)
    here, there = await opened(fleet, A, "here"), await opened(fleet, B, "there")
    fresh = await opened(fleet, B, "fresh", connect=False)
    fleet.clock.advance(600)
    everything_here = await fleet.run(AbandonIdleUploads(idle=600, spool="spool-1"))
    assert everything_here == (fresh.id, here.id), "what has no file is anybody's"
    assert await fleet.store.upload("alice", "there") is None, "its slots are free at once"
    assert await fleet.run(AbandonIdleUploads(idle=600, spool="spool-2")) == (fresh.id, there.id)
    for _ in range(2):
        await fleet.run(ForgetUploads(upload_ids=everything_here, homes=True))
    assert await fleet.run(AbandonIdleUploads(idle=600, spool="spool-1")) == ()
    assert await fleet.run(AbandonIdleUploads(idle=600, spool="spool-2")) == (there.id,)
    assert dict(await fleet.store.files_by_spool()) == {"spool-2": 1}


async def test_an_upload_that_stayed_small_leaves_no_home(fleet: StoreFleet) -> None:
    upload = await opened(fleet, A, spooled=False)
    await fleet.run(HearUploads(here=A, uploads=(Heard(upload.id, 1, 0.0),)))
    assert await home(fleet, upload) == Home("", "server-a", fleet.clock.now())
    done = await fleet.run(finish(upload, inline=b"x" * 10, homed=True))
    assert done.state is UploadState.COMPLETE
    assert await home(fleet, upload) is None
    late = await fleet.run(HearUploads(here=A, uploads=(Heard(upload.id, 1, 0.0),)))
    assert late == {upload.id}
    assert await home(fleet, upload) is None, "a sign of life that comes late makes none"


# Who is there -------------------------------------------------------------------------------------------------------


async def test_servers_come_live_and_go(fleet: StoreFleet) -> None:
    await announce(fleet, A, B)
    assert await entries(fleet) == {"server-a": True, "server-b": True}
    fleet.clock.advance(DEAD_AFTER)
    await announce(fleet, B)
    assert await entries(fleet) == {"server-a": False, "server-b": True}
    await fleet.run(RetireServer(here=B))
    assert await entries(fleet) == {"server-a": False}
    entry = (await fleet.store.servers())[0]
    assert (entry.address, entry.spool, entry.version) == ("server-a:7465", "spool-1", "1")


async def test_a_server_that_left_files_behind_is_remembered_until_they_are_gone(fleet: StoreFleet) -> None:
    await announce(fleet, A, B)
    upload = await opened(fleet, A)
    await fleet.run(RetireServer(here=A))
    assert await entries(fleet) == {"server-a": False, "server-b": True}
    fleet.clock.advance(2 * REMEMBERED)
    await announce(fleet, Here("server-c", "spool-3"))
    assert await entries(fleet) == {"server-a": False, "server-c": True}, "only the one whose files are missed"
    await fleet.run(RejectUpload(upload_id=upload.id, connection=1))
    await fleet.run(ForgetUploads(upload_ids=(upload.id,), homes=True))
    await announce(fleet, Here("server-d", "spool-4"))
    assert await entries(fleet) == {"server-c": True, "server-d": True}


async def test_a_server_whose_spool_another_one_has_is_not_missed(fleet: StoreFleet) -> None:
    await announce(fleet, A, NEIGHBOUR)
    await opened(fleet, A)
    await fleet.run(RetireServer(here=A))
    assert await entries(fleet) == {"server-n": True}
