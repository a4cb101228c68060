"""Ten thousand calls of every kind that nobody should make. `make fuzz` makes a hundred thousand of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fuzzing.campaign import ENVIRONMENT, OPTIONS, run
from tests.support.servers.processes import ServerProcess

CALLS = 10_000
SEED = 20_261_130
"""Always the same calls, as far as the server answers alike: what fails here fails again."""

FLOOR = 0.3
"""Seconds for which a healthy client's p99 is not held against the server here, where other tests have the cores: with
12 processes for 2 cores it was 82 ms alone and 440 ms beside the campaign, and the server's loop was never busy for
60 ms on end. What this test is after takes seconds."""


@pytest.mark.timeout(600)
def test_no_call_makes_the_server_fail_or_a_healthy_client_wait(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, *OPTIONS, environment=ENVIRONMENT) as server:
        report = run(server, calls=CALLS, seed=SEED, floor=FLOOR)
        assert report.problems == [], str(report)
        # This figure tells that most calls get beyond the lock, and many beyond the first check.
        assert report.ends["OK"] > CALLS / 20
        assert server.terminate() == 0
