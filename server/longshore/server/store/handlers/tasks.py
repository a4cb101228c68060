"""Commands of tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from longshore.server.model.errors import (
    DependencyFailed,
    NotFound,
    NotRetryable,
    NotSettling,
    QueueNotFound,
    RevisionMismatch,
    Superseded,
    UploadInProgress,
)
from longshore.server.model.events import CancelAsked, Due, SettledByHand, Verdict
from longshore.server.model.records import changed
from longshore.server.model.task import Payload, Task, Terms
from longshore.server.model.values import State, WaitReason
from longshore.server.store.commands import (
    CancelBatch,
    CancelTask,
    PauseQueue,
    RetryTask,
    SettleTask,
    SubmitTasks,
    TaskPlan,
    WakeParked,
    Woken,
)
from longshore.server.store.handlers.payloads import check_spool, kept_payload, named_payload
from longshore.server.store.handlers.requests import (
    check_room,
    check_same,
    check_same_bytes,
    record_request,
    record_whole_upload,
    tasks_of_request,
    want_room,
)
from longshore.server.store.handlers.servers import check_servers
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Statement, statement
from longshore.server.store.tables.schema import (
    counters,
    is_delivered,
    is_live,
    is_parked,
    is_queued,
    queues,
    tasks,
)
from longshore.server.store.transaction.counters import QUEUE, RESTORED, SPOOL
from longshore.server.store.transaction.loaded_tasks import LoadedTask
from longshore.server.store.transaction.new_tasks import make_tasks, want_plans
from longshore.server.store.transaction.reads import Reads, RequestRecord
from longshore.server.store.transaction.registry import handles
from longshore.server.store.transaction.unit import UnitOfWork

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
_waits_for: Final = tasks.c.wait_reason.in_((sa.bindparam("one"), sa.bindparam("other")))
_PARKED: Final = statement(
    sa.select(tasks.c.seq)
    .where(
        is_parked,
        tasks.c.target == sa.bindparam("target"),
        tasks.c.project == sa.bindparam("project"),
        tasks.c.instance == sa.bindparam("instance"),
        _waits_for,
    )
    .order_by(tasks.c.seq)
    .limit(sa.bindparam("most"))
)
_PARKED_ON_TARGET: Final = statement(
    sa.select(tasks.c.seq)
    .where(is_parked, tasks.c.target == sa.bindparam("target"), _waits_for)
    .order_by(tasks.c.project, tasks.c.instance, tasks.c.seq)
    .limit(sa.bindparam("most"))
)


def _owned(reads: Reads, task_id: str, creator: str | None) -> LoadedTask:
    loaded = reads.tasks.find(task_id)
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


def _want_submission(reads: Reads, command: SubmitTasks) -> None:
    reads.requests.wanted.add((command.principal, command.request_id))
    want_plans(reads, command.plans)
    for plan in command.plans:
        want_room(reads, command.bounds, queue=plan.terms.queue, principal=command.principal)
    if command.payload is not None and command.bounds.spool_bytes is not None:
        reads.counters.wanted.add(SPOOL)


@handles(SubmitTasks, prefetch=_want_submission, keeps_memory=True)
def submit_tasks(unit: UnitOfWork, command: SubmitTasks) -> Callable[[], tuple[Task, ...]]:
    """See SubmitTasks."""
    request = unit.reads.requests.get((command.principal, command.request_id))
    if request is not None:
        check_same(request, command.fingerprint, request_id=command.request_id, upload=command.uploaded)
        if command.uploaded and command.payload is not None:
            _check_same_upload(unit.reads, request, command.payload, request_id=command.request_id)
        return lambda: tasks_of_request(unit.reads, request)
    check_servers(unit.reads, command.plans)
    payload = command.payload
    if payload is None and command.payload_id:
        payload = named_payload(
            unit.reads, command.payload_id, principal=command.principal, any_creator=command.any_creator
        )
    creator = None if command.any_creator else command.principal
    for terms in {id(plan.terms): plan.terms for plan in command.plans}.values():
        unit.followers.check(terms, creator=creator)
    counts: dict[str, int] = {}
    for plan in command.plans:
        counts[plan.terms.queue] = counts.get(plan.terms.queue, 0) + 1
    for queue, count in counts.items():
        check_room(unit.reads, command.bounds, queue=queue, principal=command.principal, tasks=count)
    if command.payload is not None:
        size = command.payload.size
        check_spool(unit, command.bounds, size, size=size, principal=command.principal)
        unit.writes.keep(command.payload, command.content)
        unit.writes.move(SPOOL, command.payload.size)
    made = make_tasks(unit, command.plans, creator=command.principal, request_id=command.request_id, payload=payload)
    record_request(
        unit,
        principal=command.principal,
        request_id=command.request_id,
        request=RequestRecord(
            command.fingerprint,
            payload.id if command.uploaded and payload is not None else None,
            made[0].submission.seq,
            len(made),
        ),
    )
    if command.uploaded and payload is not None:
        record_whole_upload(
            unit,
            payload,
            principal=command.principal,
            request_id=command.request_id,
            fingerprint=command.fingerprint,
            queue=command.plans[0].terms.queue,
        )
    return lambda: tuple(loaded.task for loaded in made)


def _check_same_upload(reads: Reads, request: RequestRecord, payload: Payload, *, request_id: str) -> None:
    """Raise UploadInProgress if the upload of the request is not complete, and RequestIdReused if its bytes are
    others."""
    if request.first_seq is None:
        raise UploadInProgress("Another connection has opened this upload: open it too.")
    check_same_bytes(tasks_of_request(reads, request)[0].submission.payload, payload, request_id=request_id)


def _want_retry(reads: Reads, command: RetryTask) -> None:
    reads.requests.wanted.add((command.principal, command.request_id))
    reads.tasks.want(command.task_id)
    reads.makes_tasks = True


@handles(RetryTask, prefetch=_want_retry, keeps_memory=False)
def retry_task(unit: UnitOfWork, command: RetryTask) -> Callable[[], Task]:
    """See RetryTask."""
    fingerprint = f"retry/1:{command.task_id}"
    # First: the old task may be forgotten before the new one and its request are.
    request = unit.reads.requests.get((command.principal, command.request_id))
    if request is not None:
        check_same(request, fingerprint, request_id=command.request_id, upload=False)
        return lambda: tasks_of_request(unit.reads, request)[0]
    old = _owned(unit.reads, command.task_id, command.creator)
    _check_revision(old, command.expected_revision)
    if not old.status.state.terminal or old.status.state is State.SUCCEEDED:
        raise NotRetryable(
            f"The task is {old.status.state.name}; only FAILED, CANCELLED and EXPIRED tasks can be retried.",
            task_id=old.submission.id,
            state=old.status.state.name,
        )
    payload = None if old.submission.payload is None else kept_payload(unit.reads, old.submission.payload.id)
    if not command.force:
        _check_not_superseded(unit, old)
    submission = old.submission
    terms = _terms_of_retry(unit, old, force=command.force)
    check_room(unit.reads, command.bounds, queue=submission.terms.queue, principal=submission.creator, tasks=1)
    plans = (TaskPlan(submission.work, terms),)
    check_servers(unit.reads, plans)
    made = make_tasks(
        unit,
        plans,
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


def _terms_of_retry(unit: UnitOfWork, old: LoadedTask, *, force: bool) -> Terms:
    """Return the terms of the new task. It waits for those dependencies that live: the others have ended well, or were
    so when the old task first ran. Raises DependencyFailed."""
    terms = old.submission.terms
    if not terms.after:
        return terms
    if not old.status.attempt and not force:
        try:
            unit.followers.check(terms, creator=None)
        except NotFound as gone:
            raise DependencyFailed(
                f"{gone.message} Force the retry if nothing is to come before it.", **gone.metadata
            ) from gone
    return changed(terms, after=unit.followers.live(terms.after))


def _check_not_superseded(unit: UnitOfWork, old: LoadedTask) -> None:
    key = old.submission.work.destination_key
    if key is None:
        return
    # The deliveries of this batch are written first, so that one query is enough.
    unit.writes.flush()
    row = unit.reads.link.row(_DELIVERED_SINCE, key=key, after=old.submission.seq)
    if row is not None:
        did = "delivered to the same destination" if old.submission.destination else "succeeded with the same key"
        raise Superseded(
            f"The later task {row[0]} has {did}: force the retry if that is meant.",
            task_id=old.submission.id,
            later_task_id=row[0],
        )


def _want_task(reads: Reads, command: CancelTask | SettleTask) -> None:
    reads.tasks.want(command.task_id)


@handles(CancelTask, prefetch=_want_task, keeps_memory=True)
def cancel_task(unit: UnitOfWork, command: CancelTask) -> Callable[[], Task]:
    """See CancelTask."""
    loaded = _owned(unit.reads, command.task_id, command.creator)
    _check_revision(loaded, command.expected_revision)
    unit.decisions.apply(loaded, CancelAsked(command.reason, unit.reads.ticks))
    return lambda: loaded.task


@handles(
    CancelBatch,
    prefetch=lambda reads, command: reads.requests.wanted.add((command.principal, command.request_id)),
    keeps_memory=True,
)
def cancel_batch(unit: UnitOfWork, command: CancelBatch) -> Callable[[], None]:
    """See CancelBatch. One request has a thousand tasks at most."""
    request = unit.reads.requests.get((command.principal, command.request_id))
    if request is None or not request.count:
        raise NotFound(
            f"No tasks were made with the request id {command.request_id!r}, or their history is removed.",
            request_id=command.request_id,
        )
    for loaded in unit.reads.tasks.load(request.seqs):
        unit.decisions.apply(loaded, CancelAsked(command.reason, unit.reads.ticks))
    return lambda: None


@handles(SettleTask, prefetch=_want_task, keeps_memory=False)
def settle_task(unit: UnitOfWork, command: SettleTask) -> Callable[[], Task]:
    """See SettleTask."""
    loaded = _owned(unit.reads, command.task_id, None)
    if loaded.status.state is not State.SETTLING:
        raise NotSettling(
            f"The task is {loaded.status.state.name}; only a SETTLING task can be settled by hand.",
            task_id=loaded.submission.id,
            state=loaded.status.state.name,
        )
    unit.decisions.apply(loaded, SettledByHand(command.settlement))
    return lambda: loaded.task


@handles(PauseQueue, prefetch=None, keeps_memory=False)
def pause_queue(unit: UnitOfWork, command: PauseQueue) -> Callable[[], None]:
    """See PauseQueue. Statements change all tasks at once, because a queue holds up to a hundred thousand."""
    reads, writes, decisions = unit.reads, unit.writes, unit.decisions
    if not command.create:
        _check_queue(reads.link, command.queue)
    writes.flush()
    writes.tell(_MAKE_QUEUE, name=command.queue)
    writes.tell(_SET_PAUSED, called=command.queue, is_paused=command.paused)
    reads.forget_paused()
    decisions.concurrency_keys.update((row[0], None) for row in reads.link.rows(_PAUSED_KEYS, queue=command.queue))
    if command.paused:
        writes.tell(_PAUSE_TASKS, of_queue=command.queue)
    else:
        writes.tell(_RESUME_TASKS, of_queue=command.queue)
        writes.tell(_TOLD, queue=command.queue)
        decisions.claimable |= writes.run(_READY_WITHOUT_KEY, of_queue=command.queue) > 0
    return lambda: None


def _check_queue(link: Link, queue: str) -> None:
    """Raise QueueNotFound unless there is such a queue. No task of this transaction can make it: commands of operators
    come first in each."""
    known = sorted({row[0] for row in link.rows(_QUEUE_NAMES)} | {_ALWAYS_THERE})
    if queue not in known:
        more = len(known) - _NAMES_SHOWN
        names = ", ".join(known[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
        raise QueueNotFound(f"There is no queue {queue!r}; there are: {names}.", queue=queue)


@handles(WakeParked, prefetch=None, keeps_memory=False)
def wake_parked(unit: UnitOfWork, command: WakeParked) -> Callable[[], Woken]:
    """See WakeParked."""
    unit.writes.flush()
    absent, stopped = WaitReason.INSTANCE_ABSENT.value, WaitReason.INSTANCE_STOPPED.value
    where = {
        "target": command.target,
        "one": absent,
        "other": stopped if command.running else absent,
        "most": command.limit,
    }
    if command.instance:
        rows = unit.reads.link.rows(_PARKED, project=command.project, instance=command.instance, **where)
    else:
        rows = unit.reads.link.rows(_PARKED_ON_TARGET, **where)
    count = 0
    for loaded in unit.reads.tasks.load(row[0] for row in rows):
        count += unit.decisions.apply(loaded, Due()).verdict is Verdict.CHANGED
    woken = Woken(count, more=count >= command.limit)
    return lambda: woken
