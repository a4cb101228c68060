"""Three servers, six workers, one PostgreSQL, and something dies every second.

P1, P3, P6, P7, P10, P12: whatever was acknowledged is delivered, whole, once, in order, with a grant for every rename;
limits hold at every moment; nothing is left behind.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from longshore.client import Client, push_spec
from longshore.server.model.values import State
from longshore.server.store.tables.codec import decode_status
from tests.support.chaos import Chaos
from tests.support.servers.cluster import FleetObjectSpool, FleetSpool, FolderSpool, ServerFleet, fleet_of
from tests.support.servers.processes import eventually, temps_under
from tests.support.stores.postgres import Cluster
from tests.support.stores.s3 import ObjectStore

pytestmark = [pytest.mark.faults, pytest.mark.slow]

INSTANCES: Final = 50
SENDERS: Final = 12
QUEUE, INSTANCE, TARGET = 300, 4, 24
SHARED: Final = 20
"""Paths that several tasks write to, one after the other."""
PATIENCE: Final = 120.0
RECORDING: Final = Path(__file__).parents[2] / "support" / "workers" / "recording_worker.py"


@dataclass(slots=True)
class Load:
    """The tasks that were sent, with the digest of each one's content by id."""

    tasks: int
    seed: int
    digests: dict[str, str] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, client: Client, number: int) -> int:
        """One upload, to one destination or to four; answers how many tasks that made."""
        rng = random.Random(f"{self.seed}/{number}")
        size = rng.choices((rng.randrange(4_000), rng.randrange(300_000), 2_000_000), (85, 14, 1))[0]
        content = (b"%08d" % number) + rng.randbytes(997) * (size // 997) + b"."
        count = 4 if number % 10 == 0 else 1
        if number % 10 == 5:
            destinations = [f"i{number % SHARED}/srv/shared"]
        else:
            destinations = [f"i{(number + each) % INSTANCES}/srv/f{number}" for each in range(count)]
        tasks = client.upload(content, spec=push_spec(*destinations), request_id=f"chaos-{self.seed}-{number}")
        digest = hashlib.sha256(content).hexdigest()
        with self.lock:
            for task, destination in zip(tasks, destinations, strict=True):
                self.digests[task.id], self.paths[task.id] = digest, destination
        return len(tasks)

    def send_all(self, fleet: ServerFleet) -> None:
        """From SENDERS threads, each with a client that knows every server; returns when all is acknowledged."""
        numbers = iter(range(self.tasks))
        sent = 0

        def sender(_each: int) -> None:
            nonlocal sent
            with fleet.client(patience=PATIENCE, timeout=PATIENCE) as client:
                while True:
                    with self.lock:
                        if sent >= self.tasks:
                            return
                        number = next(numbers)
                        # Each tenth makes four.
                        sent += 4 if number % 10 == 0 else 1
                    self.send(client, number)

        with ThreadPoolExecutor(SENDERS) as pool:
            list(pool.map(sender, range(SENDERS)))


_HELD = f"({State.RUNNING.value}, {State.COMMITTING.value}, {State.CANCELLING.value})"
_SAMPLE = f"""
SELECT (SELECT coalesce(max(n), 0) FROM
          (SELECT count(*) AS n FROM tasks WHERE live GROUP BY queue) AS queues)
       + (SELECT coalesce(sum(promised), 0) FROM uploads WHERE state = 1),
       (SELECT coalesce(max(n), 0) FROM
          (SELECT count(*) AS n FROM tasks WHERE state IN {_HELD} GROUP BY target, instance) AS instances),
       (SELECT coalesce(max(n), 0) FROM
          (SELECT count(*) AS n FROM tasks WHERE state IN {_HELD} GROUP BY target) AS targets),
       (SELECT count(*) FROM tasks WHERE NOT live)
"""


@contextmanager
def sampling(fleet: ServerFleet) -> Iterator[list[tuple[int, ...]]]:
    """Look into the database ten times a second; yields what was seen: places taken, the fullest instance and target,
    and how many are done."""
    over = threading.Event()
    seen: list[tuple[int, ...]] = []

    def look() -> None:
        while not over.wait(0.1):
            try:
                seen.append(fleet.rows(_SAMPLE)[0])
            except psycopg.Error:
                pass  # It is being restarted.

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(30)


@contextmanager
def workers(fleet: ServerFleet, count: int, record: Path) -> Iterator[list[Any]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(fleet.worker(name=f"w{number}", script=RECORDING, environment={"RECORD": str(record)}))
            for number in range(count)
        ]


def restart_twice(cluster: Cluster, seen: list[tuple[int, ...]], tasks: int, over: threading.Event) -> None:
    """PostgreSQL crashes when a third is done, and again at two thirds."""
    for goal in (tasks // 3, 2 * tasks // 3):
        while not (seen and seen[-1][3] >= goal):
            if over.wait(0.05):
                return
        cluster.stop(immediate=True)
        time.sleep(0.5)
        cluster.start()


@pytest.fixture(params=["s3", "shared"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FleetSpool, int]:
    """The spool, and how many tasks."""
    if request.param == "s3":
        store: ObjectStore = request.getfixturevalue("own_object_store")
        return FleetObjectSpool(store.fresh_url()), 2000
    return FolderSpool(tmp_path / "spool"), 600


@pytest.mark.timeout(600)
def test_everything_is_delivered_once_whatever_dies(
    tmp_path: Path, own_postgres: Cluster, spool: tuple[FleetSpool, int], record_property: Callable[..., None]
) -> None:
    place, tasks = spool
    seed = random.SystemRandom().randrange(1 << 32)
    record_property("seed", seed)
    record = tmp_path / "renames"
    limits = ("--queue-limit", f"{QUEUE}", "--instance-limit", f"{INSTANCE}", "--target-limit", f"{TARGET}")
    began = time.monotonic()
    with fleet_of(tmp_path, own_postgres, "--lease", "3s", *limits, servers=3, spool=place) as fleet:
        fleet.make_instances(*(f"i{number}" for number in range(INSTANCES)))
        load, over = Load(tasks, seed), threading.Event()
        with workers(fleet, 6, record) as fleet_workers, sampling(fleet) as seen:
            chaos = Chaos([*fleet.servers, *fleet_workers], random.Random(seed), pause=1.0)
            with chaos.running(), ThreadPoolExecutor(1) as helper:
                restarts = helper.submit(restart_twice, own_postgres, seen, tasks, over)
                try:
                    load.send_all(fleet)
                    restarts.result(120)
                finally:
                    over.set()
            quiet = time.monotonic()
            eventually(lambda: len(load.digests) == done(fleet), within=90, what="every task is done")
            record_property("kills", sum(chaos.kills.values()))
            record_property("seconds", round(time.monotonic() - began, 1))
            record_property("seconds after the last kill", round(time.monotonic() - quiet, 1))
            check_outcomes(fleet, load)
            check_attempts(fleet)
            check_renames(fleet, record)
            assert max(sample[0] for sample in seen) <= QUEUE
            assert max(sample[1] for sample in seen) <= INSTANCE
            assert max(sample[2] for sample in seen) <= TARGET
            eventually(lambda: not temps_under(fleet.instances), what="no temp is left at the destinations")
        eventually(lambda: not fleet.leftovers(), what="nothing is left in the spool")
        assert fleet.discrepancies() == []


def done(fleet: ServerFleet) -> int:
    return int(fleet.rows("SELECT count(*) FROM tasks WHERE NOT live")[0][0])


def check_outcomes(fleet: ServerFleet, load: Load) -> None:
    """Every task succeeded, said so once and as the last thing, and left its content."""
    rows = fleet.rows("SELECT id, seq, state FROM tasks ORDER BY seq")
    assert {task_id for task_id, *_ in rows} == set(load.digests), "exactly the acknowledged tasks"
    assert Counter(State(state).name for *_, state in rows) == {"SUCCEEDED": len(load.digests)}, fleet.rows(
        "SELECT tasks.id, tasks.error, attempts.* FROM tasks JOIN attempts USING (seq) WHERE state > %s",
        State.SUCCEEDED.value,
    )
    last = {load.paths[task_id]: load.digests[task_id] for task_id, *_ in rows}
    wrong = [
        path
        for path, digest in last.items()
        if hashlib.sha256((fleet.instances / path).read_bytes()).hexdigest() != digest
    ]
    assert not wrong
    histories: dict[int, list[Any]] = {}
    for seq, revision, status in fleet.rows("SELECT seq, revision, status FROM events ORDER BY seq, revision"):
        history = histories.setdefault(seq, [])
        history.append(decode_status(status))
        assert revision == len(history) == history[-1].revision, "revisions without gaps"
    for history in histories.values():
        assert [status.state.terminal for status in history].index(True) == len(history) - 1, "one outcome"


def check_attempts(fleet: ServerFleet) -> None:
    """Numbers without gaps, an ending each; one of them delivered, and had a grant."""
    attempts: dict[int, list[tuple[Any, ...]]] = {}
    for seq, *attempt in fleet.rows(
        "SELECT seq, number, settling, granted_at, ended_at, ending FROM attempts ORDER BY seq, number"
    ):
        attempts.setdefault(seq, []).append(tuple(attempt))
    for seq, made in attempts.items():
        assert [number for number, *_ in made] == list(range(1, len(made) + 1)), (seq, made)
        assert all(ending is not None and ended is not None for *_, ended, ending in made), (seq, made)
        delivered = [each for each in made if each[4] in ("OK", "SETTLED_LANDED")]
        assert len(delivered) == 1, (seq, made)
        (_, settling, granted_at, _, ending) = delivered[0]
        assert settling is (ending == "SETTLED_LANDED"), (seq, made)
        assert granted_at or (settling and any(each[2] for each in made)), (seq, made)


def check_renames(fleet: ServerFleet, record: Path) -> None:
    """No rename without a grant, and none before it."""
    granted: dict[str, float] = {}
    for (status,) in fleet.rows("SELECT status FROM events"):
        grant = decode_status(status).grant
        if grant is not None:
            granted.setdefault(grant.temp, grant.granted_at)
    renames = [line.split(" ", 1) for line in record.read_text().splitlines()]
    assert renames
    for moment, temp in renames:
        assert temp in granted, f"{temp} was renamed without a grant"
        assert float(moment) >= granted[temp] - 0.005
    assert max(Counter(temp for _, temp in renames).values()) == 1
