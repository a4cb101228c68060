"""`longshored --worker`: the child works, comes back, and never outlives its server."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from longshore.client import Client, push_spec
from tests.support.servers.processes import ServerProcess, eventually


def worker_of(server: ServerProcess, *, number: int = 1) -> int:
    """The pid of the child, once it has been started so many times."""
    started: list[int] = eventually(
        lambda: pids if len(pids := [one["pid"] for one in server.events("worker_started")]) >= number else None,
        what=f"start {number} of the worker",
    )
    return started[number - 1]


def gone(pid: int) -> bool:
    """Ended, whether or not somebody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def delivers(server: ServerProcess, to: str) -> None:
    (server.data / "instances" / "web").mkdir(parents=True, exist_ok=True)
    with Client(server=server.address, token_file=server.token_file) as client:
        tasks = client.upload(b"content", spec=push_spec(f"web/{to}"))
        client.wait(tasks[0].id)
    assert (server.data / "instances" / "web" / to).read_bytes() == b"content"


def test_one_command_delivers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--worker") as server:
        delivers(server, "motd")
        pid = worker_of(server)
        assert server.terminate() == 0
        assert gone(pid)
        assert not server.leftovers()


def test_the_child_goes_with_a_server_that_is_killed(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--worker") as server:
        delivers(server, "motd")
        pid = worker_of(server)
        server.kill()
        # Its last report may be committed and not acknowledged: then it waits for a server, 45 s at most.
        eventually(lambda: gone(pid), within=60.0, what="the end of the worker")


def test_a_child_that_dies_is_started_again_after_a_pause(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--worker") as server:
        delivers(server, "one")
        os.kill(worker_of(server), signal.SIGKILL)
        worker_of(server, number=2)
        delivers(server, "two")
        (ended,) = server.events("worker_ended")
        assert ended["restart_in"] > 0


def test_pauses_grow_and_a_drain_does_not_wait_for_them(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--worker", "--target", "not a target") as server:
        pauses: list[float] = eventually(
            lambda: found if len(found := [one["restart_in"] for one in server.events("worker_ended")]) >= 3 else None,
            what="three ends of the worker",
        )
        assert pauses == sorted(pauses)
        assert pauses[-1] >= 4.0
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < pauses[-1] - 1.0


def test_the_child_ignores_the_environment_of_other_workers(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-another-server\n")
    environment = {
        "LONGSHORE_WORKER_TOKEN_FILE": str(tmp_path / "token"),
        "LONGSHORE_TOKEN": "of-another-server",
        "LONGSHORE_WORKER_SERVER": "127.0.0.1:1",
        "LONGSHORE_WORKER_DATA_DIR": str(tmp_path / "elsewhere"),
    }
    with ServerProcess(tmp_path, "--worker", environment=environment) as server:
        delivers(server, "motd")


def test_the_child_logs_in_the_servers_way(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--worker", "--log-format", "text", "--log-level", "debug") as server:
        delivers(server, "motd")
        assert not list(server.events())
        assert "session_welcome" in server.log()
