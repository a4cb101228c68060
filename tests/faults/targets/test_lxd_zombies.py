"""P6 and settling against a real container: the rename is LXD's to do, and may come when its worker is long gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.v1 import task_pb2
from tests.support.servers.processes import WorkerProcess, eventually
from tests.support.servers.stage import FAULTY, Stage, staged
from tests.support.workers.lxd import LxdDaemon

pytestmark = pytest.mark.lxd

OLD, NEW = b"old content\n", b"new content\n"


class Container:
    """The shared instance, and one file in it."""

    def __init__(self, stage: Stage, lxd: LxdDaemon, box: str, folder: str) -> None:
        self.stage, self.lxd, self.box, self.folder = stage, lxd, box, folder
        self.path = f"{folder}/motd"
        lxd.run_in(box, f"mkdir -p {folder} && echo 'old content' > {self.path}")

    @property
    def content(self) -> bytes:
        return self.lxd.read(self.box, self.path)

    def temps(self) -> str:
        return self.lxd.run_in(self.box, f"find {self.folder} -name '.longshore-*'").strip()

    def worker(self, name: str, at: str = "", what: str = "") -> WorkerProcess:
        accident = {"ACCIDENT_AT": at, "ACCIDENT": what, "ACCIDENT_MARK": str(self.stage.mark)}
        return WorkerProcess(
            self.stage.server,
            name=name,
            targets=[f"default=lxd:{self.lxd.socket}"],
            script=FAULTY if at else None,
            environment=accident,
        )

    def push(self) -> str:
        return self.stage.push(NEW, f"{self.box}{self.path}")


@pytest.fixture
def container(tmp_path: Path, lxd: LxdDaemon, box: str) -> Iterator[Container]:
    with staged(tmp_path, "--lease", "2s") as stage:
        yield Container(stage, lxd, box, f"/srv/{tmp_path.name}")


def test_removed_a_rename_that_was_slept_over_never_happens(container: Container) -> None:
    stage = container.stage
    with container.worker("faulty", "granted", "stop") as zombie:
        task_id = container.push()
        eventually(zombie.stopped, what="the worker stands still")
        stage.client.cancel(task_id)
        stage.reaches(task_id, task_pb2.TASK_STATE_SETTLING)
        with container.worker("healthy"):
            stage.reaches(task_id, task_pb2.TASK_STATE_CANCELLED)
            zombie.resume()
            eventually(
                lambda: "worker_connected" in stage.server.log().rpartition("session_lost")[2], what="it is back"
            )
            eventually(lambda: not container.temps(), what="no temp is left")
    assert stage.outcomes(task_id) == ["LOST", "SETTLED_REMOVED"]
    assert container.content == OLD


def test_landed_a_worker_killed_right_after_its_rename_has_delivered(container: Container) -> None:
    stage = container.stage
    with container.worker("faulty", "renamed", "kill"):
        task_id = container.push()
        stage.reaches(task_id, task_pb2.TASK_STATE_SETTLING)
        with container.worker("healthy"):
            stage.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
    assert stage.outcomes(task_id) == ["LOST", "SETTLED_LANDED"]
    assert container.content == NEW


def test_an_unknown_outcome_is_reported_as_unknown(container: Container) -> None:
    stage = container.stage
    with container.worker("faulty", "granted", "stop") as zombie:
        task_id = container.push()
        eventually(zombie.stopped, what="the worker stands still")
        zombie.kill()
    container.lxd.run_in(container.box, f"rm {container.temps()}")
    stage.client.cancel(task_id)
    with container.worker("healthy"):
        failed = stage.reaches(task_id, task_pb2.TASK_STATE_FAILED)
    assert failed.error.reason == "OUTCOME_UNKNOWN"
    assert container.content == OLD
