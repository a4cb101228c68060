"""Jobs with a key go in order, one at a time (P10), and jobs of a project go to workers that know projects."""

from __future__ import annotations

import pytest

from longshore.server.model.errors import OldServers, Superseded
from longshore.server.model.events import Reported
from longshore.server.model.servers import Here
from longshore.server.model.task import Failure, Task, Work
from longshore.server.model.values import Outcome, State, WaitReason
from longshore.server.store.commands import (
    AnnounceServer,
    Bounds,
    Disconnect,
    FileReports,
    RetryTask,
    SubmitTasks,
    WakeParked,
)
from longshore.server.store.tables.schema_version import OURS
from tests.conformance.conftest import OpenStore
from tests.support.stores.store import ManualClock, StoreFleet, job, plan, push
from tests.support.stores.storekinds import StoreKind

NEW = 2
"""The revision of the contract of a worker that knows projects."""


async def claim(fleet: StoreFleet, *, revision: int = NEW, room: int = 10) -> list[Task]:
    claims = await fleet.offers(fleet.offer(room=room, revision=revision))
    return [task for _, task in claims.taken]


async def test_ten_jobs_of_one_key_go_one_at_a_time_in_order(fleet: StoreFleet) -> None:
    await fleet.session(revision=NEW)
    tasks = await fleet.submit(*[plan(job(key="reload", target="default", instance="web1", project="shop"))] * 10)
    for task, how in zip(tasks, ["ok", "failed", "tried", "parked", "lost"] * 2, strict=True):
        (taken,) = await claim(fleet)
        assert taken.id == task.id
        assert await claim(fleet) == [], "one at a time"
        if how == "tried":
            await fleet.report(taken, Outcome.TRANSIENT)
            fleet.clock.advance(400)
            await fleet.tick()
        elif how == "parked":
            await fleet.report(taken, Outcome.NOT_READY, wait_reason=WaitReason.INSTANCE_STOPPED)
            assert await claim(fleet) == [], "a parked job keeps its place"
            await fleet.run(WakeParked(target="default", project="", instance="web1", running=True))
            assert await fleet.state(task) is State.SCHEDULED, "another project's instance is not its own"
            await fleet.run(WakeParked(target="default", project="shop", instance="web1", running=True))
        elif how == "lost":
            await fleet.run(Disconnect(session_id="session-1", epoch=fleet.epoch("session-1"), goodbye=True))
            await fleet.session(revision=NEW)
        if how in ("tried", "parked", "lost"):
            (taken,) = await claim(fleet)
            assert (taken.id, taken.status.attempt) == (task.id, 2)
        failure = Failure("BROKEN", "It is broken.")
        await fleet.report(taken, Outcome.PERMANENT if how == "failed" else Outcome.OK, error=failure)
    assert await claim(fleet) == []
    assert await fleet.states(*tasks) == ["SUCCEEDED", "FAILED", "SUCCEEDED", "SUCCEEDED", "SUCCEEDED"] * 2


async def test_keys_differ_in_any_part_and_are_no_paths(fleet: StoreFleet) -> None:
    works: list[Work] = [
        push("/etc/motd"),
        job(target="default", instance="web1", key="/etc/motd"),
        job(target="default", instance="web2", key="/etc/motd"),
        job(target="default", instance="web1", key="/etc/motd", project="shop"),
        job(target="default", key="/etc/motd"),
        job(target="other", key="/etc/motd"),
        job(key="/etc/motd"),
        job(key="other"),
        job(),
        job(),
    ]
    tasks = await fleet.submit(*map(plan, works))
    assert await fleet.states(*tasks) == ["QUEUED"] * len(works)
    again = await fleet.submit(*map(plan, works))
    assert await fleet.states(*again) == ["BLOCKED"] * 8 + ["QUEUED"] * 2
    heads = await fleet.store.blocking({key for work in works if (key := work.destination_key)})
    assert sorted(heads.values()) == sorted(task.id for task in tasks[:8])
    stored = [(await fleet.now(task)).submission.work for task in tasks]
    assert stored == works


async def test_a_key_holds_for_jobs_of_all_kinds(fleet: StoreFleet) -> None:
    first, second = await fleet.submit(plan(job("stop", key="a")), plan(job("start", key="a")))
    assert await fleet.states(first, second) == ["QUEUED", "BLOCKED"]
    await fleet.cancel(first)
    assert await fleet.state(second) is State.QUEUED


async def test_a_retried_job_stands_at_the_end_of_its_key_and_never_behind_a_later_success(fleet: StoreFleet) -> None:
    await fleet.session()
    first, second = await fleet.submit(plan(job(key="a")), plan(job(key="a")))
    await fleet.cancel(first)

    def retry(name: str) -> RetryTask:
        return RetryTask(
            principal="alice",
            creator="alice",
            task_id=first.id,
            request_id=name,
            force=False,
            expected_revision=None,
            bounds=Bounds(),
        )

    again = await fleet.run(retry("early"))
    assert await fleet.states(second, again) == ["QUEUED", "BLOCKED"]
    (taken,) = await fleet.claim()
    await fleet.report(taken, Outcome.OK)
    with pytest.raises(Superseded, match="with the same key"):
        await fleet.run(retry("late"))


async def test_a_job_of_a_project_is_never_given_to_a_worker_that_knows_no_projects(fleet: StoreFleet) -> None:
    await fleet.session()
    with_project = job(target="default", instance="web1", project="shop")
    ours, others = await fleet.submit(plan(with_project, priority=5), plan(job(target="default", instance="web1")))
    assert [task.id for task in await claim(fleet, revision=0)] == [others.id]
    assert await claim(fleet, revision=0) == []
    assert [task.id for task in await claim(fleet)] == [ours.id]
    # Neither after a crash, when it must run alone.
    await fleet.session("session-2", dead_sessions=["session-1"])
    assert await fleet.states(ours, others) == ["QUEUED", "QUEUED"]
    for revision, wanted in ((0, [others.id]), (0, []), (NEW, [])):
        claims = await fleet.offers(fleet.offer("session-2", room=5, revision=revision))
        assert [task.id for _, task in claims.taken] == wanted
    await fleet.report((await fleet.now(others)), Outcome.OK, "session-2")
    claims = await fleet.offers(fleet.offer("session-2", room=5, revision=NEW))
    assert [(task.id, task.status.alone) for _, task in claims.taken] == [(ours.id, True)]


async def test_a_commit_of_a_project_is_settled_by_a_worker_that_knows_projects(fleet: StoreFleet) -> None:
    await fleet.session(kinds={"report": True}, revision=NEW)
    (task,) = await fleet.submit(plan(job(target="default", instance="web1", project="shop")))
    (taken,) = await claim(fleet)
    assert (await fleet.grant(taken)).granted
    await fleet.session("session-2", kinds={"report": True}, dead_sessions=["session-1"])
    assert await fleet.state(task) is State.SETTLING
    assert await fleet.offers(fleet.offer("session-2", room=5)) == await fleet.offers(fleet.offer("session-2", room=5))
    assert await fleet.state(task) is State.SETTLING
    claims = await fleet.offers(fleet.offer("session-2", room=5, revision=NEW))
    assert [one.id for _, one in claims.taken] == [task.id]


async def test_the_revision_of_a_worker_is_on_record(fleet: StoreFleet) -> None:
    await fleet.session(revision=NEW)
    await fleet.session("session-2")
    assert {one.id: one.revision for one in await fleet.store.sessions()} == {"session-1": NEW, "session-2": 0}
    await fleet.session("session-2", revision=NEW)
    assert {one.revision for one in await fleet.store.sessions()} == {NEW}


async def test_a_report_of_several_keyed_jobs_in_one_transaction_passes_each_turn_on(fleet: StoreFleet) -> None:
    await fleet.session()
    tasks = await fleet.submit(*[plan(job(key=key)) for key in "aabb"])
    taken = await fleet.claim(room=9)
    assert [task.id for task in taken] == [tasks[0].id, tasks[2].id]
    said = tuple((task.id, Reported("session-1", 1, Outcome.OK)) for task in taken)
    epoch = fleet.epoch("session-1")
    await fleet.run(FileReports(session_id="session-1", epoch=epoch, reports=said))
    assert await fleet.states(*tasks) == ["SUCCEEDED", "QUEUED", "SUCCEEDED", "QUEUED"]


# Servers of the version before ------------------------------------------------------------------------------------

KEYED = SubmitTasks(principal="alice", request_id="keyed", fingerprint="f", plans=(plan(job(key="a")),))


async def test_a_server_of_the_version_before_keeps_keys_and_projects_out(fleet: StoreFleet, kind: StoreKind) -> None:
    plain = await fleet.submit(plan(job()))
    seen = fleet.clock.ticks()
    kind.execute(
        "INSERT INTO servers (id, address, spool, version, started_at, seen_ticks) "
        f"VALUES ('old', 'here:1', 'spool', '0.1', {fleet.clock.now()}, {seen})"
    )
    for work in (job(key="a"), job(target="default", instance="web1", project="shop")):
        with pytest.raises(OldServers, match=r"version 0\.1.*upgrade all servers"):
            await fleet.submit(plan(work))
    with pytest.raises(OldServers):
        await fleet.open_upload(needs_servers=True)
    with pytest.raises(OldServers):
        await fleet.upload(plan(job(key="a")))
    assert await fleet.submit(plan(job())) != plain, "other tasks are welcome"
    fleet.clock.advance(31.0)
    assert await fleet.run(KEYED), "the old server is dead"


async def test_on_the_schema_before_keys_and_projects_are_refused(open_store: OpenStore, clock: ManualClock) -> None:
    async with open_store(clock) as store:
        store.schema.revision = OURS - 1
        with pytest.raises(OldServers, match="longshored migrate"):
            await store.run(KEYED)
        store.schema.revision = OURS
        (task,) = await store.run(KEYED)
        assert task.status.state is State.QUEUED


async def test_a_server_of_this_version_says_so_of_itself(fleet: StoreFleet) -> None:
    await fleet.run(AnnounceServer(here=Here("new", "spool"), address="here:1", version="0.2"))
    await fleet.run(AnnounceServer(here=Here("new", "spool"), address="here:1", version="0.2"))
    assert await fleet.run(KEYED)
