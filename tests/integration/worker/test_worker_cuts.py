"""Connections cut at random while attempts run, ask and report: each runs once, ends once, and commits when granted."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter

import grpc
import pytest

from longshore.v1 import worker_service_pb2 as ws
from longshore.v1.task_service_pb2 import GoAway
from longshore.worker import AsyncContext, Context, Registry
from tests.support.servers.fakeserver import WorkerPeer, job
from tests.support.workers.working import Start

TASKS = 120
AT_ONCE = 16
CUTS = 8


class Ledger:
    """Counts the runs of handlers and the grants of the server, under a lock, because both kinds of handlers write."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.lock = threading.Lock()
        self.runs: Counter[str] = Counter()
        self.commits: Counter[str] = Counter()
        self.granted: set[str] = set()
        self.unasked: list[str] = []
        self.registry.add("thread", self.thread)
        self.registry.add("coroutine", self.coroutine)

    def thread(self, context: Context) -> None:
        self.note(context.task.id, self.runs)
        context.commit(f"/{context.task.id}")
        self.commit(context.task.id)

    async def coroutine(self, context: AsyncContext) -> None:
        self.note(context.task.id, self.runs)
        await context.sleep(0.001)
        await context.commit(f"/{context.task.id}")
        self.commit(context.task.id)

    def note(self, task_id: str, counter: Counter[str]) -> None:
        with self.lock:
            counter[task_id] += 1

    def commit(self, task_id: str) -> None:
        self.note(task_id, self.commits)
        with self.lock:
            if task_id not in self.granted:
                self.unasked.append(task_id)


class Dispatch:
    """The server's side: keeps AT_ONCE tasks assigned, grants what is asked for, and remembers what it has heard."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.left = [(f"T{number}", ("thread", "coroutine")[number % 2]) for number in range(TASKS)]
        self.open: set[str] = set()
        self.done: dict[str, int] = {}

    async def serve(self, peer: WorkerPeer, rounds: int) -> None:
        """Act on so many messages of the worker's, acknowledging reports only now and then at once."""
        held = {ref.task_id for ref in peer.hello.held}
        lost = self.open - held - set(self.done)
        # Assigned, and never arrived: to be assigned again, and to the other sort of handler perhaps.
        for task_id in lost:
            self.open.discard(task_id)
            self.left.append((task_id, "thread"))
        for _ in range(rounds):
            while self.left and len(self.open) < AT_ONCE:
                task_id, kind = self.left.pop()
                self.open.add(task_id)
                peer.assign(job(task_id, kind))
            asked = asyncio.create_task(peer.grant_request())
            told = asyncio.create_task(peer.report())
            finished, waiting = await asyncio.wait((asked, told), return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            if asked in finished:
                request = asked.result()
                with self.ledger.lock:
                    self.ledger.granted.add(request.attempt.task_id)
                peer.grant(request.attempt)
            if told in finished:
                report = told.result()
                self.done[report.attempt.task_id] = report.outcome
                self.open.discard(report.attempt.task_id)
                peer.ack(report.attempt)
            if len(self.done) == TASKS:
                return


@pytest.mark.faults
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_attempt_runs_once_and_ends_once_over_random_cuts(start: Start, seed: int) -> None:
    chance = random.Random(seed)
    ledger = Ledger()
    dispatch = Dispatch(ledger)
    server, worker = await start(ledger.registry, concurrency=AT_ONCE)
    server.ack_reports = False
    for cut in range(CUTS + 1):
        peer = await server.peer()
        await dispatch.serve(peer, rounds=chance.randrange(1, 60) if cut < CUTS else 10 * TASKS)
        if len(dispatch.done) == TASKS:
            break
        match chance.randrange(3):
            case 0:
                peer.end(grpc.StatusCode.UNAVAILABLE)
            case 1:
                peer.end()
            case _:
                peer.say(go_away=GoAway(reason="DRAINING"))
    assert dispatch.done == dict.fromkeys(ledger.runs, ws.OUTCOME_OK)
    assert len(dispatch.done) == TASKS
    assert ledger.commits == ledger.runs == Counter(dispatch.done.keys())
    assert ledger.unasked == []
    assert worker.statistics()["running"] == 0
