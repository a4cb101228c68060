"""P12: a server removes what its database does not know, so that it must know whose spool it has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from longshore.v1 import task_pb2
from tests.support.servers.processes import ServerProcess
from tests.support.servers.stage import staged

LARGE = bytes(range(256)) * 1024


def refusal(server: ServerProcess) -> str:
    """Return the error of a server that does not start."""
    done = subprocess.run(
        server.argv,
        env=server.environment,
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
        first.server.terminate()
        before = first.server.leftovers(), first.server.spooled()
        place = ("--spool", first.server.spool)
        said = refusal(ServerProcess(tmp_path / "second", *place, environment=first.server.environment))
        assert "--spool" in said
        assert "belongs to another database" in said
        assert (first.server.leftovers(), first.server.spooled()) == before


@pytest.mark.embedded("only data directories are from before there were identities")
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
