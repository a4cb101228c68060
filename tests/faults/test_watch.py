"""P11: watching misses nothing, whatever breaks in between."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from longshore.client import Client, job_spec
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from tests.support.network.proxy_thread import ProxyThread
from tests.support.servers.processes import ServerProcess, WorkerProcess, eventually

HANDLERS = """
from longshore.worker import Context, Registry, TransientError

registry = Registry()

@registry.handler("flaky")
def flaky(context: Context) -> None:
    if context.attempt < 40:
        raise TransientError("FLAKY", "not yet", retry_after=0.05)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "flaky_of_test.py").write_text(HANDLERS)
    with ServerProcess(tmp_path) as server:
        yield server


def flaky_worker(server: ServerProcess) -> WorkerProcess:
    options = ("--handlers", "flaky_of_test:registry")
    return WorkerProcess(server, *options, environment={"PYTHONPATH": str(server.root)})


def test_a_watcher_cut_a_hundred_times_sees_every_revision_once(server: ServerProcess) -> None:
    rng = random.Random(11)
    with ProxyThread(unix=server.socket) as proxy, flaky_worker(server):
        over = threading.Event()

        def cut() -> None:
            while not over.wait(rng.uniform(0.01, 0.08)):
                proxy.cut()

        cutter = threading.Thread(target=cut)
        with Client(server=server.address, token_file=server.token_file) as sure:
            (task,) = sure.submit(spec=job_spec("flaky", attempt_limit=100))
            seen: list[int] = []
            cutter.start()
            try:
                with Client(server=proxy.address, token_file=server.token_file, patience=60) as client:
                    for update in client.watch(task.id, after_revision=0):
                        seen.append(update.revision)
            finally:
                over.set()
                cutter.join(10)
            final = sure.get(task.id)
    assert final.state == task_pb2.TASK_STATE_SUCCEEDED
    assert seen == list(range(1, final.revision + 1))
    assert final.revision > 100


def test_each_of_a_hundred_resumes_continues_where_the_last_one_ended(server: ServerProcess) -> None:
    """On the bare stub: read a random number of revisions, drop the call, resume."""
    rng = random.Random(12)
    metadata = (("authorization", f"Bearer {server.token}"),)
    with Client(server=server.address, token_file=server.token_file) as client:
        (task,) = client.submit(spec=job_spec("flaky", attempt_limit=100))
        with flaky_worker(server), grpc.insecure_channel(server.address) as channel:
            watch_task: Any = channel.unary_stream(
                "/longshore.v1.TaskService/WatchTask",
                request_serializer=pb.WatchTaskRequest.SerializeToString,
                response_deserializer=pb.WatchTaskResponse.FromString,
            )
            seen: list[pb.WatchTaskResponse] = []
            resumes = 0
            while not (seen and seen[-1].task.done):
                after = seen[-1].task.revision if seen else 0
                request = pb.WatchTaskRequest(task_id=task.id, after_revision=after)
                call = watch_task(request, metadata=metadata, timeout=30)
                wanted = rng.randint(1, 2)
                for update in call:
                    if update.HasField("task"):
                        seen.append(update)
                        wanted -= 1
                    if not wanted:
                        break
                call.cancel()
                resumes += 1
    revisions = [update.task.revision for update in seen]
    assert revisions == list(range(1, len(revisions) + 1))
    assert resumes >= 60


@pytest.mark.cluster("P11")
def test_a_watch_of_a_finished_task_sends_its_whole_history(server: ServerProcess) -> None:
    with Client(server=server.address, token_file=server.token_file) as client:
        (task,) = client.submit(spec=job_spec("flaky"))
        client.cancel(task.id)
        history = [update.revision for update in client.watch(task.id, after_revision=0)]
        assert history == [1, 2]
        now = list(client.watch(task.id))
        assert [update.state for update in now] == [task_pb2.TASK_STATE_CANCELLED]


@pytest.mark.cluster("P11")
def test_a_watch_goes_on_over_a_restart_of_the_server(server: ServerProcess) -> None:
    with Client(server=server.address, token_file=server.token_file, patience=60) as client:
        (task,) = client.submit(spec=job_spec("flaky", attempt_limit=100))
        seen: list[int] = []

        def watch() -> None:
            seen.extend(update.revision for update in client.watch(task.id, after_revision=0))

        watcher = threading.Thread(target=watch)
        watcher.start()
        with flaky_worker(server):
            eventually(lambda: len(client.attempts(task.id)) > 5, what="it runs")
            server.kill()
            server.start()
            watcher.join(90)
        assert not watcher.is_alive()
        assert seen == list(range(1, client.get(task.id).revision + 1))
