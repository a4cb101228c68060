"""Commands of tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from longshore.server.model.errors import (
    NotFound,
    NotRetryable,
    NotSettling,
    PayloadGone,
    QueueNotFound,
    RevisionMismatch,
    Superseded,
)
from longshore.server.model.events import CancelAsked, SettledByHand
from longshore.server.model.task import Payload, Task
from longshore.server.model.values import State
from longshore.server.store.commands import CancelTask, PauseQueue, RetryTask, SettleTask, SubmitTasks, TaskPlan
from longshore.server.store.handlers.requests import (
    check_room,
    check_same,
    find_request,
    kept_payload,
    record_request,
    tasks_of_request,
)
from longshore.server.store.sql.statement import Statement, statement
from longshore.server.store.tables.schema import counters, is_delivered, is_live, is_queued, queues, submissions, tasks
from longshore.server.store.transaction.counters import QUEUE, RESTORED, SPOOL
from longshore.server.store.transaction.loaded_task import LoadedTask
from longshore.server.store.transaction.new_tasks import make_tasks
from longshore.server.store.transaction.payloads import check_spool, keep_payload
from longshore.server.store.transaction.unit import RequestRecord, UnitOfWork

_USES_PAYLOAD: Final = statement(
    sa.select(sa.literal_column("1"))
    .join_from(submissions, tasks, tasks.c.seq == submissions.c.seq)
    .where(submissions.c.payload_id == sa.bindparam("payload_id"), tasks.c.creator == sa.bindparam("creator"))
    .limit(1)
)
_DELIVERED_SINCE: Final = statement(
    sa.select(tasks.c.id)
    .where(tasks.c.destination_key == sa.bindparam("key"), tasks.c.seq > sa.bindparam("after"), is_delivered)
    .limit(1)
)
_QUEUE_NAMES: Final = statement(
    sa.union(
        sa.select(queues.c.name), sa.select(counters.c.name).where(counters.c.scope == sa.literal_column(f"'{QUEUE}'"))
    )
)
"""Finds queues that were paused or resumed once, and queues that held a task once: their counters stay."""
_ALWAYS_THERE: Final = "default"
_NAMES_SHOWN: Final = 20
_MAKE_QUEUE: Final = Statement(
    lambda dialect: dialect.insert_missing(queues).values(name=sa.bindparam("name"), paused=sa.false())
)
_SET_PAUSED: Final = statement(
    queues.update().where(queues.c.name == sa.bindparam("called")).values(paused=sa.bindparam("is_paused"))
)
_TOLD: Final = statement(
    counters.delete().where(counters.c.scope == RESTORED, counters.c.name == sa.bindparam("queue"))
)
_PAUSED_KEYS: Final = statement(
    sa.select(tasks.c.concurrency_key).where(tasks.c.queue == sa.bindparam("queue"), is_live, is_queued).distinct()
)
_PAUSE_TASKS: Final = statement(
    tasks.update()
    .where(tasks.c.queue == sa.bindparam("of_queue"), is_live, is_queued)
    .values(paused=sa.true(), ready=sa.false())
)
_RESUME_TASKS: Final = statement(
    tasks.update().where(tasks.c.queue == sa.bindparam("of_queue"), is_live, is_queued).values(paused=sa.false())
)
_READY_WITHOUT_KEY: Final = statement(
    tasks.update()
    .where(tasks.c.queue == sa.bindparam("of_queue"), is_live, is_queued, tasks.c.concurrency_key == "")
    .values(ready=sa.true())
)


def _owned(unit: UnitOfWork, task_id: str, creator: str | None) -> LoadedTask:
    loaded = unit.find_task(task_id)
    if loaded is None or (creator is not None and loaded.submission.creator != creator):
        raise NotFound(f"There is no task {task_id!r} of yours, or its history is removed.", task_id=task_id)
    return loaded


def _check_revision(loaded: LoadedTask, expected: int | None) -> None:
    revision = loaded.status.revision
    if expected is not None and revision != expected:
        raise RevisionMismatch(
            f"The task is at revision {revision}, not {expected}: read it anew and decide again.",
            task_id=loaded.submission.id,
            revision=str(revision),
        )


def submit_tasks(unit: UnitOfWork, command: SubmitTasks) -> Callable[[], tuple[Task, ...]]:
    """See SubmitTasks."""
    request = find_request(unit, command.principal, command.request_id)
    if request is not None:
        check_same(request, command.fingerprint, request_id=command.request_id, upload=False)
        return lambda: tasks_of_request(unit, request)
    payload = command.payload or _named_payload(unit, command)
    for queue, count in Counter([plan.terms.queue for plan in command.plans]).items():
        check_room(unit, command.bounds, queue=queue, principal=command.principal, tasks=count)
    if command.payload is not None:
        size = command.payload.size
        check_spool(unit, command.bounds, size, size=size, principal=command.principal)
        keep_payload(unit, command.payload, command.content)
        unit.move(SPOOL, command.payload.size)
    made = make_tasks(unit, command.plans, creator=command.principal, request_id=command.request_id, payload=payload)
    record_request(
        unit,
        principal=command.principal,
        request_id=command.request_id,
        request=RequestRecord(command.fingerprint, None, made[0].submission.seq, len(made)),
    )
    return lambda: tuple(loaded.task for loaded in made)


def _named_payload(unit: UnitOfWork, command: SubmitTasks) -> Payload | None:
    if not command.payload_id:
        return None
    payload = kept_payload(unit, command.payload_id)
    if not command.any_creator:
        uses = unit.link.row(_USES_PAYLOAD, payload_id=payload.id, creator=command.principal)
        mine = any(
            loaded.submission.creator == command.principal
            and loaded.submission.payload is not None
            and loaded.submission.payload.id == payload.id
            for loaded in unit.loaded()
        )
        if uses is None and not mine:
            raise PayloadGone(f"No task of yours keeps the payload {payload.id!r}.", payload_id=payload.id)
    return payload


def retry_task(unit: UnitOfWork, command: RetryTask) -> Callable[[], Task]:
    """See RetryTask."""
    fingerprint = f"retry/1:{command.task_id}"
    # First: the old task may be forgotten before the new one and its request are.
    request = find_request(unit, command.principal, command.request_id)
    if request is not None:
        check_same(request, fingerprint, request_id=command.request_id, upload=False)
        return lambda: tasks_of_request(unit, request)[0]
    old = _owned(unit, command.task_id, command.creator)
    _check_revision(old, command.expected_revision)
    if not old.status.state.terminal or old.status.state is State.SUCCEEDED:
        raise NotRetryable(
            f"The task is {old.status.state.name}; only FAILED, CANCELLED and EXPIRED tasks can be retried.",
            task_id=old.submission.id,
            state=old.status.state.name,
        )
    payload = None if old.submission.payload is None else kept_payload(unit, old.submission.payload.id)
    if not command.force:
        _check_not_superseded(unit, old)
    submission = old.submission
    check_room(unit, command.bounds, queue=submission.terms.queue, principal=submission.creator, tasks=1)
    made = make_tasks(
        unit,
        (TaskPlan(submission.work, submission.terms),),
        creator=submission.creator,
        request_id=command.request_id,
        payload=payload,
        retry_of=submission.id,
        retried_by="" if command.principal == submission.creator else command.principal,
    )
    record_request(
        unit,
        principal=command.principal,
        request_id=command.request_id,
        request=RequestRecord(fingerprint, None, made[0].submission.seq, 1),
    )
    return lambda: made[0].task


def _check_not_superseded(unit: UnitOfWork, old: LoadedTask) -> None:
    key = old.submission.work.destination_key
    if key is None:
        return
    # The deliveries of this batch are written first, so that one query is enough.
    unit.flush()
    row = unit.link.row(_DELIVERED_SINCE, key=key, after=old.submission.seq)
    if row is not None:
        raise Superseded(
            f"The later task {row[0]} has delivered to the same destination: force the retry if that is meant.",
            task_id=old.submission.id,
            later_task_id=row[0],
        )


def cancel_task(unit: UnitOfWork, command: CancelTask) -> Callable[[], Task]:
    """See CancelTask."""
    loaded = _owned(unit, command.task_id, command.creator)
    _check_revision(loaded, command.expected_revision)
    unit.apply(loaded, CancelAsked(command.reason, unit.ticks))
    return lambda: loaded.task


def settle_task(unit: UnitOfWork, command: SettleTask) -> Callable[[], Task]:
    """See SettleTask."""
    loaded = _owned(unit, command.task_id, None)
    if loaded.status.state is not State.SETTLING:
        raise NotSettling(
            f"The task is {loaded.status.state.name}; only a SETTLING task can be settled by hand.",
            task_id=loaded.submission.id,
            state=loaded.status.state.name,
        )
    unit.apply(loaded, SettledByHand(command.settlement))
    return lambda: loaded.task


def pause_queue(unit: UnitOfWork, command: PauseQueue) -> Callable[[], None]:
    """See PauseQueue. Set-based: a queue holds up to a hundred thousand tasks."""
    if not command.create:
        _check_queue(unit, command.queue)
    unit.flush()
    unit.write(_MAKE_QUEUE, name=command.queue)
    unit.write(_SET_PAUSED, called=command.queue, is_paused=command.paused)
    unit.forget_paused()
    unit.concurrency_keys.update((row[0], None) for row in unit.link.rows(_PAUSED_KEYS, queue=command.queue))
    if command.paused:
        unit.write(_PAUSE_TASKS, of_queue=command.queue)
    else:
        unit.write(_RESUME_TASKS, of_queue=command.queue)
        unit.write(_TOLD, queue=command.queue)
        unit.claimable |= unit.change(_READY_WITHOUT_KEY, of_queue=command.queue) > 0
    return lambda: None


def _check_queue(unit: UnitOfWork, queue: str) -> None:
    """Raise QueueNotFound unless there is such a queue. No task of this transaction can make it: commands of operators
    come first in each."""
    known = sorted({row[0] for row in unit.link.rows(_QUEUE_NAMES)} | {_ALWAYS_THERE})
    if queue not in known:
        more = len(known) - _NAMES_SHOWN
        names = ", ".join(known[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
        raise QueueNotFound(f"There is no queue {queue!r}; there are: {names}.", queue=queue)
