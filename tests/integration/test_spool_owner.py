"""P12: a server removes what its database does not know, so that it must know whose spool it has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from longshore.v1 import task_pb2
from tests.support.processes import ServerProcess
from tests.support.stage import staged

LARGE = bytes(range(256)) * 1024


def refusal(server: ServerProcess) -> str:
    """What it says when it does not start."""
    done = subprocess.run(
        [sys.executable, "-m", "longshore.server.main", *server.argv[3:]],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_another_databases_spool_is_refused_and_left_alone(tmp_path: Path) -> None:
    with staged(tmp_path / "first") as first:
        first.push(LARGE)
        spool = first.server.data / "spool"
        first.server.terminate()
        before = sorted(spool.rglob("*"))
        said = refusal(ServerProcess(tmp_path / "second", "--spool", f"file://{spool}"))
        assert "--spool" in said
        assert "belongs to another database" in said
        assert sorted(spool.rglob("*")) == before


def test_a_data_directory_from_before_identities_is_opened_and_gets_one(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        task_id = stage.push(LARGE)
        stage.server.terminate()
        identity = stage.server.data / "spool" / "identity"
        identity.unlink()
        stage.server.start()
        assert identity.stat().st_size > 0
        with stage.worker():
            stage.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED)
