"""Time brings due tasks, expiry and time-outs, and payloads and tasks that nobody needs any more (P4, P12)."""

from __future__ import annotations

from longshore.server.model.events import Policy
from longshore.server.model.task import Failure, Task, Upload
from longshore.server.model.values import Outcome, State, WaitReason
from longshore.server.store.commands import DoomPayloads, ForgetPayloads, PurgeTasks, Tick
from longshore.server.store.protocol import TaskFilter
from tests.conformance.store.test_store_uploads import opening
from tests.support.stores.store import StoreFleet, job, plan, push, submit

DAY = 86400.0
WEEK = 7 * DAY


# Time -----------------------------------------------------------------------------------------------------------------


async def test_a_tick_knows_when_to_come_again(fleet: StoreFleet) -> None:
    assert await fleet.tick() == (await fleet.run(Tick(limit=1)))
    empty = await fleet.tick()
    assert (empty.changed, empty.more, empty.next_at, empty.next_ticks) == (0, False, None, None)
    now = fleet.clock.now()
    await fleet.submit(plan(expire_after=100.0, run_timeout=40.0))
    assert (await fleet.tick()).next_at == now + 100
    await fleet.submit(plan(push("/b"), not_before=50.0))
    assert (await fleet.tick()).next_at == now + 50
    await fleet.session()
    await fleet.claim_one()
    ticked = await fleet.tick()
    assert (ticked.next_at, ticked.next_ticks) == (now + 50, fleet.clock.ticks() + 40)
    fleet.clock.advance(50)
    assert (await fleet.tick()).changed == 2, "one is due, one has run too long"


async def test_waiting_tasks_expire_and_running_ones_when_they_fall_back(fleet: StoreFleet) -> None:
    await fleet.session()
    ran, back = await fleet.submit(plan(push("/a"), expire_after=10.0), plan(push("/b"), expire_after=10.0))
    await fleet.claim(room=2)
    queued, blocked, later = await fleet.submit(
        plan(push("/c"), expire_after=10.0),
        plan(push("/c"), expire_after=10.0),
        plan(push("/d"), expire_after=10.0, not_before=5.0),
    )
    fleet.clock.advance(10)
    await fleet.tick()
    assert await fleet.states(queued, blocked, later) == ["EXPIRED"] * 3
    assert await fleet.states(ran, back) == ["RUNNING"] * 2
    await fleet.deliver(await fleet.now(ran))
    await fleet.report(await fleet.now(back), Outcome.HANDED_BACK)
    assert await fleet.states(ran, back) == ["SUCCEEDED", "EXPIRED"]


async def test_time_outs(fleet: StoreFleet) -> None:
    await fleet.session(lease=10_000.0)
    for path in ("/a", "/b", "/c"):
        await fleet.submit(plan(push(path), run_timeout=60.0))
    slow, granted, cancelled = await fleet.claim(room=3)
    await fleet.grant(granted)
    fleet.clock.advance(30)
    await fleet.cancel(cancelled)
    fleet.clock.advance(30)
    assert (await fleet.tick()).changed == 3
    assert await fleet.states(slow, granted, cancelled) == ["SCHEDULED", "SETTLING", "CANCELLED"]
    status = (await fleet.now(slow)).status
    assert (status.tries, status.wait_reason) == (1, WaitReason.BACK_OFF)
    assert status.error is not None
    assert status.error.reason == "TIMED_OUT"
    assert not await fleet.report(slow, Outcome.TRANSIENT), "it was revoked"
    for task in (slow, granted, cancelled):
        assert (await fleet.store.attempts(task.id))[0].end == "TIMED_OUT"


async def test_an_attempt_that_was_given_up_and_went_well_has_no_error(fleet: StoreFleet) -> None:
    """The granted attempt knows what became of its own commit, and its record says the same."""
    await fleet.session(lease=10_000.0)
    await fleet.submit(plan(run_timeout=60.0))
    task = await fleet.claim_one()
    await fleet.grant(task)
    fleet.clock.advance(60)
    await fleet.tick()
    (given_up,) = await fleet.store.attempts(task.id)
    assert given_up.error is not None
    assert await fleet.report(task, Outcome.OK)
    (attempt,) = await fleet.store.attempts(task.id)
    assert (await fleet.state(task), attempt.end, attempt.error) == (State.SUCCEEDED, "OK", None)


async def test_back_off_grows_and_ends_at_the_limit(fleet: StoreFleet) -> None:
    await fleet.session(lease=10_000.0)
    (task,) = await fleet.submit(plan(attempt_limit=3))
    policy = Policy()
    for tries in (1, 2):
        await fleet.report(await fleet.claim_one(), Outcome.TRANSIENT, error=Failure("BUSY", "busy", True))
        status = (await fleet.now(task)).status
        assert (status.state, status.tries) == (State.SCHEDULED, tries)
        assert status.due_at is not None
        pause = status.due_at - fleet.clock.now()
        assert policy.back_off(tries, 0.0) <= pause <= policy.back_off(tries, 1.0)
        fleet.clock.advance(pause)
        await fleet.tick()
    await fleet.report(await fleet.claim_one(), Outcome.TRANSIENT, error=Failure("BUSY", "busy", True))
    assert await fleet.state(task) is State.FAILED


# Payloads -------------------------------------------------------------------------------------------------------------


async def ended(fleet: StoreFleet, outcome: Outcome, *, size: int = 10, path: str = "/etc/motd") -> Upload:
    upload = await fleet.upload(plan(push(path)), size=size)
    task = await fleet.claim_one()
    if outcome is Outcome.OK:
        await fleet.deliver(task)
    else:
        await fleet.report(task, outcome, error=Failure("NO_SPACE", ""))
    return upload


async def test_payloads_live_as_long_as_a_task_needs_them(fleet: StoreFleet) -> None:
    await fleet.session()
    upload = await fleet.upload(plan(push("/a")), plan(push("/b")), inline=b"0123456789")
    for number, task in enumerate(await fleet.claim(room=2)):
        assert await fleet.run(DoomPayloads()) == (), number
        await fleet.deliver(task)
    assert await fleet.run(DoomPayloads()) == (upload.id,)
    assert await fleet.run(DoomPayloads()) == (upload.id,), "until its bytes are gone"
    assert await fleet.store.payload(upload.id) is not None
    await fleet.run(ForgetPayloads(payload_ids=(upload.id, "unknown")))
    await fleet.run(ForgetPayloads(payload_ids=(upload.id,)))
    assert await fleet.run(DoomPayloads()) == ()
    assert await fleet.store.payload(upload.id) is None
    assert await fleet.store.inline_payload(upload.id) is None
    assert await fleet.store.known_files([upload.id]) == frozenset()
    assert (await fleet.store.figures()).spool_bytes == 0
    (task, _) = await fleet.store.tasks_of_payload(upload.id)
    assert task.submission.payload == upload.payload, "the task still tells what it was"


async def test_payloads_of_the_unsuccessful_are_kept_for_a_retry(fleet: StoreFleet) -> None:
    await fleet.session(lease=10 * DAY)
    upload = await fleet.upload(plan(push("/a")), plan(push("/b")))
    bad, good = await fleet.claim(room=2)
    await fleet.report(bad, Outcome.PERMANENT)
    fleet.clock.advance(100)
    await fleet.deliver(good)
    until = (await fleet.now(bad)).status.retryable_until
    assert until == fleet.clock.now() - 100 + DAY
    fleet.clock.advance(DAY - 101)
    assert await fleet.run(DoomPayloads()) == ()
    fleet.clock.advance(1)
    assert await fleet.run(DoomPayloads()) == (upload.id,)


async def test_live_payloads_are_not_forgotten_by_mistake(fleet: StoreFleet) -> None:
    upload = await fleet.upload()
    await fleet.run(ForgetPayloads(payload_ids=(upload.id,)))
    assert await fleet.store.payload(upload.id) is not None


async def test_the_oldest_kept_ones_are_evicted_for_room(fleet: StoreFleet) -> None:
    await fleet.session(lease=10 * DAY)
    uploads = []
    for path in ("/a", "/b", "/c"):
        uploads.append(await ended(fleet, Outcome.PERMANENT, size=100, path=path))
        fleet.clock.advance(1)
    live = await fleet.upload(plan(push("/d")), size=1000)
    assert await fleet.run(DoomPayloads(free=150)) == tuple(sorted(upload.id for upload in uploads[:2]))
    assert set(await fleet.run(DoomPayloads(free=10_000))) == {upload.id for upload in uploads}
    assert await fleet.store.payload(live.id) is not None


async def test_a_payload_finished_in_the_same_group_is_not_doomed(fleet: StoreFleet) -> None:
    from tests.conformance.store.test_store_uploads import finish

    upload = await fleet.open_upload()
    doomed, _ = await fleet.together(DoomPayloads(), finish(upload))
    assert doomed == ()
    assert await fleet.run(DoomPayloads()) == ()


# Retention ------------------------------------------------------------------------------------------------------------


async def test_requests_go_when_all_their_tasks_have_been_over_for_long(fleet: StoreFleet) -> None:
    await fleet.session(lease=100 * DAY)
    first, second = await fleet.submit(
        plan(push("/a"), labels={"app": "shop"}), plan(push("/b"), expire_after=300 * DAY), request_id="r"
    )
    (task, _) = await fleet.claim(room=2)
    await fleet.deliver(task)
    fleet.clock.advance(2 * WEEK)
    assert await fleet.run(PurgeTasks(age=WEEK)) == 0, "one of its tasks lives"
    await fleet.report(await fleet.now(second), Outcome.PERMANENT)
    fleet.clock.advance(WEEK - 1)
    assert await fleet.run(PurgeTasks(age=WEEK)) == 0
    assert (await fleet.run(submit(request_id="r")))[0] == await fleet.now(first), "the id is known for a week"
    fleet.clock.advance(1)
    assert await fleet.run(PurgeTasks(age=WEEK)) == 2
    for gone in (first, second):
        assert await fleet.store.task(gone.id) is None
        assert await fleet.store.history(gone.id, after=0) == []
        assert await fleet.store.attempts(gone.id) == []
    assert not await fleet.store.list_tasks(TaskFilter(labels={"app": "shop"}), before=None, limit=9)
    (fresh,) = await fleet.run(submit(request_id="r", fingerprint="other"))
    assert fresh.submission.seq > second.submission.seq


async def test_a_request_repeated_in_the_transaction_that_purges_it_has_its_tasks(fleet: StoreFleet) -> None:
    await fleet.session()
    submitted = await fleet.run(submit(request_id="r"))
    upload = await fleet.upload(plan(push("/u")), request_id="u")
    for task in (*submitted, *upload.tasks):
        await fleet.cancel(task)
    fleet.clock.advance(WEEK)
    again = opening(upload_id="another", request_id="u")
    purge = PurgeTasks(age=WEEK)
    found, opened, purged = await fleet.together(submit(request_id="r"), again, purge)
    assert [task.id for task in found] == [task.id for task in submitted]
    assert [task.id for task in opened.tasks] == [task.id for task in upload.tasks]
    assert purged == 0
    assert await fleet.run(purge) == 2, "the next one takes them"


async def test_purging_uploads_frees_their_id(fleet: StoreFleet) -> None:
    await fleet.session()
    upload = await ended(fleet, Outcome.OK)
    open_one = await fleet.open_upload(request_id="open")
    fleet.clock.advance(WEEK)
    assert await fleet.run(PurgeTasks(age=WEEK)) == 1
    assert await fleet.store.upload("alice", upload.request_id) is None
    assert await fleet.store.upload("alice", "open") == open_one
    assert await fleet.run(DoomPayloads()) == (upload.id,), "its bytes are still to be removed"


async def test_purging_is_limited(fleet: StoreFleet) -> None:
    tasks: list[Task] = []
    for number in range(5):
        tasks += await fleet.submit(plan(push(f"/{number}")))
    for task in tasks:
        await fleet.cancel(task)
        fleet.clock.advance(1)
    fleet.clock.advance(WEEK)
    assert await fleet.run(PurgeTasks(age=WEEK, limit=2)) == 2
    left = await fleet.store.list_tasks(TaskFilter(), before=None, limit=9)
    assert [task.id for task in left] == [task.id for task in reversed(tasks[2:])]


async def test_a_job_without_a_target_is_purged_too(fleet: StoreFleet) -> None:
    await fleet.session()
    await fleet.submit(plan(job()))
    await fleet.report(await fleet.claim_one(), Outcome.OK)
    fleet.clock.advance(WEEK)
    assert await fleet.run(PurgeTasks(age=WEEK)) == 1
