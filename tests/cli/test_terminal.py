"""Terminals, pipes, Ctrl-C, and a server that comes and goes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.client import Task, TaskFilter, TaskState
from tests.support.commandline import CommandLine, interrupt, plain
from tests.support.network.proxy_thread import ProxyThread
from tests.support.servers.processes import eventually
from tests.support.servers.stage import Stage, staged

BAR = "━"


def tasks_of(stage: Stage, request_id: str) -> list[Task]:
    return list(stage.client.list(filter=TaskFilter(request_id=request_id)))


@pytest.fixture
def slow(stage: Stage, cli: CommandLine) -> Iterator[CommandLine]:
    """The same over a line that takes a second for 20 MB: the bar of a file that is there at once would be a flash."""
    with ProxyThread(unix=stage.server.socket) as proxy:
        proxy.delay(0.003)
        yield CommandLine(address=proxy.address, data_dir=stage.server.data, folder=cli.folder)


def test_progress_is_for_terminals(cli: CommandLine, slow: CommandLine, instance: str) -> None:
    (cli.folder / "big").write_bytes(os.urandom(40_000_000))
    shown = slow.on_terminal("push", "big", f"{instance}/etc/big", "--wait")
    assert shown.code == 0
    assert BAR in shown.err
    assert "succeeded" in plain(shown.err)
    assert re.search(r"[\d.]+ MiB of 38 MiB  [\d.]+ MiB/s  \S+ left", plain(shown.err))
    assert "?" not in plain(shown.err)
    piped = cli.run("push", "big", f"{instance}/etc/big", "--wait")
    assert (piped.code, piped.err) == (0, "")
    assert BAR not in piped.out


def test_a_small_file_has_no_bar(cli: CommandLine, instance: str) -> None:
    shown = cli.on_terminal("push", "motd", f"{instance}/etc/motd", "--wait")
    assert (shown.code, BAR in shown.err) == (0, False)


def test_piped_results_contain_no_messages(cli: CommandLine, slow: CommandLine, instance: str) -> None:
    (cli.folder / "big").write_bytes(os.urandom(40_000_000))
    done = slow.on_terminal("push", "big", f"{instance}/etc/big", "--wait", "--output", "id", stdout=False)
    assert done.code == 0
    assert BAR in done.err
    [task_id] = done.lines
    assert len(task_id) == 26


def test_json_has_no_bars(cli: CommandLine, instance: str) -> None:
    done = cli.on_terminal("push", "motd", f"{instance}/etc/motd", "--wait", "--output", "json", stdout=False)
    assert (done.code, done.err) == (0, "")
    assert done.objects[0]["done"] is True


def test_interrupting_a_wait_leaves_the_task(cli: CommandLine, stage: Stage) -> None:
    waiting = cli.start("push", "motd", "absent-one/etc/x", "--when-absent", "wait", "--wait", "--request-id", "int-1")
    [task] = eventually(lambda: tasks_of(stage, "int-1"), what="the task")
    stage.reaches(task.id, TaskState.TASK_STATE_SCHEDULED)
    done = interrupt(waiting)
    assert (done.code, done.out) == (130, "")
    assert f"longshore watch {task.id}" in done.err
    assert f"longshore cancel {task.id}" in done.err
    assert "Traceback" not in done.err
    assert not stage.client.get(task.id).done
    stage.client.cancel(task.id)


def test_interrupting_standard_input_makes_no_task(cli: CommandLine, stage: Stage) -> None:
    process = cli.start("push", "-", "web/etc/x", "--request-id", "int-2", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"not all of it")
    process.stdin.flush()
    # It reads: a pipe holds 64 KiB, so that this much fits only when some of it has been taken.
    process.stdin.write(bytes(300_000))
    process.stdin.flush()
    done = interrupt(process)
    assert done.code == 130
    assert "no task was made" in done.err
    assert tasks_of(stage, "int-2") == []


def test_a_server_that_restarts_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(1_000_000))
    with staged(tmp_path / "s") as stage:
        cli = CommandLine(address=stage.server.address, data_dir=stage.server.data, folder=tmp_path)
        waiting = cli.start("push", "big", "web/etc/big", "--wait", "--request-id", "restart")
        eventually(lambda: tasks_of(stage, "restart"), what="the task")
        stage.server.kill()
        stage.server.start()
        with stage.worker():
            out, err = waiting.communicate(timeout=60)
        assert waiting.returncode == 0, err
        assert b"succeeded" in out
        assert b"waiting: the server does not answer" in err
        assert (stage.instances / "web/etc/big").read_bytes() == (tmp_path / "big").read_bytes()


def test_a_server_that_starts_late_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "motd").write_text("hello\n")
    with staged(tmp_path / "s") as stage:
        cli = CommandLine(address=stage.server.address, data_dir=stage.server.data, folder=tmp_path)
        stage.server.terminate()
        pushing = cli.start("push", "motd", "web/etc/motd")
        assert pushing.stderr is not None
        assert b"does not answer" in pushing.stderr.readline()
        stage.server.start()
        _, err = pushing.communicate(timeout=60)
        assert pushing.returncode == 0, err
