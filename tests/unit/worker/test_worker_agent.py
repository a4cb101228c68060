"""The agent's clock: heartbeats, leases, time-outs and graces, without waiting for any of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.agent.outbox import Outbox
from longshore.worker.agent.session import Agent, AgentLimits
from longshore.worker.attempts import outcomes
from longshore.worker.attempts.attempt import Attempt
from longshore.worker.attempts.handlers import Handler, Registry
from longshore.worker.attempts.mailbox import Mailbox
from longshore.worker.errors import TransientError
from tests.support.servers.fakeserver import job, seconds


@dataclass
class Bench:
    """An agent with a clock that stands still until it is told, and handlers that end when they are told."""

    limits: AgentLimits = field(default_factory=lambda: AgentLimits(concurrency=4, max_wedged=1, stop_grace=10.0))
    now: float = 1000.0
    boot: float = 5000.0
    started: list[Attempt] = field(default_factory=list)

    def __post_init__(self) -> None:
        registry = Registry()
        registry.add("job", lambda _: None)
        self.outbox = Outbox()
        self.agent = Agent(
            registry=registry,
            limits=self.limits,
            mailbox=Mailbox(asyncio.get_running_loop()),
            outbox=self.outbox,
            housekeeper=self,
            clock=lambda: self.now,
            lease_clock=lambda: self.boot,
        )
        self.agent.attach(self)

    # What the agent wants of its surroundings.

    def start(self, attempt: Attempt, handler: Handler) -> None:
        assert handler.kind == "job"
        self.started.append(attempt)

    def park(self, parked: ws.ParkedInstances) -> None:
        raise AssertionError

    def pay(self, debt: ws.Debt) -> None:
        raise AssertionError

    def forget(self) -> None:
        pass

    def recheck(self, target: str) -> None:
        raise AssertionError

    # What a test does.

    def welcome(self, lease: float = 8.0) -> None:
        self.agent.welcomed(ws.Welcome(epoch=1, lease=seconds(lease)))

    def assign(self, name: str, **more: object) -> Attempt:
        self.agent.received(ws.WorkResponse(assignments=[ws.Assignment(task=job(name, "job", **more), attempt=1)]))  # type: ignore[arg-type]
        return self.started[-1]

    def tick(self, after: float = 0.0) -> None:
        self.now += after
        self.boot += after
        self.agent.tick()

    async def said(self) -> ws.WorkRequest:
        async with asyncio.timeout(1):
            return (await self.outbox.take())[0]

    async def end(self, attempt: Attempt, report: ws.Report) -> None:
        """A handler's end passes through the mailbox, which the loop empties in its next round."""
        self.agent.ended(attempt, report)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_a_heartbeat_is_due_at_a_quarter_of_the_lease(bench: Bench) -> None:
    bench.welcome(lease=8.0)
    assert (await bench.said()).heartbeat.sequence == 1
    bench.assign("T1")
    bench.tick(1.9)
    bench.tick(0.2)
    assert (await bench.said()).heartbeat.sequence == 2
    bench.tick(1.9)
    bench.assign("T2")
    bench.tick(0.2)
    assert (await bench.said()).heartbeat.sequence == 3


async def test_the_lease_counts_from_the_sending_of_the_acknowledged_heartbeat(bench: Bench) -> None:
    bench.welcome(lease=8.0)
    bench.tick(7.0)  # A heartbeat is sent at 7 s, and acknowledged a long time later.
    bench.tick(0.9)
    bench.agent.received(ws.WorkResponse(heartbeat_ack=2))
    bench.tick(7.0)
    assert bench.agent.lease_confirmed
    bench.tick(0.2)
    assert not bench.agent.lease_confirmed


async def test_a_machine_that_slept_has_lost_its_lease_though_the_clock_stood_still(bench: Bench) -> None:
    bench.welcome(lease=8.0)
    bench.boot += 3600
    bench.tick()
    assert not bench.agent.lease_confirmed


async def test_time_outs_count_from_the_start_and_from_progress(bench: Bench) -> None:
    bench.welcome()
    run = bench.assign("T1", run_timeout=30.0)
    stall = bench.assign("T2", stall_timeout=10.0)
    bench.tick(9.0)
    stall.advance(1, 2)
    bench.tick(9.9)
    assert stall.stop is None
    bench.tick(0.1)
    assert stall.stop is not None
    assert stall.stop.reason == "STALLED"
    bench.tick(10.9)
    assert run.stop is None
    bench.tick(0.1)
    assert run.stop is not None
    assert run.stop.reason == "TIMED_OUT"


async def test_a_hanging_attempt_keeps_its_credit_until_it_ends(bench: Bench) -> None:
    bench.welcome()
    attempt = bench.assign("T1", run_timeout=1.0)
    await bench.said()
    bench.tick(1.0)
    bench.tick(9.9)
    assert bench.agent.credits() == 4
    bench.tick(0.1)
    said = await bench.said()
    assert said.credits == 3
    assert [report.outcome for report in said.reports] == [ws.OUTCOME_TRANSIENT]
    assert bench.agent.statistics()["wedged"] == 1
    late = outcomes.raised(attempt, TransientError("LATE", "nobody wants this any more"))
    await bench.end(attempt, late)
    said = await bench.said()
    assert (said.credits, len(said.reports)) == (4, 0)


async def test_a_worker_leaves_with_one_more_wedged_handler_than_allowed(bench: Bench) -> None:
    bench.welcome()
    for name in ("T1", "T2"):
        bench.assign(name, run_timeout=1.0)
    bench.tick(1.0)
    bench.tick(10.0)
    assert bench.agent.worn_out
    assert bench.agent.leaving.is_set()
    assert bench.agent.credits() == 0


async def test_leaving_waits_for_reports_to_be_acknowledged(bench: Bench) -> None:
    bench.welcome()
    attempt = bench.assign("T1")
    bench.agent.leave(grace=30.0)
    bench.tick(29.0)
    assert attempt.stop is None
    bench.tick(1.0)
    assert attempt.stop is not None
    await bench.end(attempt, outcomes.raised(attempt, attempt.stop.error()))
    assert not bench.agent.finished.is_set()
    ack = ws.ReportAck(attempt=ws.AttemptRef(task_id="T1", attempt=1), accepted=True)
    bench.agent.received(ws.WorkResponse(acks=[ack]))
    assert bench.agent.finished.is_set()


async def test_a_drain_without_a_grace_stops_no_attempt(bench: Bench) -> None:
    bench.welcome()
    attempt = bench.assign("T1")
    bench.agent.received(ws.WorkResponse(drain=ws.Drain(reason="upgrade")))
    bench.tick(100_000.0)
    assert attempt.stop is None
    assert bench.agent.deadline is None


async def test_giving_up_reports_running_attempts_but_not_granted_ones(bench: Bench) -> None:
    bench.welcome()
    free, granted = bench.assign("T1"), bench.assign("T2")
    granted.commit(ws.GrantRequest(temp="t"))
    granted.grant()
    await bench.said()
    bench.agent.leave(grace=0.0)
    assert bench.agent.give_up() == [free.key, granted.key]
    reports = {report.attempt.task_id: report.outcome for report in (await bench.said()).reports}
    assert reports == {"T1": ws.OUTCOME_HANDED_BACK, "T2": ws.OUTCOME_UNKNOWN}


async def test_messages_wait_for_a_connection_and_are_then_all_sent(bench: Bench) -> None:
    bench.welcome()
    attempt, waiting = bench.assign("T1"), bench.assign("T2")
    await bench.said()
    bench.agent.disconnected()
    waiting.commit(ws.GrantRequest(attempt=ws.AttemptRef(task_id="T2", attempt=1), temp="t"))
    waiting.advance(5, 9)
    await bench.end(attempt, outcomes.succeeded(attempt, None))
    bench.tick(100.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await bench.outbox.take()
    assert {ref.task_id for ref in bench.agent.held()} == {"T1", "T2"}
    bench.welcome()
    said = await bench.said()
    assert [report.attempt.task_id for report in said.reports] == ["T1"]
    assert [request.temp for request in said.grant_requests] == ["t"]
    assert [(progress.done, progress.total) for progress in said.progress] == [(5, 9)]
    assert said.HasField("credits")
    assert said.HasField("heartbeat")
