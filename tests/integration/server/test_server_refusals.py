"""P3, P14: a server that cannot start says why in one line, and takes nothing from one that runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from longshore.client import Client
from tests.support.servers.processes import ServerProcess

REFUSED = 2


def start(data: Path, *options: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself."""
    argv = [sys.executable, "-m", "longshore.server.main", "--data-dir", str(data)]
    if "--listen" not in options:
        argv += ["--listen", "127.0.0.1:0"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LONGSHORE_")}
    return subprocess.run(
        [*argv, *options],
        env=clean | (environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refusal(data: Path, *options: str) -> str:
    """Return the refusal of the server, which is one line of its own."""
    done = start(data, *options)
    said = [line for line in done.stderr.splitlines() if line.startswith("longshored: ")]
    assert done.returncode == REFUSED, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert len(said) == 1, done.stderr
    return said[0]


def answers(server: ServerProcess) -> bool:
    with Client(server=server.address, token_file=server.token_file, patience=0.0, timeout=10.0) as client:
        return bool(client.stats().version)


def test_a_second_server_on_the_data_directory_learns_the_pid_of_the_first(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as first:
        said = refusal(first.data)
        assert f"pid {first.pid}" in said
        assert str(first.data) in said
        assert answers(first)
        first.kill()
        first.start()  # the lock was the kernel's


@pytest.mark.embedded("a database or a spool for several servers has several")
@pytest.mark.parametrize("what", ["database", "spool"])
def test_a_database_or_spool_admits_one_server_across_data_directories(tmp_path: Path, what: str) -> None:
    with ServerProcess(tmp_path) as first:
        url = {"database": f"sqlite:///{first.data}/longshore.db", "spool": f"file://{first.data}/spool"}[what]
        said = refusal(tmp_path / "other", f"--{what}", url)
        assert "in use by another longshored" in said
        assert f"--{what}" in said
        assert answers(first)


def test_a_running_servers_socket_is_not_taken_away(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as first:
        before = first.socket.stat().st_ino
        said = refusal(tmp_path / "other", "--listen", first.address)
        assert "another process listens there" in said
        assert first.socket.stat().st_ino == before
        assert answers(first)


def test_the_socket_of_a_killed_server_is_taken_over(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        server.kill()
        assert server.socket.exists()
        server.start()
        assert answers(server)
        assert server.socket.stat().st_mode & 0o777 == 0o600


def test_a_socket_with_a_full_backlog_counts_as_in_use(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        waiting = []
        try:
            while True:  # fill its backlog
                one = socket.socket(socket.AF_UNIX)
                one.setblocking(False)
                waiting.append(one)
                one.connect(str(path))
        except BlockingIOError:
            pass
        finally:
            assert "another process listens there" in refusal(tmp_path / "data", "--listen", f"unix:{path}")
            for one in waiting:
                one.close()


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path, what: str) -> None:
    path = tmp_path / "thing"
    if what == "file":
        path.write_text("precious")
    else:
        path.mkdir()
    assert "no socket" in refusal(tmp_path / "data", "--listen", f"unix:{path}")
    assert path.is_dir() if what == "folder" else path.read_text() == "precious"


def test_a_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"--listen {address}: the address cannot be bound" in refusal(tmp_path, "--listen", address)


def damage(data: Path, what: str) -> list[str]:
    """Spoil a data directory; the options to start with."""
    data.mkdir()
    match what:
        case "database is garbage":
            (data / "longshore.db").write_bytes(b"no database" * 100)
        case "database is a folder":
            (data / "longshore.db").mkdir()
        case "database has no folder":
            return ["--database", f"sqlite:///{data}/missing/longshore.db"]
        case "spool is a file":
            (data / "spool").write_text("")
        case "spool's part is a file":
            (data / "spool").mkdir()
            (data / "spool" / "uploads").write_text("")
        case "token is a folder":
            (data / "token").mkdir()
        case "socket's folder is a file":
            (data / "file").write_text("")
            return ["--listen", f"unix:{data}/file/s"]
    return []


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("database is garbage", "longshore.db"),
        ("database is a folder", "longshore.db"),
        ("database has no folder", "--database"),
        ("spool is a file", "--spool"),
        ("spool's part is a file", "--spool"),
        ("token is a folder", "token"),
        ("socket's folder is a file", "--listen"),
    ],
)
def test_unusable_data_and_options_are_named(tmp_path: Path, what: str, named: str) -> None:
    data = tmp_path / "data"
    options = damage(data, what)
    assert named in refusal(data, *options)


@pytest.mark.parametrize(
    ("token", "mode", "said"),
    [
        ("", 0o600, "empty"),
        ("short", 0o600, "holds no token"),
        ("two words and then some", 0o600, "holds no token"),
        ("x" * 43, 0o604, "chmod 600"),
        ("x" * 43, 0o602, "chmod 600"),
    ],
)
def test_an_unsafe_token_file_is_refused(tmp_path: Path, token: str, mode: int, said: str) -> None:
    (tmp_path / "token").write_text(token + "\n")
    (tmp_path / "token").chmod(mode)
    assert said in refusal(tmp_path)


@pytest.mark.embedded("who may read it is for the administrators of a PostgreSQL to say")
def test_the_database_is_private_in_a_folder_that_is_not(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        pass
    data = tmp_path / "open"
    data.mkdir(mode=0o755)
    with ServerProcess(tmp_path / "two", "--data-dir", str(data)) as server:
        assert server.running
        for name in ("longshore.db", "longshore.db-wal", "longshore.db-shm", "token", "lock"):
            assert (data / name).stat().st_mode & 0o077 == 0, name


def test_a_term_in_the_middle_of_the_start_ends_it(tmp_path: Path) -> None:
    """At any moment: before its handler stands, while the schema is made, when it serves."""
    server = ServerProcess(tmp_path)
    marks = [lambda: True, server.data.exists, (server.data / "token").exists, server.socket.exists]
    if not server.spool.startswith("s3:"):
        marks.insert(3, (server.data / "spool").exists)
    for mark in marks:
        process = subprocess.Popen(
            server.argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=server.environment
        )
        try:
            while not mark() and process.poll() is None:
                pass
            process.terminate()
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode in (0, -signal.SIGTERM)
        assert b"Traceback" not in said
    with server:
        assert answers(server)


def test_an_object_store_that_is_away_is_worth_another_start(tmp_path: Path) -> None:
    """Exit code 1: service managers try again, and do not after a 2."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"s3://bucket/prefix?endpoint=http://127.0.0.1:{nobody.getsockname()[1]}"
        keys = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "not a secret"}
        done = start(tmp_path / "data", "--spool", url, environment=keys)
    assert done.returncode == 1, done.stderr
    assert "no answer" in done.stderr
