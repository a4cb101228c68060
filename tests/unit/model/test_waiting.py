"""Why a task waits: each condition, the order in which they are told, and the sentences."""

from __future__ import annotations

from typing import Any

import pytest

from longshore.program.durations import format_span
from longshore.server.model.remarks import Served
from longshore.server.model.task import FilePush, Job, Status, Task
from longshore.server.model.values import State, WaitReason
from longshore.server.model.waiting import Crew, Hindrance, View, why
from tests.support.stores.store import job, push
from tests.support.stores.tasks import submission

NOW = 1000.0


def task(work: FilePush | Job | None = None, **status: Any) -> Task:
    asked = submission(work or push("/etc/motd", "web"), expires_at=NOW + 1000.0, created_at=NOW)
    return Task(asked, Status(**({"revision": 1, "state": State.QUEUED, "head": True} | status)))


def crew(**more: Any) -> Crew:
    values: dict[str, Any] = {"targets": frozenset({"default"}), "kinds": {"file_push": True}, "room": 1}
    return Crew(**(values | more))


def said(about: Task, *crews: Crew, beside: int | None = 0, **more: Any) -> tuple[str, str]:
    values: dict[str, Any] = {
        "now": NOW,
        "crews": crews,
        "paused": frozenset(),
        "on_target": {},
        "instance_limit": 4,
        "target_limit": 64,
        "served": {},
    }
    found = why(about, View(**(values | more)), beside=beside)
    assert found is not None
    return found.reason.name, found.detail


LOST = "its worker was lost at the last step: another one finds out whether that happened"
SCP = push("/motd", "etc", target="web")
IN_SHOP = job("resize", target="default", instance="web", project="shop")


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (said(task(SCP), crew()), ("NO_WORKER", "no worker serves target `web`; did you mean web/etc/motd?")),
        (
            said(task(push("/etc/x", "web", target="nowhere")), crew()),
            ("NO_WORKER", "no worker serves target `nowhere`"),
        ),
        (
            said(task(SCP), crew(), served={"web": Served("web", "s", "w1", NOW - 125.0)}),
            ("NO_WORKER", "no worker serves target `web`: the last one ended 2m5s ago"),
        ),
        (said(task()), ("NO_WORKER", "no worker serves target `default`: none is connected")),
        (said(task(job("resize")), crew()), ("NO_HANDLER", "no worker runs `resize`")),
        (
            said(task(job("resize", target="default")), crew(), crew(targets=frozenset(), kinds={"resize": False})),
            ("NO_HANDLER", "no worker runs `resize` on target `default`"),
        ),
        (said(task(), crew(), paused=frozenset({"default"})), ("QUEUE_PAUSED", "queue default is paused")),
        (
            said(task(), crew(), on_target={"default": 64}),
            ("TARGET_LIMIT", "64 tasks run on target `default`, and no more may at once"),
        ),
        (
            said(task(), crew(), beside=4),
            ("INSTANCE_LIMIT", "4 tasks run on instance web, and no more may at once"),
        ),
        (said(task(), crew(room=0, held=8)), ("NO_CREDIT", "the worker that serves it is busy with 8 tasks")),
        (
            said(task(), crew(room=0, held=1), crew(room=0)),
            ("NO_CREDIT", "the 2 workers that serve it are busy with 1 task"),
        ),
        (
            said(task(), crew(room=0, hindrance=Hindrance.AWAY)),
            ("NO_CREDIT", "the worker that serves it has lost the connection to the servers"),
        ),
        (
            said(task(), crew(room=0, hindrance=Hindrance.LEAVING)),
            ("NO_CREDIT", "the worker that serves it is leaving"),
        ),
        (said(task(), crew()), ("NEXT", "it is next")),
        (
            said(task(IN_SHOP), crew(kinds={"resize": False}, revision=1)),
            ("OLD_WORKERS", "the workers that serve it are older than what it asks of them: upgrade one"),
        ),
        (said(task(IN_SHOP), crew(kinds={"resize": False}, revision=2), crew()), ("NEXT", "it is next")),
        (
            said(task(job("resize", key="a"), state=State.BLOCKED, head=False), crew()),
            ("EARLIER_TASK", "an earlier job with the same key comes first"),
        ),
        (said(task(), crew(), beside=None), ("NEXT", "it is next")),
        (
            said(task(state=State.BLOCKED, wait_reason=WaitReason.EARLIER_TASK, head=False), crew(targets=frozenset())),
            (
                "EARLIER_TASK",
                "an earlier task for the same destination comes first; no worker serves target `default`",
            ),
        ),
        (
            said(task(state=State.BLOCKED, wait_reason=WaitReason.AFTER, head=False, unmet=1), crew()),
            ("AFTER", "it comes after a task that is not finished"),
        ),
        (
            said(task(state=State.BLOCKED, wait_reason=WaitReason.AFTER, head=False, unmet=2), crew()),
            ("AFTER", "it comes after 2 tasks that are not finished"),
        ),
        (
            said(task(state=State.SCHEDULED, wait_reason=WaitReason.NOT_BEFORE, due_at=NOW + 90.0), crew()),
            ("NOT_BEFORE", "its time has not come, in 1m30s"),
        ),
        (
            said(task(state=State.SCHEDULED, wait_reason=WaitReason.BACK_OFF, due_at=NOW - 1.0), crew()),
            ("BACK_OFF", "it is tried again, in 0s"),
        ),
        (
            said(task(state=State.SCHEDULED, wait_reason=WaitReason.INSTANCE_STOPPED), crew()),
            ("INSTANCE_STOPPED", "instance web does not run: the task goes on as soon as it does"),
        ),
        (
            said(task(state=State.SCHEDULED, wait_reason=WaitReason.INSTANCE_ABSENT), crew()),
            ("INSTANCE_ABSENT", "there is no instance web: the task goes on as soon as there is"),
        ),
        (
            said(task(state=State.SETTLING, wait_reason=WaitReason.SETTLING, due_at=NOW), crew(targets=frozenset())),
            (
                "SETTLING",
                f"{LOST}; no worker serves target `default`",
            ),
        ),
        (
            said(task(state=State.SETTLING, session_id="s", worker="w2", wait_reason=WaitReason.SETTLING), crew()),
            ("SETTLING", "w2 finds out whether its lost attempt put the file in place"),
        ),
    ],
)
def test_each_reason_has_its_sentence(found: tuple[str, str], wanted: tuple[str, str]) -> None:
    assert found == wanted


def test_a_task_that_is_to_run_alone_waits_for_an_idle_worker() -> None:
    assert said(task(alone=True), crew(room=3, held=1))[0] == "NO_IDLE_WORKER"
    assert said(task(alone=True), crew(room=3, held=1), crew(room=1))[0] == "NEXT"


def test_room_that_is_kept_for_another_target_is_none() -> None:
    both = crew(targets=frozenset({"default", "east"}), room=1, held=1, kept_for=frozenset({"east"}))
    assert said(task(), both)[0] == "NO_CREDIT"
    assert said(task(push(target="east")), both)[0] == "NEXT"


@pytest.mark.parametrize("state", [State.RUNNING, State.COMMITTING, State.CANCELLING, State.SUCCEEDED, State.FAILED])
def test_running_and_done_tasks_wait_for_nothing(state: State) -> None:
    view = View(now=NOW, crews=(), paused=frozenset(), on_target={}, instance_limit=1, target_limit=1, served={})
    assert why(task(state=state), view, beside=0) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0s"), (59.6, "1m"), (61, "1m1s"), (3600, "1h"), (3665, "1h1m"), (90061, "1d1h")]
)
def test_spans_have_their_two_largest_units(seconds: float, text: str) -> None:
    assert format_span(seconds) == text
