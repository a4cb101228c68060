"""P17 while servers and workers are killed: each plan is accepted whole, a step starts after what it names, a failed
step cancels what hangs on it and nothing else, and what was cancelled touched nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from longshore.client import BatchVerdict, Client, PlanStep, Task, TaskSpec, push_spec
from longshore.v1 import task_pb2
from tests.support.chaos import Chaos
from tests.support.servers.cluster import fleet_of
from tests.support.servers.processes import Process, ServerProcess, WorkerProcess, eventually
from tests.support.stores.postgres import Cluster

PLANS = 30
SENDERS = 4
PATIENCE = 120.0
STATES = ["SUCCEEDED", "SUCCEEDED", "SUCCEEDED", "FAILED", "CANCELLED", "CANCELLED", "SUCCEEDED"]


def steps(number: int) -> list[PlanStep]:
    """A chain of three files, a step that fails for good, two that hang on it, and one that runs after any end."""

    def step(name: str, *after: int, **more: object) -> PlanStep:
        spec: TaskSpec = push_spec(f"web/srv/p{number}-{name}", **more)  # type: ignore[arg-type]
        return PlanStep(spec=spec, after=after, content=f"{number} {name}".encode(), name=name)

    broken = push_spec(f"web/nowhere/p{number}")
    return [
        step("first"),
        step("second", 0),
        step("third", 0, 1),
        PlanStep(spec=broken, after=(0,), content=b"x", name="broken"),
        step("hangs", 3),
        step("too", 2, 4),
        step("anyhow", 3, 4, after_any_end=True),
    ]


@dataclass(frozen=True, slots=True)
class Plans:
    """The plans of one test, by clients of `address`."""

    address: str
    token_file: Path

    @contextmanager
    def client(self) -> Iterator[Client]:
        with Client(server=self.address, token_file=self.token_file, patience=PATIENCE) as client:
            yield client

    def submit_all(self) -> list[Sequence[Task]]:
        def submit(number: int) -> Sequence[Task]:
            with self.client() as client:
                return client.submit_plan(steps(number), request_id=f"plan-{number}", patience=PATIENCE)

        with ThreadPoolExecutor(SENDERS) as pool:
            return list(pool.map(submit, range(PLANS)))

    def check(self, made: list[Sequence[Task]], root: Path) -> None:
        with self.client() as client:

            def done() -> bool:
                return all(client.get_batch(f"plan-{number}").done for number in range(PLANS))

            eventually(done, within=120, what="every plan is done")
            for number, tasks in enumerate(made):
                assert client.get_batch(f"plan-{number}").verdict == BatchVerdict.BATCH_VERDICT_FAILED
                now = [client.get(task.id) for task in tasks]
                states = [task_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_") for task in now]
                assert states == STATES, (number, states)
                for task in now[4:6]:
                    assert task.error.reason == "DEPENDENCY_FAILED"
                    assert not client.attempts(task.id), "it was never started"
                for before, after in ((0, 1), (0, 2), (1, 2), (0, 3), (3, 6)):
                    ended, began = now[before].finish_time, client.attempts(now[after].id)[0].start_time
                    assert ended.ToNanoseconds() <= began.ToNanoseconds(), "a step starts after what it names"
                for name in ("first", "second", "third", "anyhow"):
                    assert (root / "srv" / f"p{number}-{name}").read_text() == f"{number} {name}"
                for name in ("hangs", "too"):
                    assert not (root / "srv" / f"p{number}-{name}").exists(), "it touched nothing"


def survive(plans: Plans, victims: Sequence[Process], root: Path, *, seed: int) -> None:
    chaos = Chaos(victims, random.Random(seed), pause=0.7)
    with chaos.running():
        made = plans.submit_all()
        eventually(lambda: sum(chaos.kills.values()) >= 6, within=90, what="six kills")
    assert [len(tasks) for tasks in made] == [len(STATES)] * PLANS
    plans.check(made, root)


@pytest.mark.embedded("the next test is this one for several servers")
@pytest.mark.timeout(300)
def test_plans_survive_kills_of_server_and_worker(tmp_path: Path) -> None:
    instances = tmp_path / "instances"
    (instances / "web" / "srv").mkdir(parents=True)
    with (
        ServerProcess(tmp_path, "--lease", "2s") as server,
        WorkerProcess(server, targets=[f"default=directory:{instances}"]) as worker,
    ):
        seed = random.SystemRandom().randrange(1 << 32)
        survive(Plans(server.address, server.token_file), [server, worker], instances / "web", seed=seed)


@pytest.mark.embedded("it is about several servers")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_plans_survive_kills_of_three_servers_and_their_workers(tmp_path: Path, postgres: Cluster) -> None:
    with fleet_of(tmp_path, postgres, "--lease", "2s", servers=3) as fleet:
        fleet.make_instances("web")
        with fleet.worker(name="one") as one, fleet.worker(name="two") as two:
            plans = Plans(fleet.addresses, fleet.servers[0].token_file)
            seed = random.SystemRandom().randrange(1 << 32)
            survive(plans, [*fleet.servers, one, two], fleet.instances / "web", seed=seed)
        assert fleet.discrepancies() == []
        assert fleet.rows("SELECT count(*) FROM dependencies") == [(0,)]
