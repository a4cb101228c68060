"""An instance and a target run no more attempts than their limits, and hold up no other (P9, P10)."""

from __future__ import annotations

from longshore.server.model.values import Outcome
from tests.support.stores.claims import crash, paths
from tests.support.stores.store import StoreFleet, job, plan, push


async def test_an_instance_runs_no_more_than_its_limit(narrow: StoreFleet) -> None:
    await narrow.session()
    await narrow.submit(*(plan(push(f"/{number}")) for number in range(5)))
    first = await narrow.claim(room=9)
    assert paths(first) == ["/0", "/1"]
    assert await narrow.claim(room=9) == []
    narrow.changes.clear()
    await narrow.deliver(first[0])
    assert narrow.changes[-1].claimable
    assert paths(await narrow.claim(room=9)) == ["/2"]


async def test_the_default_project_is_one_instance_named_or_not(narrow: StoreFleet) -> None:
    await narrow.session()
    await narrow.submit(*(plan(push(f"/{number}", project="default" if number % 2 else "")) for number in range(4)))
    assert paths(await narrow.claim(room=9)) == ["/0", "/1"]


async def test_a_saturated_instance_holds_up_no_other(narrow: StoreFleet) -> None:
    await narrow.session()
    await narrow.submit(*(plan(push(f"/{number}"), priority=100) for number in range(50)))
    (other,) = await narrow.submit(plan(push("/x", "web2"), priority=-100))
    taken = await narrow.claim(room=9)
    assert paths(taken) == ["/0", "/1", "/x"]
    assert taken[-1].id == other.id


async def test_a_target_runs_no_more_than_its_limit_and_holds_up_no_other(narrow: StoreFleet) -> None:
    await narrow.session(targets={"default": "", "other": ""})
    await narrow.submit(*(plan(push(f"/{number}", f"i{number}"), priority=9) for number in range(9)))
    await narrow.submit(plan(push("/x", target="other")))
    taken = await narrow.claim(room=9)
    assert paths(taken) == ["/0", "/1", "/2", "/x"]
    assert await narrow.claim(room=9) == []
    narrow.changes.clear()
    await narrow.report(taken[0], Outcome.HANDED_BACK)
    assert narrow.changes[-1].claimable
    assert paths(await narrow.claim(room=9)) == ["/0"]


async def test_an_end_on_a_full_target_makes_the_next_task_claimable(narrow: StoreFleet) -> None:
    await narrow.session()
    await narrow.submit(*(plan(push(f"/{number}", f"i{number}")) for number in range(4)))
    taken = await narrow.claim(room=9)
    assert paths(taken) == ["/0", "/1", "/2"]
    narrow.changes.clear()
    await narrow.deliver(taken[0])
    assert narrow.changes[-1].claimable
    assert paths(await narrow.claim(room=9)) == ["/3"]


async def test_jobs_of_an_instance_share_its_limit_and_jobs_without_one_have_none(narrow: StoreFleet) -> None:
    await narrow.session()
    await narrow.submit(
        plan(push("/a")),
        plan(job(target="default", instance="web1")),
        plan(job(target="default", instance="web1")),
        *(plan(job()) for _ in range(5)),
    )
    taken = await narrow.claim(room=20)
    assert [task.submission.work.instance for task in taken] == ["web1", "web1", "", "", "", "", ""]


async def test_a_higher_priority_takes_the_slot_of_a_ready_one(narrow: StoreFleet) -> None:
    await narrow.session()
    await narrow.submit(*(plan(push(f"/{number}")) for number in range(4)))
    await narrow.submit(plan(push("/urgent"), priority=50))
    assert paths(await narrow.claim(room=9)) == ["/urgent", "/0"]


async def test_a_cancelled_ready_task_makes_room_for_the_next(narrow: StoreFleet) -> None:
    await narrow.session()
    tasks = await narrow.submit(*(plan(push(f"/{number}")) for number in range(4)))
    await narrow.cancel(tasks[0])
    assert paths(await narrow.claim(room=9)) == ["/1", "/2"]


async def test_every_task_runs_in_the_end(narrow: StoreFleet) -> None:
    await narrow.session()
    tasks = await narrow.submit(*(plan(push(f"/{number}", f"i{number % 3}")) for number in range(30)))
    ended = 0
    while taken := await narrow.claim(room=2):
        assert len(taken) <= 2
        for task in taken:
            await narrow.deliver(task)
            ended += 1
    assert ended == 30
    assert set(await narrow.states(*tasks)) == {"SUCCEEDED"}


async def test_tasks_without_a_taker_block_no_other_task(narrow: StoreFleet) -> None:
    """Two sorts of tasks wait in one instance: of a kind that no worker has, and for an idle worker."""
    await narrow.submit(*(plan(job("unknown", target="default", instance="web1"), priority=9) for _ in range(5)))
    await narrow.session("doomed")
    crashed = await narrow.submit(plan(push("/a"), priority=8), plan(push("/b"), priority=8))
    await narrow.claim("doomed", room=2)
    await crash(narrow, "doomed")
    await narrow.submit(*(plan(push(f"/{number}")) for number in range(3)))
    await narrow.session()
    assert paths(await narrow.claim(room=9, idle=False)) == ["/0", "/1"]
    assert await narrow.claim(room=9, idle=False) == [], "two run"
    assert await narrow.states(*crashed) == ["QUEUED"] * 2


async def test_many_kinds_share_an_instance_without_holding_up_others(narrow: StoreFleet) -> None:
    await narrow.session(kinds={"file_push": True, "a": False, "b": False, "c": False})
    for kind in ("a", "b", "c"):
        await narrow.submit(*(plan(job(kind, target="default", instance="web1"), priority=9) for _ in range(3)))
    (other,) = await narrow.submit(plan(push("/x", "web2")))
    taken = []
    while more := await narrow.claim(room=2):
        taken += more
    assert [task.submission.kind for task in taken] == ["a", "a", "file_push"]
    assert taken[-1].id == other.id
