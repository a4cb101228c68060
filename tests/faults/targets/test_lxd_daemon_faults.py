"""The whole way into real containers while the LXD daemon is killed, hangs, or its disk is full."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from longshore.client import Client, push_spec
from longshore.v1 import task_pb2
from tests.support.servers.processes import ServerProcess, WorkerProcess, eventually
from tests.support.servers.stage import ended
from tests.support.workers.lxd import LxdDaemon

pytestmark = pytest.mark.lxd

UPLOADS = 200


@pytest.fixture
def fleet(tmp_path: Path, lxd_of_my_own: LxdDaemon) -> Iterator[tuple[Client, ServerProcess, WorkerProcess]]:
    targets = [f"default=lxd:{lxd_of_my_own.socket}", f"files=directory:{tmp_path / 'instances'}"]
    with (
        ServerProcess(tmp_path, "--attempt-limit", "100") as server,
        WorkerProcess(server, "--concurrency", "8", targets=targets) as worker,
        Client(server=server.address, token_file=server.token_file, patience=60) as client,
    ):
        yield client, server, worker


def all_done(client: Client, ids: list[str]) -> bool:
    return not [task for task in client.list() if task.id in ids and not task.done]


def count_done(client: Client) -> int:
    return sum(1 for task in client.list() if task.done)


@pytest.mark.timeout(300)
def test_200_uploads_survive_kills_of_the_daemon(
    fleet: tuple[Client, ServerProcess, WorkerProcess], lxd_of_my_own: LxdDaemon
) -> None:
    client, server, _ = fleet
    lxd = lxd_of_my_own
    rng = random.Random(7)
    names = [lxd.launch(f"kill{number}") for number in range(3)]
    sent: dict[str, tuple[str, str, str]] = {}

    def send(number: int) -> None:
        content = rng.randbytes(rng.choice((1, 5_000, 400_000, 3_000_000)))
        instance, path = names[number % len(names)], f"/srv/f{number}"
        (task,) = client.upload(content, spec=push_spec(f"{instance}{path}"))
        sent[task.id] = (instance, path, hashlib.sha256(content).hexdigest())

    with ThreadPoolExecutor(4) as pool:
        sending = [pool.submit(send, number) for number in range(UPLOADS)]
        kills = 0
        while kills < 4 or not all(one.done() for one in sending):
            done_before = count_done(client)

            def moved(before: int = done_before) -> bool:
                return count_done(client) > before or all(one.done() for one in sending)

            eventually(moved, within=60, what="some are delivered")
            lxd.kill()
            kills += 1
            lxd.start()
        for one in sending:
            one.result()
    eventually(lambda: all_done(client, list(sent)), within=150, what="every task is done")
    states = {task.id: task for task in client.list() if task.id in sent}
    for task_id, (instance, path, digest) in sent.items():
        assert states[task_id].state == task_pb2.TASK_STATE_SUCCEEDED, states[task_id]
        assert hashlib.sha256(lxd.read(instance, path)).hexdigest() == digest
    # A temp that could not be removed while the daemon was away is a debt, paid since.

    def left() -> str:
        return "".join(lxd.temps(name) for name in names).strip()

    eventually(lambda: not left(), within=90, what=f"no temp is left of {left()}")
    eventually(lambda: not server.leftovers(), what="the spool is empty")


@pytest.mark.timeout(180)
def test_a_daemon_that_hangs_delays_no_other_target(
    fleet: tuple[Client, ServerProcess, WorkerProcess], lxd_of_my_own: LxdDaemon, tmp_path: Path
) -> None:
    client, _, _ = fleet
    lxd = lxd_of_my_own
    name = lxd.launch("hung")
    (tmp_path / "instances" / "web").mkdir(parents=True)
    with lxd.hung():
        stuck = [client.upload(b"x", spec=push_spec(f"{name}/srv/h{number}"))[0].id for number in range(4)]
        eventually(lambda: any(client.get(one).state == task_pb2.TASK_STATE_RUNNING for one in stuck), what="they try")
        for number in range(20):
            (task,) = client.upload(b"y", spec=push_spec(f"files:web/f{number}"))
            assert client.wait(task.id).state == task_pb2.TASK_STATE_SUCCEEDED
        assert not any(client.get(one).done for one in stuck)
    eventually(lambda: all_done(client, stuck), within=120, what="the stuck ones go on")
    assert {client.get(one).state for one in stuck} == {task_pb2.TASK_STATE_SUCCEEDED}


def test_a_full_disk_in_the_container_fails_for_good_and_leaves_the_old_file(
    fleet: tuple[Client, ServerProcess, WorkerProcess], lxd_of_my_own: LxdDaemon
) -> None:
    client, server, _ = fleet
    lxd = lxd_of_my_own
    name = lxd.launch("full")
    lxd.run_in(name, "mkdir -p /small && mount -t tmpfs -o size=1m tmpfs /small && echo old > /small/file")
    (task,) = client.upload(b"n" * 2_000_000, spec=push_spec(f"{name}/small/file"))
    failed = ended(client, task.id)
    assert (failed.state, failed.error.reason) == (task_pb2.TASK_STATE_FAILED, "NO_SPACE")
    assert lxd.read(name, "/small/file") == b"old\n"
    assert lxd.temps(name).strip() == ""
    # The payload is kept: once there is room, a retry delivers it.
    assert server.leftovers()
    lxd.run_in(name, "mount -o remount,size=8m /small")
    again = client.retry(task.id)
    assert again.retry_of == task.id
    assert client.wait(again.id).state == task_pb2.TASK_STATE_SUCCEEDED
    assert lxd.read(name, "/small/file") == b"n" * 2_000_000


def test_a_stopped_instance_with_waiting_tasks_is_delivered_to_when_it_starts(
    fleet: tuple[Client, ServerProcess, WorkerProcess], lxd_of_my_own: LxdDaemon
) -> None:
    client, _, _ = fleet
    lxd = lxd_of_my_own
    other, name = lxd.launch("awake"), lxd.create("asleep")
    wait: dict[str, Any] = {"when_stopped": task_pb2.WHEN_STOPPED_WAIT}
    parked = [client.upload(b"%d" % n, spec=push_spec(f"{name}/srv/f{n}", **wait))[0].id for n in range(100)]
    for number in range(10):
        (task,) = client.upload(b"z", spec=push_spec(f"{other}/srv/f{number}"))
        assert client.wait(task.id).state == task_pb2.TASK_STATE_SUCCEEDED
    lxd.lxc("start", name)
    eventually(lambda: all_done(client, parked), within=90, what="the parked ones are delivered")
    assert {client.get(one).state for one in parked} == {task_pb2.TASK_STATE_SUCCEEDED}
    assert lxd.read(name, "/srv/f99") == b"99"
