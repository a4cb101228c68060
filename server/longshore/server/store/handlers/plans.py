"""The command of plans: several tasks that are accepted together, and may come after each other (P17)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from longshore.server.model.records import changed
from longshore.server.model.task import Payload, Task
from longshore.server.store.commands import StepPlan, SubmitPlan, TaskPlan
from longshore.server.store.handlers.payloads import check_spool, named_payload
from longshore.server.store.handlers.requests import (
    check_room,
    check_same,
    record_request,
    tasks_of_request,
    want_room,
)
from longshore.server.store.handlers.servers import check_servers, require_new_servers
from longshore.server.store.transaction.counters import SPOOL
from longshore.server.store.transaction.loaded_tasks import LoadedTask
from longshore.server.store.transaction.new_tasks import make_tasks, want_plans
from longshore.server.store.transaction.reads import Reads, RequestRecord
from longshore.server.store.transaction.registry import handles
from longshore.server.store.transaction.unit import UnitOfWork


def _want(reads: Reads, command: SubmitPlan) -> None:
    reads.requests.wanted.add((command.principal, command.request_id))
    want_plans(reads, [step.plan for step in command.steps])
    for queue in {step.plan.terms.queue for step in command.steps}:
        want_room(reads, command.bounds, queue=queue, principal=command.principal)
    if command.bounds.spool_bytes is not None:
        reads.counters.wanted.add(SPOOL)


@handles(SubmitPlan, prefetch=_want, keeps_memory=True)
def submit_plan(unit: UnitOfWork, command: SubmitPlan) -> Callable[[], tuple[Task, ...]]:
    """See SubmitPlan. Everything is checked before anything is made."""
    request = unit.reads.requests.get((command.principal, command.request_id))
    if request is not None:
        check_same(request, command.fingerprint, request_id=command.request_id, upload=False)
        return lambda: () if command.dry_run else tasks_of_request(unit.reads, request)
    payloads = _check(unit, command)
    if command.dry_run:
        return lambda: ()
    for step in command.steps:
        if step.payload is not None:
            unit.writes.keep(step.payload, step.content)
            unit.writes.move(SPOOL, step.payload.size)
    made: list[LoadedTask] = []
    for step in command.steps:
        made += make_tasks(
            unit,
            (_plan_of(step, made),),
            creator=command.principal,
            request_id=command.request_id,
            payload=step.payload or payloads.get(step.payload_id),
        )
    record_request(
        unit,
        principal=command.principal,
        request_id=command.request_id,
        request=RequestRecord(command.fingerprint, None, made[0].submission.seq, len(made)),
    )
    return lambda: tuple(loaded.task for loaded in made)


def _check(unit: UnitOfWork, command: SubmitPlan) -> dict[str, Payload]:
    """Check the whole plan, and return the payloads that it names, by their ids."""
    reads, bounds, principal = unit.reads, command.bounds, command.principal
    plans = [step.plan for step in command.steps]
    check_servers(reads, plans)
    if any(step.after_steps for step in command.steps):
        require_new_servers(reads)
    creator = None if command.any_creator else principal
    for plan in plans:
        unit.followers.check(plan.terms, creator=creator)
    named = {step.payload_id for step in command.steps if step.payload_id}
    payloads = {
        payload_id: named_payload(reads, payload_id, principal=principal, any_creator=command.any_creator)
        for payload_id in sorted(named)
    }
    queues = Counter([plan.terms.queue for plan in plans])
    for queue, count in queues.items():
        check_room(reads, bounds, queue=queue, principal=principal, tasks=count)
    if len(queues) > 1:
        # A caller's share is one of all queues.
        unbounded = replace(bounds, queue_tasks=bounds.queue_tasks + len(plans))
        check_room(reads, unbounded, queue=min(queues), principal=principal, tasks=len(plans))
    size = sum(step.payload.size for step in command.steps if step.payload is not None)
    check_spool(unit, bounds, size, size=size, principal=principal)
    return payloads


def _plan_of(step: StepPlan, made: list[LoadedTask]) -> TaskPlan:
    """Return the plan of a step with the ids of the tasks that it comes after."""
    if not step.after_steps:
        return step.plan
    terms = step.plan.terms
    ids = (*terms.after, *(made[index].submission.id for index in step.after_steps))
    return changed(step.plan, terms=changed(terms, after=tuple(dict.fromkeys(ids))))
