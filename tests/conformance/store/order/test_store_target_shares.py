"""A session takes no more of a target than its share (P10)."""

from __future__ import annotations

from collections import Counter

from longshore.server.model.task import Task
from tests.support.stores.store import StoreFleet, job, plan, push


async def several_targets(fleet: StoreFleet, *sessions: str) -> None:
    """Ten tasks for each of three targets, those of the first accepted first, and sessions that serve all."""
    for target in ("a", "b", "c"):
        await fleet.submit(*(plan(push(f"/{number}", f"i{number % 5}", target=target)) for number in range(10)))
    for session in sessions:
        await fleet.session(session, targets={"a": "", "b": "", "c": ""})


def count_by_target(tasks: list[Task]) -> dict[str, int]:
    return dict(Counter(task.submission.target for task in tasks))


async def test_a_session_takes_no_more_of_a_target_than_its_share(fleet: StoreFleet) -> None:
    """P10: a daemon that hangs never takes all of a worker."""
    await several_targets(fleet, "s")
    claims = await fleet.offers(fleet.offer("s", room=8, kept_for=("a", "b", "c")))
    assert count_by_target([task for _, task in claims.taken]) == {"a": 6, "b": 1, "c": 1}


async def test_room_is_kept_for_a_target_that_has_nothing_yet(fleet: StoreFleet) -> None:
    await several_targets(fleet, "s", "t")
    claims = await fleet.offers(fleet.offer("s", room=2, idle=False, kept_for=("c",)))
    assert count_by_target([task for _, task in claims.taken]) == {"a": 1, "c": 1}
    claims = await fleet.offers(fleet.offer("s", room=1, idle=False, kept_for=("unknown",)))
    assert claims.taken == ()
    # A worker with a share left gets the tasks that another one is refused.
    claims = await fleet.offers(
        fleet.offer("s", room=3, idle=False, kept_for=("x", "y", "z")), fleet.offer("t", room=1, kept_for=("a",))
    )
    assert [(session, task.submission.target) for session, task in claims.taken] == [("t", "a")]


async def test_a_task_without_a_target_uses_any_free_credit(fleet: StoreFleet) -> None:
    await fleet.submit(*(plan(job("report")) for _ in range(3)))
    await fleet.session(targets={"a": "", "b": ""})
    claims = await fleet.offers(fleet.offer(room=3, kept_for=("a", "b")))
    assert len(claims.taken) == 3
