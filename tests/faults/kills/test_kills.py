"""P1, P5, P7, P12: kill -9, again and again, in the middle of a load.

Every acknowledged task succeeds, every file is whole, and nothing is left behind in the spool or at the destinations.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from longshore.client import Client, push_spec
from longshore.v1 import task_pb2
from tests.support.servers.processes import Process, ServerProcess, WorkerProcess, eventually, temps_under

UPLOADS = 200
SENDERS = 6
INSTANCES = 10
SIZES = (0, 1, 1000, 70_000, 300_000, 1_500_000, 4_000_000)
PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Sent:
    """The file that one upload was to leave."""

    path: str
    digest: str
    task_id: str


def payload(number: int, rng: random.Random) -> bytes:
    """Bytes that no other upload has."""
    return (b"%08d" % number + rng.randbytes(4096) * (rng.choice(SIZES) // 4096 + 1))[: rng.choice(SIZES) + 8]


def send_all(server: ServerProcess, seed: int) -> list[Sent]:
    """UPLOADS files from SENDERS threads, each with its own client; answers when every one is acknowledged."""

    def send(number: int) -> Sent:
        rng = random.Random(f"{seed}/{number}")
        content = payload(number, rng)
        path = f"i{number % INSTANCES}/srv/f{number}"
        with Client(server=server.address, token_file=server.token_file, patience=PATIENCE) as client:
            (task,) = client.upload(content, spec=push_spec(path), request_id=f"kill-{seed}-{number}")
        return Sent(path, hashlib.sha256(content).hexdigest(), task.id)

    with ThreadPoolExecutor(SENDERS) as pool:
        return list(pool.map(send, range(UPLOADS)))


@contextmanager
def killing(victim: Process, rng: random.Random, *, pause: tuple[float, float]) -> Iterator[list[int]]:
    """Kill and restart the victim at random moments while the block runs; yields the kills so far, in a list."""
    over = threading.Event()
    kills = [0]

    def run() -> None:
        while not over.wait(rng.uniform(*pause)):
            victim.kill()
            kills[0] += 1
            time.sleep(rng.uniform(0, 0.2))
            victim.start()

    with ThreadPoolExecutor(1) as pool:
        killer: Future[None] = pool.submit(run)
        try:
            yield kills
        finally:
            over.set()
            killer.result(60)


def check(server: ServerProcess, instances: Path, sent: list[Sent]) -> None:
    """Everything arrived, whole, and nothing is left behind."""
    with Client(server=server.address, token_file=server.token_file, patience=PATIENCE) as client:

        def unfinished() -> int:
            return sum(1 for task in client.list() if not task.done)

        eventually(lambda: not unfinished(), within=90, what="every task is done")
        states = {task.id: task for task in client.list()}
        for one in sent:
            assert states[one.task_id].state == task_pb2.TASK_STATE_SUCCEEDED, states[one.task_id]
    for one in sent:
        assert hashlib.sha256((instances / one.path).read_bytes()).hexdigest() == one.digest, one.path
    eventually(lambda: not server.leftovers(), what=f"the spool is empty: {server.leftovers()[:5]}")
    assert not temps_under(instances)


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    for number in range(INSTANCES):
        (tmp_path / "instances" / f"i{number}" / "srv").mkdir(parents=True)
    return tmp_path / "instances"


Victim = Callable[[ServerProcess, WorkerProcess], Process]


@pytest.mark.embedded("test_fleet_kills.py is this one for several servers")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("victim", "pause"),
    [
        pytest.param(lambda server, _worker: server, (0.3, 1.5), id="server"),
        pytest.param(lambda _server, worker: worker, (0.5, 1.5), id="worker"),
    ],
)
def test_200_uploads_survive_kills(
    tmp_path: Path, instances: Path, victim: Victim, pause: tuple[float, float], record_property: Callable[..., None]
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    record_property("seed", seed)
    with (
        ServerProcess(tmp_path, "--lease", "2s") as server,
        WorkerProcess(server, targets=[f"default=directory:{instances}"]) as worker,
    ):
        with killing(victim(server, worker), rng, pause=pause) as kills:
            sent = send_all(server, seed)
            eventually(lambda: kills[0] >= 5, within=60, what="five kills")
        record_property("kills", kills[0])
        check(server, instances, sent)
