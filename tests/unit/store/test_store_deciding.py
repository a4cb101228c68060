"""A decision that is shared is the one that each task would have got by itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from longshore.server.model.events import Circumstances, Claimed, Event, Policy, Reported
from longshore.server.model.states import decide
from longshore.server.model.task import AnyValue, Destination, FilePush, Grant, Job, Status, Task, Terms
from longshore.server.model.values import DeliveryMethod, Outcome, State
from longshore.server.store.transaction.decider import Decider
from longshore.server.store.transaction.loaded_tasks import LoadedTask
from tests.support.stores.tasks import submission

NOW, POLICY = 1_800_000_000.0, Policy()
GRANT = Grant(1, "s", "/a/.tmp", DeliveryMethod.SFTP, NOW)
STATUSES = [
    Status(revision=3, state=state, head=True, attempt=1, session_id=session, grant=grant)
    for state, session, grant in product(State, ("", "s"), (None, GRANT))
]
JOB, PUSH = Job("report", None), FilePush(Destination("default", "", "web1", "/a"))
WORKS: tuple[Job | FilePush, ...] = (JOB, PUSH)
SUBMISSIONS = [
    submission(work, terms=Terms(run_timeout=patience, attempt_limit=2), expires_at=NOW + expiry, created_at=NOW)
    for work, patience, expiry in zip((*WORKS, *WORKS), (10.0, 10.0, 20.0, 20.0), (1.0, 1.0, 1.0, -1.0), strict=True)
]
EVENTS: list[Event] = [
    Claimed("s", "worker", 5.0),
    *(
        Reported(session, attempt, outcome, result=result, method=method, left_temps=left)
        for session, attempt, outcome, result, method, left in product(
            ("s",),
            (1, 2),
            (Outcome.OK, Outcome.TRANSIENT, Outcome.UNKNOWN),
            (None, AnyValue("t", b"x")),
            (DeliveryMethod.UNKNOWN, DeliveryMethod.DIRECTORY),
            (True, False),
        )
    ),
]


def test_a_shared_decision_equals_each_tasks_own() -> None:
    decider = Decider(now=NOW, policy=POLICY, draw=lambda: 0.25)
    world = Circumstances(NOW, 0.25, POLICY)
    for event, status, submitted in product(EVENTS, STATUSES, SUBMISSIONS):
        task = Task(submitted, status)
        for _ in range(2):
            assert decider.decide(LoadedTask(task, stored=True), event) == decide(task, event, world), (event, task)


def test_tasks_that_take_the_same_step_share_one_decision() -> None:
    decider = Decider(now=NOW, policy=POLICY, draw=lambda: 0.25)
    queued = Status(revision=1, state=State.QUEUED, head=True)
    event = Claimed("s", "worker", 5.0)
    one, other = (LoadedTask(Task(replace(SUBMISSIONS[0], seq=seq), queued), stored=False) for seq in (1, 2))
    assert decider.decide(one, event).status is decider.decide(other, event).status
    patient = replace(SUBMISSIONS[0], terms=Terms(run_timeout=99.0))
    later = LoadedTask(Task(patient, queued), stored=False)
    assert decider.decide(later, event).status.deadline_ticks == 104.0
