from __future__ import annotations

import pytest

from longshore.server.model import temps
from longshore.worker.targets import paths


@pytest.mark.parametrize("task_id", ["01JCEXAMPLE000000000000000", "with space", "x" * 65, "ä"])
@pytest.mark.parametrize("path", ["/f", "/etc/motd", "/very/deep/down/there/file.txt"])
@pytest.mark.parametrize("attempt", [1, 12])
def test_server_and_worker_call_temps_the_same(path: str, task_id: str, attempt: int) -> None:
    assert temps.temps_of(path, task_id, attempt) == paths.temps_of(path, task_id, attempt)


def test_every_temp_has_its_own_name_beside_the_destination() -> None:
    names = [
        name for task_id in ("a", "b") for attempt in (1, 2) for name in temps.temps_of("/etc/motd", task_id, attempt)
    ]
    assert len(set(names)) == len(names) == 4 * temps.TRIES_PER_ATTEMPT
    assert all(name.startswith("/etc/.longshore-") and name.endswith(".tmp") for name in names)
