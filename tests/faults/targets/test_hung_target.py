"""P10: what hangs holds up nobody else, on the same worker too."""

from __future__ import annotations

from pathlib import Path

from longshore.client import Client, push_spec
from longshore.v1 import task_pb2
from tests.support.servers.processes import ServerProcess, WorkerProcess, eventually

SCRIPT = Path(__file__).parents[2] / "support" / "workers" / "hanging_worker.py"
RUNNING = task_pb2.TASK_STATE_RUNNING
SUCCEEDED = task_pb2.TASK_STATE_SUCCEEDED


def test_a_hung_target_never_takes_all_of_a_worker(tmp_path: Path) -> None:
    for instance in ("hung/i0", "hung/i1", "hung/i2", "hung/i3", "files/web"):
        (tmp_path / instance).mkdir(parents=True)
    release = tmp_path / "release"
    with (
        ServerProcess(tmp_path) as server,
        Client(server=server.address, token_file=server.token_file) as client,
    ):
        stuck = [
            client.upload(b"x", spec=push_spec(f"hung:i{number % 4}/f{number}", priority=9))[0].id
            for number in range(40)
        ]
        with WorkerProcess(
            server,
            "--concurrency",
            "8",
            targets=[f"hung=directory:{tmp_path / 'hung'}", f"files=directory:{tmp_path / 'files'}"],
            script=SCRIPT,
            environment={"RELEASE": str(release)},
        ):

            def running() -> int:
                return sum(client.get(one).state == RUNNING for one in stuck)

            eventually(lambda: running() == 7, what="seven of eight hang")
            for number in range(20):
                (task,) = client.upload(b"y", spec=push_spec(f"files:web/f{number}"))
                assert client.wait(task.id).state == SUCCEEDED
            assert running() == 7
            release.touch()
            eventually(lambda: all(client.get(one).state == SUCCEEDED for one in stuck), what="and then those too")
