"""`longshore-worker` as a process: its settings, its signals, its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from longshore.v1 import worker_service_pb2 as ws
from tests.support.process import started
from tests.support.servers.fakeserver import FakeServer, job, names, serving, soon
from tests.support.workers.gate import until

HANDLERS = """
import threading, time
from pathlib import Path
from longshore.worker import Context, Registry

registry = Registry()

@registry.handler("gate")
def gate(context: Context) -> None:
    Path("entered").touch()
    while not Path("open").exists():
        context.sleep(0.01)

@registry.handler("hang")
def hang(context: Context) -> None:
    Path("entered").touch()
    while True:
        time.sleep(3600)

@registry.handler("download")
def download(context: Context) -> None:
    Path("path").write_text(str(context.payload_path()))
    while True:
        context.sleep(0.01)
"""


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with serving() as fake:
        yield fake


@asynccontextmanager
async def worker(server: FakeServer, folder: Path, *options: str, **environment: str) -> AsyncIterator[Process]:
    """A worker process in a folder of its own, killed at the end if it still runs."""
    (folder / "jobs.py").write_text(HANDLERS)
    arguments = ["--server", server.address, "--handlers", "jobs:registry", "--name", "tested", *options]
    async with running(arguments, folder, **environment) as process:
        yield process


def running(arguments: list[str], folder: Path, **environment: str) -> AbstractAsyncContextManager[Process]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LONGSHORE", "XDG", "TMPDIR"))}
    own = {
        "LONGSHORE_TOKEN": "t" * 20,
        "LONGSHORE_WORKER_STATE_DIR": str(folder / "state"),
        "LONGSHORE_WORKER_TEMP_DIR": str(folder / "temp"),
    }
    command = [sys.executable, "-m", "longshore.worker.main", *arguments]
    return started(command, folder, inherited | own | environment)


async def lines(process: Process) -> list[dict[str, object]]:
    """Wait for the end, and read what was logged: JSON, as standard error is no terminal."""
    _, errors = await soon(process.communicate())
    return [json.loads(line) for line in errors.splitlines() if line.startswith(b"{")]


async def appears(path: Path) -> None:
    await until(path.exists)


async def test_sigterm_lets_running_attempts_finish_and_returns_the_others(server: FakeServer, tmp_path: Path) -> None:
    async with worker(server, tmp_path) as process:
        peer = await server.peer()
        running = peer.assign(job("T1", "gate"))
        await appears(tmp_path / "entered")
        waiting = peer.assign(job("T2", "gate"), alone=True)
        # Known to have arrived: the worker wants nothing beside it.
        await peer.until(lambda: peer.credits[-1] == 2)
        process.send_signal(signal.SIGTERM)
        report = await peer.report()
        assert (report.attempt, report.outcome) == (waiting, ws.OUTCOME_HANDED_BACK)
        await peer.until(lambda: peer.credits[-1] == 0)
        assert not peer.goodbye.is_set()
        (tmp_path / "open").touch()
        report = await peer.report()
        assert (report.attempt, report.outcome) == (running, ws.OUTCOME_OK)
        await soon(peer.goodbye.wait())
        logged = await lines(process)
    assert process.returncode == 0
    ended = [line for line in logged if line["event"] == "attempt_ended"]
    assert {(line["task_id"], line["attempt"], line["outcome"], line["worker"]) for line in ended} == {
        ("T1", 1, "OK", "tested"),
        ("T2", 1, "HANDED_BACK", "tested"),
    }


async def test_after_the_grace_running_attempts_are_stopped_and_returned(server: FakeServer, tmp_path: Path) -> None:
    async with worker(server, tmp_path, "--grace", "0.3") as process:
        peer = await server.peer()
        peer.assign(job("T1", "gate"))
        await appears(tmp_path / "entered")
        process.terminate()
        assert (await peer.report()).outcome == ws.OUTCOME_HANDED_BACK
        await soon(peer.goodbye.wait())
        assert await soon(process.wait()) == 0


async def test_a_second_signal_stops_at_once(server: FakeServer, tmp_path: Path) -> None:
    async with worker(server, tmp_path, "--grace", "3600") as process:
        peer = await server.peer()
        peer.assign(job("T1", "gate"))
        await appears(tmp_path / "entered")
        process.send_signal(signal.SIGINT)
        await peer.until(lambda: peer.credits[-1] == 0)
        # A signal that follows within a second may be the echo of the first.
        report = asyncio.create_task(peer.report())
        while not report.done():
            process.send_signal(signal.SIGINT)
            await asyncio.wait((report,), timeout=0.2)
        assert report.result().outcome == ws.OUTCOME_HANDED_BACK
        assert await soon(process.wait()) == 0


async def test_a_handler_that_hangs_does_not_keep_the_process(server: FakeServer, tmp_path: Path) -> None:
    async with worker(server, tmp_path, "--grace", "0.1", "--stop-grace", "0.3") as process:
        peer = await server.peer()
        peer.assign(job("T1", "hang"))
        await appears(tmp_path / "entered")
        process.terminate()
        report = await peer.report()
        assert (report.outcome, report.left_temps) == (ws.OUTCOME_HANDED_BACK, True)
        await soon(peer.goodbye.wait())
        assert await soon(process.wait()) == 0


async def test_too_many_hanging_handlers_end_the_worker_with_a_code_of_their_own(
    server: FakeServer, tmp_path: Path
) -> None:
    async with worker(server, tmp_path, "--stop-grace", "0.2", "--max-wedged", "0") as process:
        peer = await server.peer()
        peer.assign(job("T1", "hang", run_timeout=0.2))
        assert (await peer.report()).error.reason == "TIMED_OUT"
        assert await soon(process.wait()) == 75


async def test_a_killed_worker_is_reported_dead_by_its_successor(server: FakeServer, tmp_path: Path) -> None:
    content = b"x" * 1000
    server.payloads["T1"] = content
    async with worker(server, tmp_path) as process:
        peer = await server.peer()
        first = peer.hello.session_id
        peer.assign(job("T1", "download", payload=content))
        await appears(tmp_path / "path")
        process.kill()
        await process.wait()
    assert list((tmp_path / "temp").rglob("payload-*")) != []
    async with worker(server, tmp_path):
        peer = await server.peer()
        assert list(peer.hello.dead_sessions) == [first]
        assert peer.hello.session_id != first
        assert list((tmp_path / "temp").rglob("payload-*")) == []


async def test_a_worker_that_said_goodbye_is_not_reported_dead(server: FakeServer, tmp_path: Path) -> None:
    async with worker(server, tmp_path) as process:
        peer = await server.peer()
        await peer.until(lambda: bool(peer.heartbeats))
        process.terminate()
        await soon(process.wait())
        assert peer.goodbye.is_set()
    async with worker(server, tmp_path):
        peer = await server.peer()
        assert list(peer.hello.dead_sessions) == []


async def test_a_child_ends_with_its_parent(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(HANDLERS)
    parent = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'longshore.worker.main', *sys.argv[1:],"
        " '--parent-pid', str(os.getpid())])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    environment = os.environ | {"LONGSHORE_TOKEN": "t" * 20, "LONGSHORE_WORKER_STATE_DIR": str(tmp_path / "state")}
    options = ["--server", server.address, "--handlers", "jobs:registry"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", parent, *options, cwd=tmp_path, env=environment, stdout=PIPE
    )
    assert process.stdout is not None
    child = os.pidfd_open(int(await soon(process.stdout.readline())))
    try:
        peer = await server.peer()
        ref = peer.assign(job("T1", "gate"))
        await appears(tmp_path / "entered")
        process.kill()
        await process.communicate()
        report = await peer.report()
        assert (names([report.attempt]), report.outcome) == (names([ref]), ws.OUTCOME_HANDED_BACK)
        await soon(peer.goodbye.wait())
        await soon(ended(child))
    finally:
        os.close(child)


async def ended(pidfd: int) -> None:
    """Wait for a process that is not our child."""
    event = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, event.set)
    try:
        await event.wait()
    finally:
        asyncio.get_running_loop().remove_reader(pidfd)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--target"),
        (["--target", "nonsense"], "--target 'nonsense'"),
        (["--target", "a=directory:/x", "--target", "a=directory:/y"], "names are unique"),
        (["--handlers", "no_such_module:registry"], "--handlers 'no_such_module:registry'"),
        (["--handlers", "json:dumps"], "no Registry named 'dumps'"),
        (["--target", "a=directory:/x", "--concurrency", "0"], "--concurrency 0"),
        (["--target", "a=directory:/x", "--grace", "-1"], "--grace -1"),
        (["--target", "a=directory:/x", "--name", "a b"], "--name 'a b'"),
        (["--target", "a=directory:/x", "--server", "127.0.0.1:1,example.com"], "'example.com'"),
        (["--target", "a=directory:/x", "--tls-cert", "me.crt"], "--tls-key"),
        (["--target", "a=directory:/x", "--tls-ca", "missing"], "--tls-ca missing"),
        (["--target", "a=directory:/x", "--rehome", "-1"], "--rehome -1"),
        (["--target", "a=directory:/x", "--stop-grace", "soon"], "--stop-grace soon: no duration; write it like 30s"),
        (["--target", "a=directory:/x", "--grace", "1h30m", "--rehome", "2d"], "--rehome 172800: use 0 to 86400"),
        (["--target", "a=directory:/x", "--token-file", "missing"], "missing"),
        (["--target", "a=directory:/x", "--log-level", "loud"], "--log-level 'loud'"),
        (["--target", "a=directory:/x", "--state-dir", "/proc/none"], "--state-dir /proc/none"),
    ],
)
async def test_a_wrong_setting_is_named_with_its_remedy(tmp_path: Path, options: list[str], says: str) -> None:
    async with running(options, tmp_path) as process:
        said = await soon(process.stderr.read()) if process.stderr is not None else b""
        await soon(process.wait())
    assert process.returncode == 2
    assert said.decode().startswith("longshore-worker: ")
    assert said.decode().count("\n") == 1
    assert says in said.decode()


async def test_settings_come_from_the_environment(server: FakeServer, tmp_path: Path) -> None:
    environment = {
        "LONGSHORE_WORKER_SERVER": server.address,
        "LONGSHORE_WORKER_TARGET": f"one=directory:{tmp_path} two=directory:{tmp_path}",
        "LONGSHORE_WORKER_CONCURRENCY": "3",
        "LONGSHORE_WORKER_NAME": "from-outside",
    }
    async with running([], tmp_path, **environment):
        peer = await server.peer()
    assert peer.hello.worker == "from-outside"
    assert [target.name for target in peer.hello.targets] == ["one", "two"]
    assert peer.credits[0] == 3
