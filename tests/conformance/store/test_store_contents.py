"""Small files that come along with their submission: one transaction, the same bounds, the same end."""

from __future__ import annotations

from typing import Any

import pytest

from longshore.server.model.errors import QueueFull, RequestIdReused, SpoolFull
from longshore.server.model.task import Payload
from longshore.server.model.values import State
from longshore.server.store.commands import Bounds, ClaimTasks, DoomPayloads, ForgetPayloads, SubmitTasks
from tests.support.stores.store import StoreFleet, plan, push

CONTENT = b"hello, dock\n"


def submission(number: int = 1, **more: Any) -> SubmitTasks:
    values: dict[str, Any] = {
        "principal": "alice",
        "request_id": f"request-{number}",
        "fingerprint": "same",
        "plans": (plan(),),
        "payload": Payload(f"{number:032x}", len(CONTENT), 7),
        "content": CONTENT,
        "bounds": Bounds(),
    }
    return SubmitTasks(**(values | more))


async def test_content_is_durable_with_its_tasks(fleet: StoreFleet) -> None:
    tasks = await fleet.run(submission(plans=(plan(push("/a")), plan(push("/b")))))
    assert [task.submission.payload for task in tasks] == [Payload(f"{1:032x}", len(CONTENT), 7)] * 2
    assert await fleet.store.inline_payload(f"{1:032x}") == CONTENT
    assert (await fleet.store.figures()).spool_bytes == len(CONTENT)


async def test_an_empty_content_is_a_payload(fleet: StoreFleet) -> None:
    (task,) = await fleet.run(submission(payload=Payload(f"{1:032x}", 0, 0), content=b""))
    assert task.submission.payload is not None
    assert await fleet.store.inline_payload(f"{1:032x}") == b""


async def test_the_same_again_keeps_nothing_twice(fleet: StoreFleet) -> None:
    first = await fleet.run(submission())
    again = submission(payload=Payload(f"{2:032x}", len(CONTENT), 7))
    assert [task.id for task in await fleet.run(again)] == [task.id for task in first]
    assert await fleet.store.inline_payload(f"{2:032x}") is None
    with pytest.raises(RequestIdReused):
        await fleet.run(submission(fingerprint="other", payload=Payload(f"{3:032x}", 1, 7), content=b"x"))
    assert (await fleet.store.figures()).spool_bytes == len(CONTENT)


async def test_the_same_request_twice_in_one_transaction_keeps_one_content(fleet: StoreFleet) -> None:
    one, other = await fleet.together(submission(), submission(payload=Payload(f"{2:032x}", len(CONTENT), 7)))
    assert [task.id for task in one] == [task.id for task in other]
    assert (await fleet.store.figures()).spool_bytes == len(CONTENT)


async def test_the_spools_bound_holds_also_within_a_transaction(fleet: StoreFleet) -> None:
    bounds = Bounds(spool_bytes=2 * len(CONTENT))
    results = await fleet.together(*(submission(number, bounds=bounds) for number in range(1, 5)))
    assert sum(isinstance(each, SpoolFull) for each in results) == 2
    # An earlier caller is answered, however full the spool is.
    assert len(await fleet.run(submission(1, bounds=Bounds(spool_bytes=0)))) == 1


async def test_a_refused_submission_keeps_no_content(fleet: StoreFleet) -> None:
    with pytest.raises(QueueFull):
        await fleet.run(submission(bounds=Bounds(queue_tasks=0)))
    assert await fleet.store.inline_payload(f"{1:032x}") is None
    assert (await fleet.store.figures()).spool_bytes == 0


async def test_content_is_removed_when_no_task_needs_it(fleet: StoreFleet) -> None:
    await fleet.session()
    await fleet.run(submission())
    assert (await fleet.deliver(await fleet.claim_one())).status.state is State.SUCCEEDED
    doomed = await fleet.run(DoomPayloads())
    assert doomed == (f"{1:032x}",)
    await fleet.run(ForgetPayloads(payload_ids=doomed))
    assert await fleet.store.inline_payload(f"{1:032x}") is None
    assert (await fleet.store.figures()).spool_bytes == 0


async def test_a_task_with_content_can_be_claimed_in_its_own_transaction(fleet: StoreFleet) -> None:
    await fleet.session()
    *_, claims = await fleet.together(submission(), ClaimTasks(offers=(fleet.offer(),)))
    ((_, task),) = claims.taken
    assert task.submission.payload == Payload(f"{1:032x}", len(CONTENT), 7)
