"""The log: a JSON line for each state change, readable lines for people, and never worth more than the work."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from longshore.client import Client, push_spec
from tests.support.servers.processes import ServerProcess, eventually


@contextmanager
def logging_to(server: ServerProcess, sink: int | IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The server with its own child, its standard error going there."""
    with subprocess.Popen(
        [*server.argv, "--worker"], stdin=subprocess.DEVNULL, stderr=sink, env=server.environment
    ) as process:
        try:
            eventually(lambda: server.serving() or process.poll() is not None)
            yield process
        finally:
            process.kill()


def delivers(server: ServerProcess, to: str = "motd") -> str:
    (server.data / "instances" / "web").mkdir(parents=True, exist_ok=True)
    with Client(server=server.address, token_file=server.token_file, patience=5.0) as client:
        tasks = client.upload(b"x" * 100_000, spec=push_spec(f"web/{to}"))
        client.wait(tasks[0].id)
    return tasks[0].id


@pytest.mark.parametrize("sink", ["full", "closed"])
def test_a_log_that_cannot_be_written_costs_no_delivery(tmp_path: Path, sink: str) -> None:
    tmp_path.mkdir(exist_ok=True)
    server = ServerProcess(tmp_path)
    if sink == "full":
        fd = os.open("/dev/full", os.O_WRONLY)
    else:
        end, fd = os.pipe()
        os.close(end)
    try:
        with logging_to(server, fd) as process:
            delivers(server)
            process.terminate()
            assert process.wait(40) == 0
    finally:
        os.close(fd)


def test_a_pipe_that_breaks_on_the_way_costs_no_delivery(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    end, fd = os.pipe()
    with logging_to(server, fd) as process:
        os.close(fd)
        delivers(server, "one")
        os.close(end)
        delivers(server, "two")
        process.terminate()
        assert process.wait(40) == 0


def test_each_state_change_is_one_line_with_task_attempt_and_worker(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--worker", "--log-level", "debug") as server:
        task_id = delivers(server)
        server.terminate()
        lines: list[dict[str, Any]] = [one for one in server.events("task") if one["task_id"] == task_id]
        assert [line["revision"] for line in lines] == list(range(1, len(lines) + 1))
        states = [line["state"] for line in lines]
        assert (states[0], states[-1]) == ("QUEUED", "SUCCEEDED")
        assert states.count("SUCCEEDED") == 1
        assert (lines[0]["target"], lines[0]["instance"], lines[0]["path"]) == ("default", "web", "/motd")
        assert all(line["attempt"] == 1 and line["worker"] for line in lines[1:])
        # Every line is JSON, whoever wrote it.
        assert all(line.startswith("{") for line in server.log().splitlines())


def test_a_line_of_the_log_is_short_however_many_tasks_an_upload_has(tmp_path: Path) -> None:
    """The record of an upload named each of its tasks: 28 KB for 1,000 destinations."""
    with (
        ServerProcess(tmp_path) as server,
        Client(server=server.address, token_file=server.token_file, patience=5.0) as client,
    ):
        tasks = client.upload(b"x", spec=push_spec(*(f"i{number}/etc/motd" for number in range(1000))))
        [record] = [event for event in server.events() if event["event"] == "upload_complete"]
        assert record["task_count"] == 1000
        assert record["tasks"] == [task.id for task in tasks[:10]]
        assert max(map(len, server.log().splitlines())) < 2000


def test_text_of_callers_makes_no_log_lines_of_its_own(tmp_path: Path) -> None:
    for style in ("json", "text"):
        with ServerProcess(tmp_path / style, "--log-format", style, "--log-level", "debug") as server:
            with Client(server=server.address, token_file=server.token_file) as client:
                client.upload(b"x", spec=push_spec('web/a\n{"event": "forged"}\x1b[2J'))
            eventually(lambda: "QUEUED" in server.log())
            server.terminate()
            assert "\x1b[2J" not in server.log()
            assert not [line for line in server.log().splitlines() if line.startswith('{"event": "forged"')]
            assert not list(server.events("forged"))
