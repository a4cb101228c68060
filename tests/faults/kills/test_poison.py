"""P9: a task that kills its worker fails alone, and a handler that hangs silences nobody."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from longshore.client import Client, job_spec
from longshore.v1 import task_pb2
from tests.support.servers.processes import ServerProcess, WorkerProcess, eventually

HANDLERS = """
import os, signal, time
from google.protobuf.wrappers_pb2 import StringValue
from longshore.worker import Context, Registry

registry = Registry()

@registry.handler("poison")
def poison(context: Context) -> None:
    os.kill(os.getpid(), signal.SIGKILL)

@registry.handler("slow")
def slow(context: Context) -> None:
    context.sleep(0.3)

@registry.handler("hang")
def hang(context: Context) -> None:
    while True:  # deaf: never checks
        time.sleep(0.05)

@registry.handler("echo")
def echo(context: Context) -> StringValue:
    return context.unpack(StringValue)
"""


@contextmanager
def supervised(worker: WorkerProcess) -> Iterator[list[int]]:
    """Start the worker again whenever it ends, as systemd would; yields its exit codes."""
    over = threading.Event()
    codes: list[int] = []

    def watch() -> None:
        while not over.is_set():
            code = worker.process.wait()
            codes.append(code)
            if not over.is_set():
                worker.start()

    thread = threading.Thread(target=watch)
    with worker:
        thread.start()
        try:
            yield codes
        finally:
            over.set()
            worker.kill()
            thread.join(20)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "handlers_of_test.py").write_text(HANDLERS)
    with ServerProcess(tmp_path, "--lease", "2s") as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server=server.address, token_file=server.token_file) as client:
        yield client


def worker_of(server: ServerProcess, *options: str, name: str = "worker") -> WorkerProcess:
    return WorkerProcess(
        server,
        "--handlers",
        "handlers_of_test:registry",
        *options,
        name=name,
        environment={"PYTHONPATH": str(server.root)},
    )


def test_a_poison_task_fails_with_its_history_and_its_neighbours_do_not(server: ServerProcess, client: Client) -> None:
    (poison,) = client.submit(spec=job_spec("poison"))
    neighbours = [client.submit(spec=job_spec("slow"))[0].id for _ in range(12)]
    with supervised(worker_of(server, "--concurrency", "4")):
        eventually(lambda: client.get(poison.id).done, within=90, what="the poison is found")
        eventually(lambda: all(client.get(one).done for one in neighbours), within=60, what="the neighbours are done")
    failed = client.get(poison.id)
    assert failed.state == task_pb2.TASK_STATE_FAILED
    assert failed.error.reason == "WORKER_CRASHED"
    attempts = client.attempts(poison.id)
    assert [attempt.outcome for attempt in attempts] == ["LOST"] * len(attempts)
    # The first crash is nobody's fault; three more, alone, are its own.
    assert [attempt.alone for attempt in attempts] == [False, True, True, True]
    for one in neighbours:
        task = client.get(one)
        assert task.state == task_pb2.TASK_STATE_SUCCEEDED, task


def test_a_handler_that_hangs_meets_its_time_out_and_does_not_silence_the_heartbeat(
    server: ServerProcess, client: Client
) -> None:
    with worker_of(server, "--concurrency", "4") as worker:
        (hung,) = client.submit(spec=job_spec("hang", run_timeout=3.0, attempt_limit=1))
        eventually(lambda: client.get(hung.id).state == task_pb2.TASK_STATE_RUNNING, what="it hangs")
        # Longer than the lease of 2 s: were the heartbeat silenced, the attempt would be LOST.
        failed = eventually(lambda: task if (task := client.get(hung.id)).done else None, what="its time is over")
        assert failed.state == task_pb2.TASK_STATE_FAILED
        assert failed.error.reason == "TIMED_OUT"
        assert failed.crashes == 0
        (echo,) = client.submit(spec=job_spec("echo", StringValue(value="still here")))
        done = client.wait(echo.id)
        answer = StringValue()
        assert done.result.Unpack(answer)
        assert answer.value == "still here"
        assert worker.running


def test_too_many_hung_handlers_restart_the_worker(server: ServerProcess, client: Client) -> None:
    with supervised(worker_of(server, "--concurrency", "2")) as codes:
        hung = [client.submit(spec=job_spec("hang", run_timeout=1.0, attempt_limit=1))[0].id for _ in range(2)]
        eventually(lambda: all(client.get(one).done for one in hung), within=60, what="both are given up")
        eventually(lambda: codes, within=60, what="the worker restarts itself")
        (echo,) = client.submit(spec=job_spec("echo", StringValue(value="again")))
        assert client.wait(echo.id).state == task_pb2.TASK_STATE_SUCCEEDED
    assert codes[0] not in (0, -9)
