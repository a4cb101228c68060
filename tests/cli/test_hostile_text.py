"""Text of others on an operator's screen: it is shown, and does nothing. Streams that are closed, full or narrow."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.client import Client, Task, TaskFilter, TaskState, push_spec
from longshore.v1 import task_pb2
from tests.support.children import leashed
from tests.support.commandline import COMMAND, WITHIN, CommandLine, plain
from tests.support.servers.processes import ServerProcess, eventually
from tests.support.servers.stage import Stage

HOSTILE = (
    "a\x1b]0;owned\x07\x1b[2J\r\nqueued\tb\u202ec\u2066d\u200ee\x9b31m\u061cf\u200bg\x7f\U000e0041[red]h[/][link=x]i"
)
SHOWN = (
    r"a\x1b]0;owned\x07\x1b[2J\r\nqueued\tb\u202ec\u2066d\u200ee"
    r"\x9b31m\u061cf\u200bg\x7f\U000e0041[red]h[/][link=x]i"
)


def unseen(text: str) -> set[str]:
    """Characters that are not seen, but the ends of lines."""
    return {character for character in text if not character.isprintable() and character != "\n"}


@pytest.fixture(scope="module")
def hostile(stage: Stage) -> Task:
    """A task that failed, all of whose texts come from somebody who means ill."""
    (stage.instances / "ill").mkdir(exist_ok=True)
    spec = push_spec(f"ill/{HOSTILE}/{HOSTILE}", labels={"note": HOSTILE})
    [task] = stage.client.upload(b"x", spec=spec, request_id="hostile")
    return stage.reaches(task.id, TaskState.TASK_STATE_FAILED)


@pytest.fixture(scope="module")
def cancelled(stage: Stage) -> Task:
    """One that was cancelled with such a reason."""
    [task] = stage.client.upload(
        b"x", spec=push_spec("absent/etc/x", when_absent=task_pb2.WHEN_ABSENT_WAIT), request_id="hostile-cancel"
    )
    return stage.client.cancel(task.id, reason=HOSTILE)


def requested(stage: Stage, request_id: str) -> list[Task]:
    """The tasks of that request."""
    return list(stage.client.list(filter=TaskFilter(request_id=request_id)))


def commands(*tasks: Task) -> Iterator[list[str]]:
    ids = [task.id for task in tasks]
    yield ["list", "--limit", "0"]
    yield ["get", *ids]
    yield ["watch", *ids]
    yield ["attempts", ids[0]]
    yield ["cancel", *ids]
    yield ["list", "--queue", HOSTILE]
    yield ["get", HOSTILE]
    yield ["list", "--state", HOSTILE]
    yield [f"--{HOSTILE}"]
    yield ["push", f"no/{HOSTILE}", "web/x"]
    yield ["push", "motd", f"{HOSTILE}:web/x"]
    yield ["workers"]
    yield ["stats"]


def test_no_command_prints_terminal_control_characters(cli: CommandLine, hostile: Task, cancelled: Task) -> None:
    said = ""
    for arguments in commands(hostile, cancelled):
        piped = cli.run(*arguments)
        assert unseen(piped.out) | unseen(piped.err) == set(), arguments
        assert "Traceback" not in piped.err, arguments
        said += piped.out + piped.err
        # Bars return to the beginning of their line; in the pipe above there are none.
        screen = plain(cli.on_terminal(*arguments).err).replace("\r", "")
        assert unseen(screen) == set(), arguments
        assert not any(line.startswith("queued") for line in (piped.out + piped.err + screen).splitlines()), arguments
    assert said.count(SHOWN) > 10


def test_json_has_the_same_values_and_nothing_unseen(cli: CommandLine, hostile: Task) -> None:
    done = cli.run("get", hostile.id, "--output", "json")
    assert unseen(done.out) == set()
    assert json.loads(done.out)["labels"]["note"] == HOSTILE
    narrow = cli.run("get", hostile.id, "--output", "json", environment={"PYTHONIOENCODING": "latin-1"})
    assert json.loads(narrow.out) == json.loads(done.out)


def test_a_text_log_has_one_line_per_record_for_any_content(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--worker", "--log-format", "text", "--log-level", "debug") as server:
        (server.data / "instances" / "ill").mkdir(parents=True)
        with Client(server=server.address, token_file=server.token_file) as client:
            [task] = client.upload(b"x", spec=push_spec(f"ill/{HOSTILE}/x"))
            eventually(lambda: client.get(task.id).done)
            client.cancel(task.id, reason=HOSTILE)
        server.terminate()
        log = server.log()
    assert unseen(log) == set()
    assert SHOWN in log
    records = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d |    ")
    assert [line for line in log.splitlines() if not records.match(line)] == []
    [failed] = [line for line in log.splitlines() if "not delivered" in line]
    assert "warning: ill/" in failed
    assert "to default by" in failed
    assert f"(PARENT_MISSING); task {task.id} of local" in failed


def shell(cli: CommandLine, redirections: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it as a shell would, with those redirections."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cli.folder,
        env={**cli.environment, **environment},
        timeout=WITHIN,
        check=False,
    )


@pytest.mark.parametrize("gone", [">&-", ">/dev/full"], ids=["closed", "full"])
def test_an_accepted_id_is_not_lost_with_the_output(cli: CommandLine, stage: Stage, instance: str, gone: str) -> None:
    for output in ("text", "json", "id"):
        done = shell(
            cli, gone, "push", "motd", f"{instance}/etc/x", "--request-id", f"{instance}-{output}", "-o", output
        )
        [task] = requested(stage, f"{instance}-{output}")
        assert done.returncode == 74, done
        assert task.id in done.stderr
        assert "Traceback" not in done.stderr
    both = shell(cli, f"{gone} 2{gone}", "push", "motd", f"{instance}/etc/x", "--request-id", f"{instance}-both")
    assert both.returncode == 74
    assert len(requested(stage, f"{instance}-both")) == 1


def test_a_closed_output_loses_no_task_id(cli: CommandLine, stage: Stage, instance: str) -> None:
    end, pipe = os.pipe()
    os.close(end)
    process = leashed(
        subprocess.Popen(
            [*COMMAND, "push", "motd", f"{instance}/etc/x", "--request-id", instance],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cli.folder,
            env=dict(cli.environment),
        )
    )
    os.close(pipe)
    _, said = process.communicate(timeout=WITHIN)
    [task] = requested(stage, instance)
    assert process.returncode == 141
    assert task.id in said


@pytest.mark.parametrize(
    ("redirections", "code"),
    [(">/dev/full", 74), (">&-", 74), (">&- 2>&-", 74), (">/dev/full 2>/dev/full", 74), ("2>&-", 0), ("<&-", 0)],
)
def test_unwritable_output_ends_a_read_only_command_with_a_code_and_a_sentence(
    cli: CommandLine, redirections: str, code: int
) -> None:
    for arguments in (["workers"], ["--help"], ["--version"]):
        done = shell(cli, redirections, *arguments)
        assert done.returncode == code, (arguments, done)
        assert "Traceback" not in done.stderr
        if code and "2>" not in redirections:
            assert done.stderr.startswith("longshore: standard output cannot be written: ")


def test_closed_standard_input_is_reported(cli: CommandLine, instance: str) -> None:
    done = shell(cli, "<&-", "push", "-", f"{instance}/etc/x")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "standard input is closed" in done.stderr


def test_characters_outside_the_encoding_are_escaped(cli: CommandLine, instance: str) -> None:
    for environment in ({"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C"}, {"PYTHONIOENCODING": "latin-1"}):
        done = subprocess.run(
            [*COMMAND, "push", "motd", f"{instance}/etc/\u043a\u00e9-\U0001f600", "--wait"],
            capture_output=True,
            cwd=cli.folder,
            env={**cli.environment, **environment},
            timeout=WITHIN,
            check=False,
        )
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done
        assert b"succeeded" in done.stdout


@pytest.mark.parametrize("redirections", [">&- 2>&- <&-", "2>/dev/full", "2>&-"])
def test_a_server_without_standard_streams_serves_and_keeps_their_descriptors_reserved(
    tmp_path: Path, redirections: str
) -> None:
    server = ServerProcess(tmp_path, "--worker")
    (server.data / "instances" / "web").mkdir(parents=True)
    server.data.chmod(0o700)
    server.argv = ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *server.argv]
    with server:
        for number in (0, 1, 2):
            assert str(Path(f"/proc/{server.pid}/fd/{number}").readlink()) in {
                "/dev/null",
                "/dev/full",
                str(server.log_path),
            }
        with Client(server=server.address, token_file=server.token_file) as client:
            [task] = client.upload(b"x", spec=push_spec("web/x"))
            client.wait(task.id)
        assert server.terminate() == 0


@pytest.mark.parametrize("options", [["--worker"]])
def test_signals_reload_and_tell_and_kill_nothing(tmp_path: Path, options: list[str]) -> None:
    with ServerProcess(tmp_path, *options) as server:
        eventually(lambda: list(server.events("worker_connected")), what="the worker")
        [child] = [record["pid"] for record in server.events("worker_started")]
        for pid in (server.pid, child):
            for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
                os.kill(pid, number)
        eventually(lambda: len(list(server.events("process_state"))) == 2, what="two dumps")
        eventually(lambda: server.log().count("Current thread") == 2, what="two lists of threads")
        eventually(lambda: list(server.events("reloading")), what="a reload")
        places = [place for state in server.events("process_state") for place in state["task_places"]]
        assert any(place.startswith("engine: ") for place in places)
        assert not list(server.events("worker_ended"))
        assert server.serving()
        assert server.terminate() == 0


def test_a_port_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = longshored(tmp_path, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("longshored: --listen 127.0.0.1:")
    assert "Address already in use. Is another server on it?" in done.stderr


def test_a_forbidden_port_is_reported_as_forbidden(tmp_path: Path) -> None:
    done = longshored(tmp_path, "--listen", "127.0.0.1:80", before=["setpriv", "--bounding-set=-net_bind_service"])
    assert done.returncode == 2
    assert "Permission denied" in done.stderr
    assert "another server" not in done.stderr


def longshored(
    folder: Path, *options: str, before: list[str] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    known = {key: value for key, value in os.environ.items() if not key.startswith("LONGSHORE_")}
    return subprocess.run(
        [*(before or []), sys.executable, "-m", "longshore.server.main", "--data-dir", str(folder / "data"), *options],
        capture_output=True,
        text=True,
        env={**known, **environment},
        timeout=WITHIN,
        check=False,
    )
