"""Makes new tasks."""

from __future__ import annotations

from collections.abc import Sequence

from longshore.server.model.task import Payload, Submission
from longshore.server.store.commands import TaskPlan
from longshore.server.store.tables.ids import task_id
from longshore.server.store.transaction.loaded_task import LoadedTask
from longshore.server.store.transaction.unit import UnitOfWork


def make_tasks(
    unit: UnitOfWork,
    plans: Sequence[TaskPlan],
    *,
    creator: str,
    request_id: str,
    payload: Payload | None,
    retry_of: str = "",
    retried_by: str = "",
) -> list[LoadedTask]:
    """Make one task for each plan, in their order."""
    made = []
    for plan in plans:
        seq = unit.new_seq()
        submission = Submission(
            seq=seq,
            id=task_id(seq, unit.random_bits()),
            creator=creator,
            request_id=request_id,
            work=plan.work,
            terms=plan.terms,
            payload=payload,
            expires_at=unit.now + plan.terms.expire_after,
            created_at=unit.now,
            retry_of=retry_of,
            retried_by=retried_by,
        )
        key = plan.work.destination_key
        free = key is None or not unit.occupied(key)
        made.append(unit.add(submission, unit.first_status(not_before=plan.not_before, free=free)))
    return made
