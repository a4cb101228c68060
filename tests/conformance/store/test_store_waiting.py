"""Why a task waits is the condition of the claim that holds: reasons against claims, over random histories.

Before a round of claims every task that it takes is NEXT. After it, when no claim takes anything more, no task is NEXT,
and each reason is a condition that the model too finds to hold.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import event as note
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from longshore.server.model.remarks import Problem, Remark
from longshore.server.model.task import Task
from longshore.server.model.values import LIVE, State, WaitReason
from longshore.server.model.waiting import Crew, Hindrance, View, Waiting, why
from longshore.server.store.commands import Disconnect, NoteRemark, PurgeTasks, ReapSessions
from longshore.server.store.protocol import Conditions, Holdings, InstanceKey, TaskFilter
from longshore.server.store.reads.conditions import conditions
from tests.conformance.conftest import OpenStore
from tests.support.stores.machine.sessions import SESSIONS
from tests.support.stores.machine.storemachine import StoreMachine
from tests.support.stores.store import LEASE, ManualClock, StoreFleet, job, opened_sqlite, plan, push
from tests.support.stores.storemodel import ModelTask


class WaitingMachine(StoreMachine):
    """The histories of the state table, asked now and then why tasks wait."""

    @rule(rooms=st.tuples(*(st.integers(0, 4) for _ in SESSIONS)))
    def reasons_are_the_conditions_of_the_claim(self, rooms: tuple[int, ...]) -> None:
        left = dict(zip(SESSIONS, rooms, strict=True))
        before = self.reasons(left)
        taken = self.claim_all(left)
        for task_id in taken:
            assert before[task_id].reason in (WaitReason.NEXT, WaitReason.SETTLING), self.model.tasks[task_id]
        for task_id, waiting in self.reasons(left).items():
            note(waiting.reason.name)
            self.holds(self.model.tasks[task_id], waiting.reason, left)
            assert waiting.detail

    def claim_all(self, left: dict[str, int]) -> set[str]:
        """Claim for one session after the other until none takes anything more; `left` is the room that is left."""
        taken: set[str] = set()
        again = True
        while again:
            again = False
            for session in SESSIONS:
                mine = {task.id for task in self.model.held_by(session)}
                if not left[session] or not self.is_there(session):
                    continue
                self.claim(session, left[session], not mine)
                new = {task.id for task in self.model.held_by(session)} - mine
                left[session] -= len(new)
                taken |= new
                again = again or bool(new)
        return taken

    def is_there(self, session: str) -> bool:
        known = self.run(self.store.session(session))
        return known is not None and known.connected

    def reasons(self, left: dict[str, int]) -> dict[str, Waiting]:
        tasks = self.run(self.store.list_tasks(TaskFilter(states=LIVE), before=None, limit=1000))
        known = self.run(self.store.conditions({instance_of(task) for task in tasks}))
        view = View(
            now=self.clock.now(),
            crews=[crew(known, session.id, left[session.id]) for session in known.sessions],
            paused=known.paused,
            on_target=known.on_target,
            instance_limit=self.limits.instance,
            target_limit=self.limits.target,
            served=known.served,
            exclusive=known.exclusive,
        )
        found = {task.id: why(task, view, beside=known.on_instance[instance_of(task)]) for task in tasks}
        running = (State.RUNNING, State.COMMITTING, State.CANCELLING)
        assert {task.id for task in tasks if found[task.id] is None} == {
            task.id for task in tasks if task.status.state in running
        }, "every live task that does not run has a reason"
        return {task_id: waiting for task_id, waiting in found.items() if waiting is not None}

    def holds(self, task: ModelTask, reason: WaitReason, left: dict[str, int]) -> None:
        """The reason is a condition that holds, by the model."""
        model = self.model
        alive = [peer for peer in model.peers.values() if peer.alive]
        serving = [peer for peer in alive if peer.serves(task)]
        match reason:
            case WaitReason.NO_WORKER:
                held = bool(task.target) and not any(task.target in peer.targets for peer in alive)
            case WaitReason.NO_HANDLER:
                held = not any(
                    task.kind in peer.kinds and (not task.target or task.target in peer.targets) for peer in alive
                )
            case WaitReason.OLD_WORKERS:
                held = not serving and task.revision_needed > 0
            case WaitReason.EXCLUSIVE:
                held = model.barred(task)
            case WaitReason.QUEUE_PAUSED:
                held = task.queue in model.paused
            case WaitReason.TARGET_LIMIT:
                held = model.target_room(task) <= 0
            case WaitReason.INSTANCE_LIMIT:
                held = model.room_at(task) <= 0
            case WaitReason.NO_CREDIT:
                held = not any(self.could_take(peer.id, left) for peer in serving)
            case WaitReason.NO_IDLE_WORKER:
                held = task.alone and not any(
                    self.could_take(peer.id, left) and not model.held_by(peer.id) for peer in serving
                )
            case WaitReason.SETTLING:
                held = task.state is State.SETTLING
            case WaitReason.AFTER:
                held = task.state is State.BLOCKED and bool(task.unmet)
            case WaitReason.EARLIER_TASK:
                held = task.state is State.BLOCKED and not task.unmet
            case WaitReason.NEXT:
                held = False
            case _:
                held = task.state is State.SCHEDULED
        assert held, (reason.name, task)

    def could_take(self, session: str, left: dict[str, int]) -> bool:
        alone = any(task.alone and task.state is not State.SETTLING for task in self.model.held_by(session))
        return left[session] > 0 and not alone and self.is_there(session)


def instance_of(task: Task) -> InstanceKey:
    return InstanceKey(task.submission.target, task.submission.work.project, task.submission.work.instance)


def crew(known: Conditions, session_id: str, room: int) -> Crew:
    (session,) = (one for one in known.sessions if one.id == session_id)
    held = known.held.get(session_id, Holdings())
    hindered = not session.connected or held.alone
    return Crew(
        targets=frozenset(session.targets),
        kinds=session.kinds,
        room=0 if hindered else room,
        revision=session.revision,
        held=held.held,
        hindrance=Hindrance.AWAY if hindered else Hindrance.NONE,
    )


TestReasonsOnSQLite = WaitingMachine.TestCase
TestReasonsOnSQLite.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


class PostgresWaitingMachine(WaitingMachine):
    make = "postgresql"


TestReasonsOnPostgreSQL = PostgresWaitingMachine.TestCase
TestReasonsOnPostgreSQL.settings = settings(max_examples=5, stateful_step_count=20, deadline=None)


async def test_one_read_of_conditions_covers_a_whole_page(open_store: OpenStore, clock: ManualClock) -> None:
    async with open_store(clock) as store:
        fleet = StoreFleet(store, clock)
        for number in range(3):
            await fleet.session(f"session-{number}")
        tasks = await fleet.submit(*(plan(push("/a", f"web{number}")) for number in range(1000)))
        await fleet.claim("session-1", room=60)
        instances = {instance_of(task) for task in tasks}
        known = await store.conditions(instances)
        assert (sum(known.on_instance.values()), known.on_target) == (60, {"default": 60})
        assert known.held == {"session-1": Holdings(60, frozenset({"default"}))}
        assert (await store.conditions(instances, but={"session-1"})).held == {}


async def test_a_page_of_a_thousand_tasks_costs_three_statements_more_than_one_task(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with opened_sqlite(tmp_path / "database", clock) as store:
        await StoreFleet(store, clock).session()
        link = store._dialect.link()
        counts = []
        for tasks in (1, 1000):
            ran: list[str] = []
            link.driver_connection.set_trace_callback(ran.append)
            conditions(link, {InstanceKey("default", "", f"web{number}") for number in range(tasks)}, ())
            counts.append(len(ran))
        link.close()
    assert counts[0] <= 8
    assert counts[1] == counts[0] + 3


async def test_a_sessions_remark_is_visible_to_every_server_until_the_session_ends(
    open_store: OpenStore, clock: ManualClock
) -> None:
    problem = Problem("TARGET_TIMEOUT", "it hangs", clock.now())
    async with open_store(clock) as store:
        fleet = StoreFleet(store, clock)
        await fleet.session(worker="w1")
        await fleet.run(NoteRemark(session_id="session-1", epoch=7, remark=Remark(1)))
        assert await store.remarks() == {}, "not the newest connection's word"
        await fleet.run(NoteRemark(session_id="session-1", epoch=1, remark=Remark(8, {"default": problem})))
        assert await store.remarks() == {"session-1": Remark(8, {"default": problem})}
        await fleet.run(NoteRemark(session_id="session-1", epoch=1, remark=Remark(4)))
        assert (await store.conditions(())).remarks == {"session-1": Remark(4)}
        await fleet.run(Disconnect(session_id="session-1", epoch=1, goodbye=True))
        assert await store.remarks() == {}


async def test_sessions_and_targets_are_remembered_with_when_and_how(open_store: OpenStore, clock: ManualClock) -> None:
    async with open_store(clock) as store:
        fleet = StoreFleet(store, clock)
        await fleet.session("left", worker="w1", targets={"east": "e", "default": "d"})
        await fleet.session("lost", worker="w2", targets={"east": "e"})
        await fleet.session("dead", worker="w3", targets={})
        begun = clock.now()
        await fleet.run(Disconnect(session_id="left", epoch=1, goodbye=True))
        clock.advance(LEASE / 2)
        await fleet.session("new", worker="w3", targets={}, dead_sessions=("dead",))
        clock.advance(LEASE / 2)
        await fleet.run(ReapSessions())
        ended = await store.ended_sessions(since=begun)
        assert [(one.session.worker, one.end.name, one.at - begun) for one in ended] == [
            ("w2", "LOST", LEASE),
            ("w3", "REPLACED", LEASE / 2),
            ("w1", "LEFT", 0.0),
        ]
        assert [one.session.id for one in await store.ended_sessions(since=clock.now(), also=["left", "new"])] == [
            "lost",
            "left",
        ]
        known = {one.target: (one.worker, one.until - begun, one.named) for one in await store.served()}
        assert known == {"default": ("w1", 0.0, False), "east": ("w2", LEASE, False)}

        await fleet.submit(plan(push(target="east")), plan(push("/b", target="default"), not_before=50.0))
        assert {one.target for one in await store.served() if one.named} == {"default", "east"}
        await fleet.submit(plan(job()))
        clock.advance(3600.0)
        await fleet.run(PurgeTasks(age=60.0))
        assert {one.target for one in await store.served()} == {"default", "east"}, "as long as tasks name them"
        for task in await store.list_tasks(TaskFilter(), before=None, limit=9):
            await fleet.cancel(task)
        await fleet.run(PurgeTasks(age=60.0))
        assert await store.served() == []

        await fleet.session("left", worker="w1")
        assert [one.session.id for one in await store.ended_sessions(since=0.0)] == []
