"""The files of a SQLite database are taken away below a running server: from then on nothing is acknowledged."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from longshore.client import Client, push_spec
from longshore.client.errors import LongshoreError, Unavailable
from tests.support.servers.processes import ServerProcess, eventually

pytestmark = [pytest.mark.faults]


def _server(root: Path) -> ServerProcess:
    return ServerProcess(root, "--database", f"sqlite:///{root}/database/longshore.db")


def _removed(database: Path) -> Path:
    database.unlink()
    return database


def _renamed(database: Path) -> Path:
    database.rename(database.with_name("elsewhere"))
    return database


def _another_in_its_place(database: Path) -> Path:
    shutil.copy(database, database.with_name("copy"))
    database.with_name("copy").rename(database)
    return database


def _emptied(database: Path) -> Path:
    os.truncate(database, 0)
    return database


def _log_removed(database: Path) -> Path:
    log = database.with_name("longshore.db-wal")
    log.unlink()
    return log


def _index_removed(database: Path) -> Path:
    index = database.with_name("longshore.db-shm")
    index.unlink()
    return index


def _folder_renamed(database: Path) -> Path:
    database.parent.rename(database.parent.with_name("other"))
    return database


WAYS = [_removed, _renamed, _another_in_its_place, _emptied, _log_removed, _index_removed, _folder_renamed]


@pytest.mark.parametrize("take", WAYS)
def test_no_task_is_acknowledged_after_the_database_file_is_gone(tmp_path: Path, take: Callable[[Path], Path]) -> None:
    """Senders hand in tasks all the while. After the file is taken no id is given out any more."""
    (tmp_path / "database").mkdir()
    with _server(tmp_path) as server:
        accepted: list[str] = []
        stop = threading.Event()

        def send() -> None:
            with (
                contextlib.suppress(LongshoreError),
                Client(server=server.address, token_file=server.token_file, patience=0.0) as client,
            ):
                while not stop.is_set():
                    accepted.append(client.upload(b"x", spec=push_spec("web/etc/motd"))[0].id)

        senders = [threading.Thread(target=send) for _ in range(4)]
        for sender in senders:
            sender.start()
        try:
            eventually(lambda: len(accepted) > 20, what="senders at work")
            name = take(tmp_path / "database" / "longshore.db")
            # Calls that were on their way may still arrive; a call from here on is refused.
            with (
                Client(server=server.address, token_file=server.token_file, patience=0.0) as client,
                pytest.raises(Unavailable, match="its file"),
            ):
                client.upload(b"late", spec=push_spec("web/etc/motd"))
            for sender in senders:
                sender.join(20)
                assert not sender.is_alive(), "a sender that is still served"
        finally:
            stop.set()
        eventually(lambda: not server.serving(), what="NOT_SERVING")
        why = eventually(lambda: list(server.events("store_not_writable")), what="a line in the log")[0]["why"]
        assert str(name) in why
        assert "backup" in why


def test_the_log_beside_a_file_that_a_link_leads_to_is_guarded_too(tmp_path: Path) -> None:
    (tmp_path / "database").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "database" / "longshore.db").symlink_to(tmp_path / "disk" / "longshore.db")
    with _server(tmp_path) as server, Client(server=server.address, token_file=server.token_file) as client:
        client.upload(b"x", spec=push_spec("web/etc/motd"))
        _log_removed(tmp_path / "disk" / "longshore.db")
        eventually(lambda: not server.serving(), what="NOT_SERVING")


def test_a_file_that_is_moved_back_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "database").mkdir()
    with _server(tmp_path) as server, Client(server=server.address, token_file=server.token_file) as client:
        first = client.upload(b"x", spec=push_spec("web/etc/motd"))[0].id
        (tmp_path / "database").rename(tmp_path / "other")
        eventually(lambda: not server.serving(), what="NOT_SERVING")
        (tmp_path / "other").rename(tmp_path / "database")
        eventually(server.serving, what="SERVING")
        second = client.upload(b"x", spec=push_spec("web/etc/motd"))[0].id
        server.kill()
        server.start()
        assert {client.get(first).id, client.get(second).id} == {first, second}


def test_a_server_starts_on_no_damaged_file_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "database").mkdir()
    database = tmp_path / "database" / "longshore.db"
    with _server(tmp_path) as server:
        server.terminate()
        for at, what in ((0, "not a database"), (100, "malformed")):
            whole = database.read_bytes()
            with database.open("r+b") as file:
                file.seek(at)
                file.write(b"\xa5" * 4000)
            with pytest.raises(AssertionError, match="the server ended with 2"):
                server.start()
            said = server.log().splitlines()[-1]
            assert what in said
            assert str(database) in said
            assert "restore a backup" in said
            database.write_bytes(whole)


def test_damage_that_is_found_at_work_ends_all_acknowledging(tmp_path: Path) -> None:
    (tmp_path / "database").mkdir()
    database = tmp_path / "database" / "longshore.db"
    with _server(tmp_path) as server:
        with Client(server=server.address, token_file=server.token_file) as client:
            tasks = [client.upload(b"x" * 3000, spec=push_spec(f"web/etc/{n}"))[0].id for n in range(300)]
        # The log goes into the file as the server ends, and the next one has read little of it.
        server.terminate()
        server.start()
        size = database.stat().st_size
        with database.open("r+b") as file:
            file.seek(4096 * 2)
            file.write(b"\xa5" * (size - 4096 * 2))
        with Client(server=server.address, token_file=server.token_file, patience=0.0) as client:
            for task in tasks:
                with contextlib.suppress(LongshoreError):
                    client.cancel(task)
            with pytest.raises(Unavailable):
                client.upload(b"late", spec=push_spec("web/etc/motd"))
        eventually(lambda: not server.serving(), what="NOT_SERVING")
        assert any("is damaged" in each["why"] for each in server.events("store_not_writable"))
        assert any(str(database) in each["why"] for each in server.events("store_not_writable"))
