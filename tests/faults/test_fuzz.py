"""Ten thousand calls of every kind that nobody should make. `make fuzz` makes a hundred thousand of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fuzzing.campaign import ENVIRONMENT, OPTIONS, run
from tests.support.processes import ServerProcess

CALLS = 10_000
SEED = 20_261_130
"""Always the same calls, as far as the server answers alike: what fails here fails again."""


@pytest.mark.timeout(600)
def test_no_call_makes_the_server_fail_or_a_healthy_client_wait(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, *OPTIONS, environment=ENVIRONMENT) as server:
        report = run(server, calls=CALLS, seed=SEED)
        assert report.problems == [], str(report)
        # What is told by it: most calls get beyond the lock, and many beyond the first check.
        assert report.ends["OK"] > CALLS / 20
        assert server.terminate() == 0
