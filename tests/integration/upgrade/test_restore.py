"""A restored backup puts no old file over a newer one: the server begins with its queues paused, and says so."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from longshore.client import Client, push_spec
from longshore.server.data.generation import GenerationFile, mark_restored
from longshore.v1 import task_pb2
from tests.support.parts import require_root
from tests.support.servers.processes import ServerProcess, WorkerProcess, eventually
from tests.support.stores.postgres import SUPERUSER, Cluster

LARGE = os.urandom(200_000)
"""More than what is kept in the database."""


@dataclass
class Case:
    """The case of these tests: a first version was queued when the backup was made, and a second one is in place."""

    root: Path
    server: ServerProcess
    bulk: bytes = LARGE
    first: str = ""
    second: str = ""
    kept: str = ""

    @property
    def instances(self) -> Path:
        return self.root / "instances"

    @property
    def motd(self) -> Path:
        return self.instances / "web" / "etc" / "motd"

    def client(self) -> Client:
        return Client(server=self.server.address, token_file=self.server.token_file)

    def worker(self, name: str = "worker") -> WorkerProcess:
        return WorkerProcess(self.server, name=name, targets=[f"default=directory:{self.instances}"])

    def play(self, backup: Callable[[], None]) -> None:
        """Queue the first version, back up, and deliver it and the second one."""
        self.motd.parent.mkdir(parents=True)
        with self.client() as client, self.worker():
            (done,) = client.upload(b"before", spec=push_spec("web/etc/done"))
            client.wait(done.id)
            client.pause_queue("default", create=True)
            (first,) = client.upload(b"v1" + self.bulk, spec=push_spec("web/etc/motd"))
            (kept,) = client.upload(b"small", spec=push_spec("web/etc/small"))
            self.first, self.kept = first.id, kept.id
            backup()
            client.resume_queue("default")
            for task in (first, kept):
                client.wait(task.id)
            (second,) = client.upload(b"v2" + self.bulk, spec=push_spec("web/etc/motd"))
            client.wait(second.id)
            self.second = second.id
        assert self.motd.read_bytes()[:2] == b"v2"

    def check_nothing_runs(self) -> None:
        """The queue is paused, the operator is told, and the second version stays while the first one waits."""
        with self.client() as client, self.worker("after"):
            eventually(client.workers, what="a worker that could run them")
            # A new task of another queue shows that the worker takes what it may.
            (other,) = client.upload(b"new", spec=push_spec("web/etc/new", queue="other"))
            client.wait(other.id)
            stats = client.stats()
            assert stats.HasField("restored")
            assert stats.restored.live_tasks == 2
            assert "longshore resume" in stats.restored.advice
            assert {queue.queue for queue in stats.queues if queue.paused} == {"default"}
            assert {task.id for task in client.list() if task.state == task_pb2.TASK_STATE_QUEUED} == {
                self.first,
                self.kept,
            }
            assert self.motd.read_bytes()[:2] == b"v2"
            # A task that is accepted now is numbered after all that were ever accepted.
            assert other.id > self.second
        (told,) = eventually(lambda: list(self.server.events("restored")), what="a word of the restore")
        assert told["level"] == "error"
        assert told["queues"] == ["default"]
        assert health_details(self.server) == "restored-queues-paused"

    def check_it_goes_on(self) -> None:
        """A cancelled task touches no file; the others are delivered on request, as attempts whose numbers are new."""
        with self.client() as client, self.worker("last"):
            client.cancel(self.first)
            client.resume_queue("default")
            delivered = client.wait(self.kept)
            assert delivered.attempt > 10_000
            assert client.get(self.first).state == task_pb2.TASK_STATE_CANCELLED
            assert not client.stats().HasField("restored")
            assert self.motd.read_bytes()[:2] == b"v2"
        eventually(lambda: health_details(self.server) == "", what="health without details")


def health_details(server: ServerProcess) -> str:
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        _, call = stub.Check.with_call(health_pb2.HealthCheckRequest(), timeout=5.0)
    details: dict[str, str] = dict(call.trailing_metadata() or ())
    return details.get("longshore-health", "")


def longshored(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LONGSHORE_")}
    return subprocess.run(
        [sys.executable, "-m", "longshore.server.main", "--data-dir", str(data), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )


def sqlite_server(root: Path) -> ServerProcess:
    return ServerProcess(root, "--database", f"sqlite:///{root}/data/longshore.db")


def by_command(case: Case, data: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    folder = case.root / "backup"

    def backup() -> None:
        done = longshored(data, "backup", str(folder))
        assert done.returncode == 0, done.stderr

    def restore() -> None:
        refused = longshored(data, "restore", str(folder))
        assert refused.returncode == 2
        assert "--replace" in refused.stderr
        done = longshored(data, "restore", str(folder), "--replace")
        assert done.returncode == 0, done.stderr
        assert "2 live tasks would run again" in done.stdout

    return backup, restore


def on_a_new_machine(case: Case, data: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    backup, _ = by_command(case, data)

    def restore() -> None:
        data.rename(case.root / "lost")
        done = longshored(data, "restore", str(case.root / "backup"))
        assert done.returncode == 0, done.stderr

    return backup, restore


def by_hand(case: Case, data: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    folder = case.root / "backup"

    def backup() -> None:
        folder.mkdir()
        with (
            closing(sqlite3.connect(data / "longshore.db")) as source,
            closing(sqlite3.connect(folder / "longshore.db")) as copy,
        ):
            source.backup(copy)
        shutil.copytree(data / "spool", folder / "spool")

    def restore() -> None:
        for old in data.glob("longshore.db*"):
            old.unlink()
        shutil.rmtree(data / "spool")
        shutil.copy(folder / "longshore.db", data / "longshore.db")
        shutil.copytree(folder / "spool", data / "spool")

    return backup, restore


def as_a_whole(case: Case, data: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """The folder is copied while the server stands still, and put back in place of the present one."""
    backup, restore = over_what_is_there(case, data)

    def emptied() -> None:
        shutil.rmtree(data)
        restore()

    return backup, emptied


def over_what_is_there(case: Case, data: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    folder = case.root / "backup"

    def backup() -> None:
        case.server.terminate()
        subprocess.run(["cp", "-a", str(data), str(folder)], check=True)
        case.server.start()

    def restore() -> None:
        for old in data.glob("longshore.db-*"):
            old.unlink()
        subprocess.run(["cp", "-a", f"{folder}/.", str(data)], check=True)

    return backup, restore


WAYS = [by_command, on_a_new_machine, by_hand, as_a_whole, over_what_is_there]


@pytest.mark.parametrize("way", WAYS)
def test_a_restored_server_delivers_nothing_before_a_resume(tmp_path: Path, way: Any) -> None:
    with sqlite_server(tmp_path) as server:
        case = Case(tmp_path, server)
        backup, restore = way(case, server.data)
        case.play(backup)
        server.terminate()
        restore()
        server.start()
        case.check_nothing_runs()
        # It is no matter of this run of the server alone.
        server.kill()
        server.start()
        eventually(lambda: len(list(server.events("restored"))) == 2, what="the log says it once for each run")
        case.check_it_goes_on()
        server.terminate()
        server.start()
        with case.client() as client:
            assert not client.stats().HasField("restored"), "the notice is over for good"


def test_a_killed_server_knows_that_a_delivery_came_after_the_backup(tmp_path: Path) -> None:
    """Nothing is written at the end of a server that is killed."""
    with sqlite_server(tmp_path) as server:
        case = Case(tmp_path, server)
        backup, restore = by_hand(case, server.data)
        case.play(backup)
        server.kill()
        restore()
        server.start()
        case.check_nothing_runs()


def test_a_server_that_only_starts_again_pauses_nothing(tmp_path: Path) -> None:
    with sqlite_server(tmp_path) as server:
        case = Case(tmp_path, server)
        case.play(lambda: None)
        for end in (server.kill, server.terminate, server.kill):
            end()
            server.start()
        # Nor does another owner or mode of the folder make it another one.
        server.terminate()
        for path in (server.data, *(server.data / "generation").iterdir()):
            path.chmod(0o750 if path.is_dir() else 0o640)
        server.start()
        with case.client() as client:
            assert not client.stats().HasField("restored")
        assert not list(server.events("restored"))


def test_a_restore_of_the_same_backup_repeats_no_number(tmp_path: Path) -> None:
    with sqlite_server(tmp_path) as server:
        case = Case(tmp_path, server)
        backup, restore = by_command(case, server.data)
        case.play(backup)
        attempts, ids = [], []
        for _ in range(2):
            server.terminate()
            restore()
            server.start()
            with case.client() as client, case.worker():
                client.resume_queue("default")
                attempts.append(client.wait(case.kept).attempt)
                (task,) = client.upload(b"x", spec=push_spec("web/etc/x"))
                ids.append(client.wait(task.id).id)
        assert attempts[0] < attempts[1]
        assert ids[0][:10] < ids[1][:10], "numbers of tasks"


@pytest.mark.parametrize("how", ["link", "mount"])
def test_a_spool_that_lies_elsewhere_is_restored_where_it_lies(tmp_path: Path, how: str) -> None:
    """A link to another disk, or that disk itself: a mount point cannot be renamed."""
    disk, data = tmp_path / "disk", tmp_path / "data"
    (disk / "spool").mkdir(parents=True)
    data.mkdir(mode=0o700)
    spool = data / "spool"
    with contextlib.ExitStack() as stack:
        if how == "link":
            spool.symlink_to(disk / "spool")
            (data / "longshore.db").symlink_to(disk / "longshore.db")
        else:
            require_root()
            spool.mkdir()
            subprocess.run(["mount", "--bind", disk / "spool", spool], check=True)
            stack.callback(lambda: subprocess.run(["umount", spool], check=True))
        server = stack.enter_context(sqlite_server(tmp_path))
        case = Case(tmp_path, server)
        backup, restore = by_command(case, data)
        case.play(backup)
        server.kill()
        restore()
        assert list((disk / "spool" / "payloads").glob("*/*")), "what the first version needs"
        server.start()
        assert (data / "longshore.db").is_symlink() == spool.is_symlink() == (how == "link")
        case.check_nothing_runs()
        case.check_it_goes_on()
        server.terminate()


def test_a_full_disk_at_the_start_leaves_no_notice_for_the_next_one(tmp_path: Path) -> None:
    """The writer tries again a second later. What `restore` has left is done with then."""
    folder = tmp_path / "generation"
    mark_restored(folder, 7)
    generation = GenerationFile(folder, alone=True)
    assert generation.compare(7, 5) is not None
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            generation.begin(7, 6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert generation.compare(7, 6) is not None, "nothing is written yet"
    generation.begin(7, 6)
    generation.close()
    (left,) = folder.iterdir()
    assert left.stat().st_size
    assert GenerationFile(folder, alone=True).compare(7, 6) is None


# The backup itself -----------------------------------------------------------------------------------------------


def test_a_backup_is_private_and_whole(tmp_path: Path) -> None:
    with sqlite_server(tmp_path) as server:
        case = Case(tmp_path, server)
        backup, _ = by_command(case, server.data)
        case.play(backup)
        folder = tmp_path / "backup"
        for path in (folder, *folder.rglob("*")):
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
        manifest = json.loads((folder / "manifest.json").read_text())
        names = {file["path"] for file in manifest["files"]}
        (payload,) = [name for name in names if name.startswith("spool/payloads/")]
        assert names == {"longshore.db", "token", "spool/identity", payload}
        assert (folder / payload).read_bytes() == b"v1" + LARGE, "the server has removed its own name of it by now"
        # A second one does not mix with it.
        again = longshored(server.data, "backup", str(folder))
        assert again.returncode == 2
        assert "not empty" in again.stderr
        assert (folder / "manifest.json").exists()


@pytest.mark.parametrize("damage", ["database", "payload", "no payload", "manifest", "no manifest"])
def test_a_damaged_backup_is_refused_before_anything_is_touched(tmp_path: Path, damage: str) -> None:
    with sqlite_server(tmp_path) as server:
        case = Case(tmp_path, server)
        backup, _ = by_command(case, server.data)
        case.play(backup)
        server.terminate()
        folder = tmp_path / "backup"
        payload = next(path for path in (folder / "spool/payloads").glob("*/*"))
        victim = {"database": folder / "longshore.db", "manifest": folder / "manifest.json"}.get(damage, payload)
        if damage == "no manifest":
            (folder / "manifest.json").unlink()
        elif damage == "no payload":
            payload.unlink()
        else:
            content = bytearray(victim.read_bytes())
            content[len(content) // 2] ^= 1
            victim.write_bytes(content[: len(content) // 2] if damage == "manifest" else content)
        before = (server.data / "longshore.db").read_bytes()
        done = longshored(server.data, "restore", str(folder), "--replace")
        assert done.returncode == 2
        assert str(folder) in done.stderr
        assert (server.data / "longshore.db").read_bytes() == before
        server.start()
        assert not list(server.events("restored"))


def test_a_restore_is_refused_while_the_server_runs(tmp_path: Path) -> None:
    with sqlite_server(tmp_path) as server:
        case = Case(tmp_path, server)
        backup, _ = by_command(case, server.data)
        case.play(backup)
        done = longshored(server.data, "restore", str(tmp_path / "backup"), "--replace")
        assert done.returncode == 2
        assert f"pid {server.pid}" in done.stderr
        with case.client() as client:
            assert client.get(case.second).state == task_pb2.TASK_STATE_SUCCEEDED


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with sqlite_server(tmp_path) as server:
        case = Case(tmp_path, server)
        case.play(lambda: None)
        server.terminate()
        database = server.data / "longshore.db"
        with database.open("r+b") as file:
            file.seek(4096 * 3)
            file.write(b"\xff" * 4096 * 8)
        done = longshored(server.data, "backup", str(tmp_path / "backup"))
        assert done.returncode == 2
        assert "damaged" in done.stderr or "malformed" in done.stderr
        assert not (tmp_path / "backup").exists()


def test_backups_beside_a_busy_server_have_every_payload_that_they_name(tmp_path: Path) -> None:
    with sqlite_server(tmp_path) as server:
        case = Case(tmp_path, server)
        case.motd.parent.mkdir(parents=True)
        script = (
            "import os, sys\nfrom longshore.client import Client, push_spec\n"
            "with Client(server=sys.argv[1], token_file=sys.argv[2]) as client:\n"
            "  for n in range(10_000): client.upload(os.urandom(100_000), spec=push_spec(f'web/etc/f{n % 16}'))\n"
        )
        sender = subprocess.Popen([sys.executable, "-c", script, server.address, str(server.token_file)])
        try:
            with case.worker():
                eventually(lambda: len(list(case.motd.parent.iterdir())) >= 16, what="a busy server")
                for number in range(5):
                    folder = tmp_path / f"backup{number}"
                    done = longshored(server.data, "backup", str(folder))
                    assert done.returncode == 0, done.stderr
                    with closing(sqlite3.connect(folder / "longshore.db")) as copy:
                        named = {
                            row[0]
                            for row in copy.execute(
                                "SELECT id FROM payloads WHERE NOT doomed "
                                "AND id NOT IN (SELECT payload_id FROM inline_payloads)"
                            )
                        }
                    assert named == {path.name for path in (folder / "spool/payloads").glob("*/*")}
        finally:
            sender.kill()
            sender.wait()


# PostgreSQL ------------------------------------------------------------------------------------------------------


def by_base_backup(cluster: Cluster, _url: str) -> tuple[Callable[[], None], Callable[[], None]]:
    folder = cluster.folder / "base"

    def restore() -> None:
        cluster.stop()
        cluster.put_back(folder)
        cluster.start()

    return lambda: cluster.back_up(folder), restore


def by_dump(cluster: Cluster, url: str) -> tuple[Callable[[], None], Callable[[], None]]:
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    file = str(cluster.folder / "dump")

    def restore() -> None:
        # Beside the old one and renamed: nobody sees a part of it.
        cluster.execute("CREATE DATABASE restored TEMPLATE template0")
        cluster.run("pg_restore", "-h", str(cluster.folder), "-U", SUPERUSER, "-d", "restored", file)
        cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")
        cluster.execute(f"ALTER DATABASE restored RENAME TO {name}")

    return (
        lambda: cluster.run("pg_dump", "-h", str(cluster.folder), "-U", SUPERUSER, "-Fc", "-f", file, str(name)),
        restore,
    )


@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
@pytest.mark.parametrize("way", [by_base_backup, by_dump])
def test_a_restored_postgresql_is_noticed_by_a_server_that_was_ahead(
    own_postgres: Cluster, tmp_path: Path, way: Any, running: bool
) -> None:
    """Stopped or running meanwhile, with its own data directory. The database has the notice for all others."""
    with own_postgres.database() as url, ServerProcess(tmp_path, "--database", url) as server:
        case = Case(tmp_path, server, bulk=b"")
        backup, restore = way(own_postgres, url)
        case.play(backup)
        if not running:
            server.terminate()
        restore()
        if not running:
            server.start()
        eventually(lambda: list(server.events("restored")), what="a server that has noticed")
        eventually(server.serving, what="SERVING")
        case.check_nothing_runs()
        with ServerProcess(tmp_path / "second", "--database", url) as second:
            # It has never seen the database before.
            told = eventually(lambda: list(second.events("restored")), what="a word of the restore")
            assert told[0]["live_tasks"] == 2
            with Client(server=second.address, token_file=second.token_file) as client:
                assert client.stats().restored.live_tasks == 2
        case.check_it_goes_on()


def test_on_postgresql_the_command_says_what_to_do_instead(postgres: Cluster, tmp_path: Path) -> None:
    with postgres.database() as url:
        for command in ("backup", "restore"):
            done = longshored(tmp_path / "data", "--database", url, command, str(tmp_path / "backup"))
            assert done.returncode == 2
            assert "pg_dump" in done.stderr
    assert not (tmp_path / "backup").exists()
