"""Makes new tasks."""

from __future__ import annotations

from collections.abc import Sequence

from longshore.server.model.task import FilePush, Payload, Submission
from longshore.server.store.commands import TaskPlan
from longshore.server.store.tables.ids import task_id
from longshore.server.store.tables.rows import destination_key_of
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
            kind=plan.kind,
            queue=plan.queue,
            priority=plan.priority,
            labels=plan.labels,
            work=plan.work,
            payload=payload,
            run_timeout=plan.run_timeout,
            stall_timeout=plan.stall_timeout,
            attempt_limit=plan.attempt_limit,
            expires_at=unit.now + plan.expire_after,
            created_at=unit.now,
            retry_of=retry_of,
            retried_by=retried_by,
        )
        free = not isinstance(plan.work, FilePush) or not unit.occupied(destination_key_of(plan.work.destination))
        made.append(unit.add(submission, unit.first_status(not_before=plan.not_before, free=free)))
    return made
