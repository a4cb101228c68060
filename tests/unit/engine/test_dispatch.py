from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from longshore.server.engine import dispatch
from longshore.server.engine.dispatch import Dispatcher
from longshore.server.engine.sessions.connection import Holding, WorkerConnection
from longshore.server.engine.sessions.messages import AttemptRef
from longshore.server.engine.sessions.progress import ProgressBoard
from longshore.server.engine.sessions.sessions import Sessions
from longshore.server.model.clock import SystemClock
from longshore.server.model.errors import StoreUnavailable
from longshore.server.model.events import Reported
from longshore.server.model.task import Grant, Session, Task
from longshore.server.model.values import DeliveryMethod, Outcome, State
from longshore.server.spool.protocol import Spool
from longshore.server.store.commands import Claims, ClaimTasks, Command, Offer
from longshore.server.store.protocol import Changes, Store, TaskChange, Wants
from tests.support.stores.tasks import job
from tests.support.waiting import running

NOTHING = Claims(())


class ScriptedStore:
    """Answers claims with what the test has put down, and tells of commits as a store does: before the answer."""

    def __init__(self) -> None:
        self.script: list[Callable[[ClaimTasks], Claims]] = []
        self.asked: list[tuple[Offer, ...]] = []
        self.listeners: list[Callable[[Changes], None]] = []
        self.held: dict[str, list[Task]] = {}
        self.calm = asyncio.Event()
        self.begun = 0
        """Claims that stood in the line."""

    def subscribe(self, listener: Callable[[Changes], None], *, wants: Wants | None = None) -> Callable[[], None]:
        del wants
        self.listeners.append(listener)
        return lambda: None

    def commit(self, *tasks: Task, claimable: bool = False, holder: tuple[str, int] | None = None) -> None:
        changes = Changes(tuple(TaskChange(task, holder) for task in tasks), claimable)
        for listener in self.listeners:
            listener(changes)

    async def run(self, command: Command[Any]) -> Any:
        assert isinstance(command, ClaimTasks)
        self.asked.append(command.offers)
        claims = self.script.pop(0)(command) if self.script else NOTHING
        self.commit(*(task for _, task in claims.taken))
        if not self.script:
            self.calm.set()
        return claims

    def begin(self, command: Command[Any]) -> asyncio.Future[Any]:
        self.begun += 1
        return asyncio.ensure_future(self.run(command))

    async def session(self, session_id: str) -> Session | None:
        held = tuple((task.id, task.status.attempt) for task in self.held.get(session_id, ()))
        return session_of(session_id, held=held)

    async def task(self, task_id: str) -> Task | None:
        return next((task for tasks in self.held.values() for task in tasks if task.id == task_id), None)


def session_of(session_id: str, *, held: tuple[tuple[str, int], ...] = (), target: str = "default") -> Session:
    """`target` may be several, with commas."""
    return Session(
        session_id,
        session_id,
        "local",
        1,
        dict.fromkeys(target.split(","), ""),
        {"job": False},
        "",
        0.0,
        0.0,
        held=held,
    )


class Bench:
    """A dispatcher over a scripted store, and connections without streams."""

    def __init__(self) -> None:
        self.store = ScriptedStore()
        store = cast("Store", self.store)
        self.sessions = Sessions(
            store=store, spool=cast("Spool", None), clock=SystemClock(), progress=ProgressBoard(), share_spool=False
        )
        self.dispatcher = Dispatcher(store=store, sessions=self.sessions)

    def connect(self, session_id: str, *, credits: int, holds: int = 0, target: str = "default") -> WorkerConnection:
        connection = WorkerConnection(
            session=session_of(session_id, target=target),
            local=True,
            store=cast("Store", self.store),
            ticks=0.0,
            on_room=self.sessions.fleet.room,
        )
        connection.credits = credits
        for number in range(holds):
            connection.hold(AttemptRef(f"{session_id}-held-{number}", 1), Holding(None, False, False))
        self.sessions.fleet.add(connection)
        return connection

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with running(self.dispatcher.run()), asyncio.timeout(5):
            yield

    async def offered(self) -> list[dict[str, int]]:
        """The rooms that were offered, claim by claim, when nothing more happens."""
        await self.store.calm.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        return [{offer.session_id: offer.room for offer in offers} for offers in self.store.asked]


def take(session_id: str, *names: str, **status: Any) -> Callable[[ClaimTasks], Claims]:
    fields = {"session_id": session_id, **status}
    return lambda _command: Claims(tuple((session_id, job(name, **fields)) for name in names))


async def test_offers_that_were_filled_are_repeated_and_dry_ones_are_not() -> None:
    bench = Bench()
    bench.connect("a", credits=2)
    bench.connect("b", credits=2)
    bench.store.script = [take("a", "1", "2")]
    async with bench.running():
        assert await bench.offered() == [{"a": 2, "b": 2}]
        bench.store.calm.clear()
        bench.store.commit(claimable=True)
        assert (await bench.offered())[1:] == [{"b": 2}]


async def test_room_is_the_credits_minus_held_attempts() -> None:
    bench = Bench()
    connection = bench.connect("a", credits=4, holds=3)
    full = bench.connect("b", credits=3, holds=3)
    async with bench.running():
        assert await bench.offered() == [{"a": 1}]
        assert bench.store.asked[0][0].idle is False
        full.drop(AttemptRef("b-held-0", 1))
        bench.store.calm.clear()
        assert (await bench.offered())[1:] == [{"b": 1}]
        connection.drop(AttemptRef("a-held-0", 1))
        # It was offered and not filled, and nothing has become claimable since.
        assert len(await bench.offered()) == 2


async def test_a_reported_end_frees_room_before_its_commit() -> None:
    bench = Bench()
    connection = bench.connect("a", credits=2, holds=2)
    async with bench.running():
        ref = AttemptRef("a-held-0", 1)
        connection.report(ref, Reported("a", 1, Outcome.OK))
        connection.report(ref, Reported("a", 1, Outcome.OK))
        assert connection.room == 1
        assert await bench.offered() == [{"a": 1}]
        connection.drop(ref)
        assert connection.room == 1
        connection.report(ref, Reported("a", 1, Outcome.OK))
        assert connection.room == 1


async def test_room_after_a_solo_attempt() -> None:
    bench = Bench()
    connection = bench.connect("a", credits=2)
    ref = AttemptRef("solo", 1)
    connection.hold(ref, Holding(None, False, True))
    assert connection.room == 0
    connection.hold(ref, Holding(None, False, True))
    connection.report(ref, Reported("a", 1, Outcome.OK))
    assert connection.room == 2
    connection.hold(ref, Holding(None, False, True))
    connection.drop(ref)
    assert connection.room == 2


async def test_sessions_that_leave_drain_or_are_gone_get_no_work() -> None:
    bench = Bench()
    bench.connect("a", credits=1).draining = True
    bench.connect("b", credits=1).leaving = True
    bench.connect("c", credits=1).end(None)
    bench.connect("d", credits=0)
    bench.connect("e", credits=1)
    async with bench.running():
        assert await bench.offered() == [{"e": 1}]


async def test_the_first_does_not_take_all() -> None:
    bench = Bench()
    bench.connect("a", credits=1000)
    bench.connect("b", credits=1000)
    async with bench.running():
        rooms = await bench.offered()
    assert rooms[0] == {"a": dispatch.SHARE, "b": dispatch.SHARE}
    orders = set()
    for _ in range(4):
        bench.dispatcher._news += 1
        orders.add(tuple(offer.session_id for offer in bench.dispatcher._offers().values()))
    assert orders == {("a", "b"), ("b", "a")}


async def test_a_session_that_runs_alone_gets_nothing_else() -> None:
    bench = Bench()
    connection = bench.connect("a", credits=8)
    bench.store.script = [take("a", "solo", alone=True)]
    async with bench.running():
        assert await bench.offered() == [{"a": 8}]
        assert bench.store.asked[0][0].idle
        bench.store.calm.clear()
        bench.store.commit(claimable=True)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(bench.store.asked) == 1
        connection.drop(AttemptRef("solo", 1))
        # The session is not held to be dry because it was refused the others.
        assert (await bench.offered())[1:] == [{"a": 8}]


async def test_a_session_that_settles_a_solo_task_was_refused_nothing() -> None:
    bench = Bench()
    connection = bench.connect("a", credits=8)
    settling = {"state": State.SETTLING, "alone": True, "grant": Grant(1, "b", "/t", DeliveryMethod.SFTP, 0.0)}
    bench.store.script = [take("a", "solo", **settling)]
    async with bench.running():
        assert await bench.offered() == [{"a": 8}], "it is dry: nothing was left"
        assert connection.room == 7
        assert not connection.outbox.take().assignments[0].alone


async def test_one_session_is_left_to_empty_for_a_task_that_must_run_alone() -> None:
    bench = Bench()
    bench.connect("a", credits=8, holds=3)
    least = bench.connect("b", credits=8, holds=1)
    bench.connect("c", credits=8, holds=2)

    def solo(command: ClaimTasks) -> Claims:
        return Claims((), tuple(offer.session_id for offer in command.offers))

    bench.store.script = [solo]
    async with bench.running():
        assert await bench.offered() == [{"a": 5, "b": 7, "c": 6}]
        bench.store.calm.clear()
        bench.store.script = [solo]
        bench.store.commit(claimable=True)
        # Another one is not emptied meanwhile.
        assert (await bench.offered())[1:] == [{"a": 5, "c": 6}]
        bench.store.calm.clear()
        least.drop(AttemptRef("b-held-0", 1))
        offers = (await bench.offered())[2:]
        assert offers == [{"b": 8}]
        assert bench.store.asked[2][0].idle


async def test_another_target_is_emptied_beside() -> None:
    bench = Bench()
    bench.connect("a", credits=8, holds=1, target="one")
    bench.connect("b", credits=8, holds=1, target="two")

    def solo(command: ClaimTasks) -> Claims:
        return Claims((), tuple(offer.session_id for offer in command.offers))

    bench.store.script = [solo]
    async with bench.running():
        await bench.offered()
        bench.store.calm.clear()
        bench.store.script = [solo]
        bench.store.commit(claimable=True)
        await bench.offered()
        bench.store.calm.clear()
        bench.store.commit(claimable=True)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(bench.store.asked) == 2


async def test_a_claim_whose_answer_was_lost_is_looked_up() -> None:
    bench = Bench()
    connection = bench.connect("a", credits=3, holds=1)
    lost = job("lost", session_id="a")
    mine = job("a-held-0", session_id="a")
    bench.store.held["a"] = [lost, mine]

    def fail(_command: ClaimTasks) -> Claims:
        raise StoreUnavailable("the connection was lost in COMMIT")

    bench.store.script = [fail, lambda _: NOTHING]
    async with bench.running():
        rooms = await bench.offered()
    assert rooms == [{"a": 2}, {"a": 1}]
    assert AttemptRef("lost", 1) in connection.held
    # An attempt that it held before is not assigned once more.
    assert [one.ref.task_id for one in connection.outbox.take().assignments] == ["lost"]


async def test_news_during_a_claim_lead_to_the_next_one() -> None:
    bench = Bench()
    bench.connect("a", credits=3)

    def meanwhile(_command: ClaimTasks) -> Claims:
        bench.store.commit(claimable=True)
        return NOTHING

    bench.store.script = [meanwhile]
    async with bench.running():
        assert await bench.offered() == [{"a": 3}, {"a": 3}]


async def test_the_claim_of_an_expected_task_stands_in_line_with_its_command() -> None:
    bench = Bench()
    bench.connect("a", credits=3)
    async with bench.running():
        await bench.offered()
        before = bench.store.begun
        bench.dispatcher.expect_tasks()
        bench.dispatcher.expect_tasks()
        # Nothing has run meanwhile: the writer cannot take the command without the claim.
        assert bench.store.begun == before + 1
        bench.store.calm.clear()
        # The second one may have come too late for the claim, which is made again.
        assert (await bench.offered())[before:] == [{"a": 3}, {"a": 3}]


async def test_a_session_that_holds_nothing_any_more_is_offered_to_the_task_that_waits_to_run_alone() -> None:
    bench = Bench()
    bench.connect("a", credits=8, holds=1)
    other = bench.connect("b", credits=8, holds=2)

    def solo(command: ClaimTasks) -> Claims:
        return Claims((), tuple(offer.session_id for offer in command.offers))

    bench.store.script = [solo]
    async with bench.running():
        await bench.offered()
        bench.store.calm.clear()
        other.drop(AttemptRef("b-held-0", 1))
        other.drop(AttemptRef("b-held-1", 1))
        # The other one is being emptied, and its attempts may take long.
        assert (await bench.offered())[1:] == [{"b": 8}]
        assert bench.store.asked[1][0].idle


async def test_the_safety_poll_repeats_dry_offers() -> None:
    bench = Bench()
    bench.dispatcher._poll = 0.01
    bench.connect("a", credits=3)
    async with bench.running():
        while len(bench.store.asked) < 3:
            bench.store.calm.clear()
            await bench.store.calm.wait()


def hold(connection: WorkerConnection, target: str, *numbers: int) -> None:
    for number in numbers:
        connection.hold(AttemptRef(f"{target}-{number}", 1), Holding(None, False, False, target))


async def test_room_is_kept_for_targets_of_which_nothing_is_held() -> None:
    bench = Bench()
    connection = bench.connect("s", credits=8, target="a,b,c")
    async with bench.running():
        await bench.offered()
        assert bench.store.asked[0][0].kept_for == {"a", "b", "c"}
    hold(connection, "a", 1, 2)
    hold(connection, "b", 1)
    assert connection.kept_for == {"c"}
    connection.report(AttemptRef("a-1", 1), Reported("s", 1, Outcome.OK))
    connection.drop(AttemptRef("b-1", 1))
    assert connection.kept_for == {"b", "c"}
    connection.drop(AttemptRef("a-1", 1))
    connection.drop(AttemptRef("a-2", 1))
    assert connection.kept_for == {"a", "b", "c"}


async def test_a_session_with_a_full_share_of_a_target_is_offered_again_when_an_attempt_ends() -> None:
    """And not only when the end is committed; for other targets it stays dry."""
    bench = Bench()
    connection = bench.connect("s", credits=4, target="a,b")
    hold(connection, "a", 1, 2, 3)
    async with bench.running():
        assert await bench.offered() == [{"s": 1}]
        assert bench.store.asked[0][0].kept_for == {"b"}
        bench.store.calm.clear()
        connection.report(AttemptRef("a-1", 1), Reported("s", 1, Outcome.OK))
        assert (await bench.offered())[1:] == [{"s": 2}]
        # It could have taken one of either: nothing is left of both.
        connection.report(AttemptRef("a-2", 1), Reported("s", 1, Outcome.OK))
        assert len(await bench.offered()) == 2


async def test_credits_that_come_open_a_share_that_was_full() -> None:
    bench = Bench()
    connection = bench.connect("s", credits=2, target="a,b")
    hold(connection, "a", 1)
    async with bench.running():
        assert await bench.offered() == [{"s": 1}]
        bench.store.calm.clear()
        connection.credits = 3
        bench.sessions.fleet.room(connection)
        assert (await bench.offered())[1:] == [{"s": 2}]


async def test_a_crowd_of_targets_is_offered_more_than_is_kept_and_in_the_end_nothing() -> None:
    names = ",".join(f"t{number:03}" for number in range(100))
    bench = Bench()
    first = bench.connect("s", credits=200, target=names)
    bench.connect("t", credits=200, target=names)
    hold(first, "t000", 1)
    async with bench.running():
        assert await bench.offered() == [{"s": 100, "t": 101}], "once: nothing was there"
