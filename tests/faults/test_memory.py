"""P3: memory does not grow with the size of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from longshore.v1 import task_pb2
from tests.support.servers.stage import staged

GIB = 1 << 30
MIB = 1 << 20


@pytest.mark.embedded("two GiB are too much for an object store in memory")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("shared", [True, False], ids=["spool read in place", "spool downloaded"])
def test_2_gib_pass_in_150_mib_each(tmp_path: Path, *, shared: bool, record_property: Callable[..., None]) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(2 * GIB)
        file.seek(GIB)
        file.write(b"something in the middle")
    options = () if shared else ("--no-share-spool",)
    with staged(tmp_path / "stage", *options) as stage, stage.worker() as worker:
        task_id = stage.push(large)
        stage.reaches(task_id, task_pb2.TASK_STATE_SUCCEEDED, within=120)
        assert (stage.instances / "web" / "etc" / "motd").stat().st_size == 2 * GIB
        server_peak, worker_peak = stage.server.resident(peak=True), worker.resident(peak=True)
    record_property("server_peak_mib", server_peak // MIB)
    record_property("worker_peak_mib", worker_peak // MIB)
    assert server_peak <= 150 * MIB, f"server: {server_peak / MIB:.0f} MiB"
    assert worker_peak <= 150 * MIB, f"worker: {worker_peak / MIB:.0f} MiB"
