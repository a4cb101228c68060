"""P6, P8 over servers: 500 cancels at one server for work at another, half of them while the worker loses its link."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from longshore.v1 import task_pb2
from tests.support.network.proxy_thread import ProxyThread
from tests.support.servers.cluster import ServerFleet, fleet_of
from tests.support.servers.processes import eventually, temps_under
from tests.support.stores.postgres import Cluster

pytestmark = [pytest.mark.faults, pytest.mark.slow]

CANCELS: Final = 500
AT_ONCE: Final = 25
WORKERS: Final = 5
OLD, NEW = b"old\n", b"new " * 20_000


class Round:
    """One place after the other: push at a server drawn by lot, cancel at the first, and see what became of it."""

    def __init__(self, fleet: ServerFleet, links: list[ProxyThread], seed: int) -> None:
        self.fleet, self.links, self.seed = fleet, links, seed
        self.outcomes: Counter[str] = Counter()
        self.paths: dict[str, Path] = {}
        self.lock = threading.Lock()

    def one(self, number: int) -> None:
        rng = random.Random(f"{self.seed}/{number}")
        destination = f"i{number % 50}/srv/f{number}"
        path = self.fleet.instances / destination
        path.write_bytes(OLD)
        submitter = self.fleet.any(rng)
        task_id = submitter.push(NEW, destination)
        self.paths[task_id] = path
        # From the submission to after the end: meanwhile the task is queued, runs, commits and is done.
        time.sleep(rng.uniform(0.0, 0.5) ** 2 * 4)
        cut = number % 2 == 0
        if cut and rng.random() < 0.5:
            rng.choice(self.links).cut()
            cut = False
        asked = self.fleet[0].client.cancel(task_id)
        if cut:
            rng.choice(self.links).cut()
        done = submitter.reaches(
            task_id, task_pb2.TASK_STATE_SUCCEEDED, task_pb2.TASK_STATE_CANCELLED, task_pb2.TASK_STATE_FAILED
        )
        content = path.read_bytes()
        if done.state == task_pb2.TASK_STATE_CANCELLED:
            assert content == OLD, f"{task_id} is CANCELLED, and its content is there"
        else:
            assert done.state == task_pb2.TASK_STATE_SUCCEEDED, done
            assert content == NEW, f"{task_id} has SUCCEEDED, and its content is not there"
            assert asked.state != task_pb2.TASK_STATE_CANCELLED, "what was CANCELLED stays so"
        with self.lock:
            self.outcomes[task_pb2.TaskState.Name(done.state).removeprefix("TASK_STATE_")] += 1
            self.outcomes[f"asked while {task_pb2.TaskState.Name(asked.state).removeprefix('TASK_STATE_')}"] += 1


@pytest.mark.timeout(240)
def test_500_cancels_at_one_server_for_work_at_another(
    tmp_path: Path, postgres: Cluster, record_property: Callable[..., None]
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    record_property("seed", seed)
    with (
        fleet_of(tmp_path, postgres, "--lease", "3s", "--cancel-grace", "3s") as fleet,
        ExitStack() as stack,
    ):
        fleet.make_instances(*(f"i{number}" for number in range(50)))
        links = [stack.enter_context(fleet.link(1)) for _ in range(WORKERS)]
        for number, link in enumerate(links):
            stack.enter_context(fleet.worker("--concurrency", "8", name=f"w{number}", address=link.address))
        eventually(lambda: len(list(fleet[0].client.workers())) == WORKERS, what="all workers are there")
        cancels = Round(fleet, links, seed)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(cancels.one, range(CANCELS)))
        for what, count in sorted(cancels.outcomes.items()):
            record_property(what, count)
        # Both happened, or the moments were badly chosen and nothing was shown.
        assert cancels.outcomes["CANCELLED"] >= CANCELS // 20
        assert cancels.outcomes["SUCCEEDED"] >= CANCELS // 20
        assert cancels.outcomes["asked while CANCELLING"] >= 5
        eventually(lambda: not temps_under(fleet.instances), what="no temp is left")
        # A destination stays as it was told to be: nothing is renamed late.
        ends = fleet.rows("SELECT id, state FROM tasks")
        assert len(ends) == CANCELS
        for task_id, state in ends:
            assert cancels.paths[task_id].read_bytes() == (NEW if state == task_pb2.TASK_STATE_SUCCEEDED else OLD)
        assert fleet.discrepancies() == []
