"""Uploads in the store: room is taken first, bytes are counted, the same id gives the same tasks (P2, P3, P4, P5)."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from longshore.server.model.errors import (
    CallerShare,
    QueueFull,
    RequestIdReused,
    SpoolFull,
    TooManyUploads,
    UploadInProgress,
    UploadTakenOver,
)
from longshore.server.model.task import Payload, Upload
from longshore.server.model.values import State, UploadState
from longshore.server.store.commands import (
    AbandonIdleUploads,
    Bounds,
    CancelTask,
    Checkpoint,
    FinishUpload,
    ForgetUploads,
    OpenUpload,
    PurgeTasks,
    RejectUpload,
    SubmitTasks,
)
from tests.conformance.conftest import OpenStore
from tests.support.stores.store import ManualClock, StoreFleet, plan, push


def opening(**more: Any) -> OpenUpload:
    values: dict[str, Any] = {
        "principal": "alice",
        "fingerprint": "same",
        "queue": "default",
        "tasks": 1,
        "size": None,
        "sha256": b"",
        "reserve": 0,
        "connect": True,
        "bounds": Bounds(),
    }
    return OpenUpload(**(values | more))


def checkpoint(upload: Upload, offset: int | None = None, **more: Any) -> Checkpoint:
    values: dict[str, Any] = {
        "upload_id": upload.id,
        "connection": upload.connection,
        "offset": offset,
        "crc32c": offset or 0,
        "reserve": 0,
        "bounds": Bounds(),
    }
    return Checkpoint(**(values | more))


def finish(upload: Upload, *, size: int = 10, **more: Any) -> FinishUpload:
    values: dict[str, Any] = {
        "upload_id": upload.id,
        "connection": upload.connection,
        "payload": Payload(upload.id, size, 7),
        "plans": (plan(),),
    }
    return FinishUpload(**(values | more))


async def test_a_new_upload_begins_at_nothing(fleet: StoreFleet) -> None:
    upload = await fleet.open_upload(size=100, sha256=b"d" * 32)
    assert (upload.state, upload.offset, upload.crc32c, upload.connection) == (UploadState.OPEN, 0, 0, 1)
    assert await fleet.store.upload("alice", upload.request_id) == upload
    assert await fleet.store.upload("bob", upload.request_id) is None


async def test_asking_for_room_makes_no_connection(fleet: StoreFleet) -> None:
    upload = await fleet.open_upload(connect=False, request_id="r")
    assert upload.connection == 0
    fleet.clock.advance(3)
    assert await fleet.open_upload(connect=False, request_id="r") == upload
    connected = await fleet.open_upload(connect=True, request_id="r")
    assert (connected.id, connected.connection, connected.touched_at) == (upload.id, 1, fleet.clock.now())


async def test_an_upload_resumes_at_its_last_checkpoint(fleet: StoreFleet) -> None:
    upload = await fleet.open_upload(request_id="r")
    fleet.clock.advance(1)
    after = await fleet.run(checkpoint(upload, 60, crc32c=4_000_000_000))
    assert (after.offset, after.crc32c, after.touched_at) == (60, 4_000_000_000, fleet.clock.now())
    again = await fleet.open_upload(request_id="r")
    assert (again.id, again.offset, again.crc32c, again.connection) == (upload.id, 60, 4_000_000_000, 2)


async def test_a_touch_is_a_sign_of_life_and_no_more(fleet: StoreFleet) -> None:
    upload = await fleet.run(checkpoint(await fleet.open_upload(), 60))
    fleet.clock.advance(5)
    touched = await fleet.run(checkpoint(upload, None, crc32c=1, reserve=10_000))
    assert (touched.offset, touched.crc32c, touched.reserved) == (60, 60, 100)
    assert touched.touched_at == fleet.clock.now()


async def test_an_older_connection_is_told_that_a_newer_one_finished_the_upload(fleet: StoreFleet) -> None:
    old = await fleet.open_upload(request_id="r")
    new = await fleet.open_upload(request_id="r")
    done = await fleet.run(finish(new))
    assert await fleet.run(finish(old)) == done, "the same bytes: its own, as far as it can know"
    for other in (Payload(old.id, 10, 8), Payload(old.id, 11, 7)):
        with pytest.raises(RequestIdReused):
            await fleet.run(finish(old, payload=other))
    assert await fleet.store.upload("alice", "r") == done


async def test_an_older_connection_may_not_write(fleet: StoreFleet) -> None:
    old = await fleet.open_upload(request_id="r")
    await fleet.open_upload(request_id="r")
    for command in (checkpoint(old, 10), checkpoint(old, None), finish(old)):
        with pytest.raises(UploadTakenOver):
            await fleet.run(command)
    await fleet.run(RejectUpload(upload_id=old.id, connection=old.connection))
    found = await fleet.store.upload("alice", "r")
    assert found is not None
    assert (found.state, found.offset) == (UploadState.OPEN, 0)


async def test_the_reservation_grows_with_the_bytes_and_within_the_bound(fleet: StoreFleet) -> None:
    upload = await fleet.open_upload(reserve=100)
    bounds = Bounds(spool_bytes=150)
    assert (await fleet.run(checkpoint(upload, 80, reserve=150, bounds=bounds))).reserved == 150
    assert (await fleet.run(checkpoint(upload, 90, reserve=20, bounds=bounds))).reserved == 150
    with pytest.raises(SpoolFull):
        await fleet.run(checkpoint(upload, 100, reserve=151, bounds=bounds))
    found = await fleet.store.upload("alice", upload.request_id)
    assert found is not None
    assert found.offset == 90
    assert (await fleet.store.figures()).spool_bytes == 150


async def test_a_finished_upload_has_its_tasks_in_order_and_its_payload(fleet: StoreFleet) -> None:
    upload = await fleet.open_upload(tasks=2, reserve=100, request_id="r")
    plans = (plan(push("/a"), labels={"app": "shop"}), plan(push("/b")))
    done = await fleet.run(finish(upload, plans=plans, size=40))
    assert done.state is UploadState.COMPLETE
    assert [task.submission.work for task in done.tasks] == [push("/a"), push("/b")]
    assert [task.submission.seq for task in done.tasks] == sorted(task.submission.seq for task in done.tasks)
    assert [task.id for task in done.tasks] == sorted(task.id for task in done.tasks)
    for task in done.tasks:
        assert len(task.id) == 26
        assert task.submission.payload == done.payload == Payload(upload.id, 40, 7)
        assert (task.submission.creator, task.submission.request_id, task.status.revision) == ("alice", "r", 1)
        assert await fleet.now(task) == task
    assert dict(done.tasks[0].submission.terms.labels) == {"app": "shop"}
    assert await fleet.store.upload("alice", "r") == done
    assert await fleet.store.tasks_of_payload(upload.id) == list(done.tasks)
    figures = await fleet.store.figures()
    assert (figures.spool_bytes, figures.open_uploads) == (40, 0)


async def test_finishing_twice_gives_the_same_tasks(fleet: StoreFleet) -> None:
    upload = await fleet.open_upload(request_id="r")
    first = await fleet.run(finish(upload))
    assert await fleet.run(finish(upload)) == first
    once, twice = await fleet.together(finish(upload), finish(upload))
    assert once == twice == first
    # Over a bound now, and yet it is known.
    again = await fleet.open_upload(request_id="r", bounds=Bounds(queue_tasks=0, uploads=0, spool_bytes=0))
    assert again == first
    assert len(await fleet.store.tasks_of_payload(upload.id)) == 1


async def test_finishing_twice_in_one_group_gives_the_same_tasks(fleet: StoreFleet) -> None:
    upload = await fleet.open_upload()
    once, twice = await fleet.together(finish(upload), finish(upload))
    assert once == twice
    assert len(once.tasks) == 1


async def test_a_finished_upload_takes_no_more(fleet: StoreFleet) -> None:
    upload = await fleet.open_upload()
    await fleet.run(finish(upload))
    with pytest.raises(UploadTakenOver):
        await fleet.run(checkpoint(upload, 20))
    await fleet.run(RejectUpload(upload_id=upload.id, connection=upload.connection))
    found = await fleet.store.upload("alice", upload.request_id)
    assert found is not None
    assert found.state is UploadState.COMPLETE


async def test_another_request_under_the_same_id_is_refused(fleet: StoreFleet) -> None:
    await fleet.open_upload(request_id="r", fingerprint="one")
    with pytest.raises(RequestIdReused):
        await fleet.open_upload(request_id="r", fingerprint="two")
    await fleet.submit(request_id="s")
    with pytest.raises(RequestIdReused):
        await fleet.open_upload(request_id="s", fingerprint="same")
    # Another principal's ids are its own.
    assert (await fleet.open_upload(request_id="r", fingerprint="two", principal="bob")).connection == 1


async def test_the_same_id_at_once_makes_one_upload(fleet: StoreFleet) -> None:
    first, second = await fleet.together(
        *(opening(upload_id=f"candidate-{number}", request_id="r") for number in (1, 2))
    )
    assert (first.id, second.id) == ("candidate-1", "candidate-1")
    assert (first.connection, second.connection) == (1, 2)


async def test_promised_slots_count(fleet: StoreFleet) -> None:
    await fleet.open_upload(tasks=3)
    with pytest.raises(QueueFull) as full:
        await fleet.open_upload(tasks=2, bounds=Bounds(queue_tasks=4))
    assert full.value.subject == "queue:default"
    assert full.value.retry_after > 0
    with pytest.raises(QueueFull):
        await fleet.submit(plan(), plan(push("/b")), bounds=Bounds(queue_tasks=4))
    await fleet.submit(plan(), bounds=Bounds(queue_tasks=4))
    await fleet.open_upload(tasks=2, queue="other", bounds=Bounds(queue_tasks=4))


async def test_every_bound_of_uploads_is_kept(fleet: StoreFleet) -> None:
    await fleet.open_upload(tasks=2, reserve=100)
    with pytest.raises(TooManyUploads):
        await fleet.open_upload(bounds=Bounds(uploads=1))
    with pytest.raises(CallerShare):
        await fleet.open_upload(bounds=Bounds(caller_uploads=1))
    with pytest.raises(CallerShare):
        await fleet.open_upload(tasks=2, bounds=Bounds(caller_tasks=3))
    with pytest.raises(SpoolFull):
        await fleet.open_upload(reserve=1, bounds=Bounds(spool_bytes=100))
    # Nothing of the refused ones remains, and others have shares of their own.
    assert (await fleet.store.figures()).open_uploads == 1
    bounds = Bounds(uploads=2, caller_uploads=1, caller_tasks=3, spool_bytes=200)
    await fleet.open_upload(principal="bob", tasks=3, reserve=100, bounds=bounds)


async def test_a_rejected_upload_frees_its_slots_at_once_and_its_bytes_with_its_file(fleet: StoreFleet) -> None:
    upload = await fleet.open_upload(tasks=5, reserve=100, request_id="r")
    await fleet.run(RejectUpload(upload_id=upload.id, connection=upload.connection))
    assert await fleet.store.upload("alice", "r") is None
    await fleet.submit(bounds=Bounds(queue_tasks=1))
    assert (await fleet.store.figures()).spool_bytes == 100
    assert await fleet.store.known_files([upload.id]) == {upload.id}
    with pytest.raises(UploadTakenOver):
        await fleet.run(finish(upload))
    assert await fleet.run(AbandonIdleUploads(idle=600)) == (upload.id,)
    assert await fleet.run(AbandonIdleUploads(idle=600)) == (upload.id,), "asked again until it is gone"
    await fleet.run(ForgetUploads(upload_ids=(upload.id, "unknown")))
    await fleet.run(ForgetUploads(upload_ids=(upload.id,)))
    assert (await fleet.store.figures()).spool_bytes == 0
    assert await fleet.store.known_files([upload.id]) == frozenset()


async def test_the_id_of_a_rejected_upload_is_free_again(fleet: StoreFleet) -> None:
    upload = await fleet.open_upload(request_id="r", fingerprint="one")
    await fleet.run(RejectUpload(upload_id=upload.id, connection=upload.connection))
    again = await fleet.open_upload(request_id="r", fingerprint="two")
    assert again.id != upload.id
    assert (await fleet.run(finish(again))).tasks[0].status.state is State.QUEUED


async def test_silent_uploads_are_given_up(fleet: StoreFleet) -> None:
    silent = await fleet.open_upload()
    fleet.clock.advance(400)
    alive = await fleet.open_upload()
    complete = await fleet.open_upload()
    await fleet.run(finish(complete))
    fleet.clock.advance(300)
    assert await fleet.run(AbandonIdleUploads(idle=600)) == (silent.id,)
    with pytest.raises(UploadTakenOver):
        await fleet.run(checkpoint(silent, 10))
    await fleet.run(checkpoint(alive, 10))
    await fleet.run(ForgetUploads(upload_ids=(alive.id, complete.id)))
    assert await fleet.store.known_files([alive.id, complete.id]) == {alive.id, complete.id}


async def test_small_payloads_ride_in_the_database(fleet: StoreFleet) -> None:
    small = await fleet.upload(inline=b"0123456789")
    large = await fleet.upload()
    assert small.payload is not None
    assert large.payload is not None
    assert await fleet.store.inline_payload(small.payload.id) == b"0123456789"
    assert await fleet.store.inline_payload(large.payload.id) is None
    assert await fleet.store.payload(large.payload.id) == large.payload
    assert await fleet.store.payload("unknown") is None


async def test_uploads_survive_a_restart(open_store: OpenStore, clock: ManualClock) -> None:
    async with open_store(clock) as store:
        fleet = StoreFleet(store, clock)
        opened = await fleet.run(checkpoint(await fleet.open_upload(request_id="open"), 60))
        complete = await fleet.upload(request_id="complete")
    async with open_store(clock) as store:
        fleet = StoreFleet(store, clock)
        assert await store.upload("alice", "open") == opened
        assert await fleet.open_upload(request_id="complete") == complete
        assert (await fleet.run(finish(opened))).tasks[0].submission.seq > complete.tasks[0].submission.seq
        await fleet.whole()


# Uploads that arrive whole ------------------------------------------------------------------------------------------


def whole(request_id: str = "r", *, content: bytes = b"0123456789", tasks: int = 1, **more: Any) -> SubmitTasks:
    values: dict[str, Any] = {
        "principal": "alice",
        "request_id": request_id,
        "fingerprint": "same",
        "plans": tuple(plan(push(instance=f"c{number}")) for number in range(tasks)),
        "payload": Payload(uuid.uuid4().hex, len(content), 7, b"d" * 32),
        "content": content,
        "uploaded": True,
    }
    return SubmitTasks(**(values | more))


async def test_an_upload_that_arrives_whole_is_complete_with_one_command(fleet: StoreFleet) -> None:
    command = whole(tasks=3)
    made = await fleet.run(command)
    assert [task.submission.payload for task in made] == [command.payload] * 3
    assert command.payload is not None
    assert await fleet.store.inline_payload(command.payload.id) == b"0123456789"
    upload = await fleet.store.upload("alice", "r")
    assert upload is not None
    assert (upload.id, upload.state, upload.offset) == (command.payload.id, UploadState.COMPLETE, 10)
    assert (upload.payload, upload.tasks) == (command.payload, made)
    assert await fleet.open_upload(request_id="r") == upload
    assert await fleet.store.upload("bob", "r") is None
    assert (await fleet.store.figures()).open_uploads == 0
    await fleet.whole()


@pytest.mark.parametrize("together", [False, True])
async def test_the_same_whole_upload_again_gives_the_same_tasks(fleet: StoreFleet, together: bool) -> None:
    if together:
        first, again = await fleet.together(whole(tasks=2), whole(tasks=2))
    else:
        first, again = await fleet.run(whole(tasks=2)), await fleet.run(whole(tasks=2, bounds=Bounds(queue_tasks=0)))
    assert again == first
    assert (await fleet.store.figures()).spool_bytes == 10
    await fleet.whole()


@pytest.mark.parametrize("before", ["whole", "in parts"])
async def test_a_whole_upload_with_other_bytes_is_refused(fleet: StoreFleet, before: str) -> None:
    if before == "whole":
        await fleet.run(whole())
    else:
        await fleet.run(finish(await fleet.open_upload(request_id="r")))
    for other in (
        whole(content=b"short"),
        whole(payload=Payload("other", 10, 8)),
        whole(fingerprint="other"),
        whole(uploaded=False),
    ):
        with pytest.raises(RequestIdReused):
            await fleet.run(other)
    await fleet.whole()


async def test_a_whole_upload_of_an_open_one_is_not_taken(fleet: StoreFleet) -> None:
    """The caller opens it, as other connections do."""
    upload = await fleet.open_upload(request_id="r")
    with pytest.raises(UploadInProgress):
        await fleet.run(whole())
    done = await fleet.run(finish(upload))
    assert await fleet.run(whole(payload=done.payload)) == done.tasks


async def test_a_whole_upload_is_bound_as_a_submission_is(fleet: StoreFleet) -> None:
    with pytest.raises(QueueFull):
        await fleet.run(whole(tasks=2, bounds=Bounds(queue_tasks=1)))
    with pytest.raises(CallerShare):
        await fleet.run(whole(tasks=2, bounds=Bounds(caller_tasks=1)))
    await fleet.run(whole(bounds=Bounds(spool_bytes=15)))
    with pytest.raises(SpoolFull):
        await fleet.run(whole("another", bounds=Bounds(spool_bytes=15)))
    assert await fleet.store.upload("alice", "another") is None
    await fleet.whole()


async def test_a_whole_upload_is_forgotten_with_its_tasks(fleet: StoreFleet) -> None:
    (task,) = await fleet.run(whole())
    await fleet.run(CancelTask(task_id=task.id, creator=None, reason=""))
    fleet.clock.advance(10)
    assert await fleet.run(PurgeTasks(age=5.0)) == 1
    assert await fleet.store.upload("alice", "r") is None
    assert (await fleet.run(whole()))[0].id != task.id
