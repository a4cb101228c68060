"""P1, P3: under a mixed load, while the server and a worker are killed, every acknowledged task ends as it should.

This is the row `soak` of the bench in its short form. The long one also shows that nothing grows.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.rows.soak import soak
from bench.support.run import Run

pytestmark = [pytest.mark.faults, pytest.mark.slow]

KINDS = {
    "small upload",
    "large upload",
    "small file",
    "job",
    "watched job",
    "streamed job",
    "cancelled job",
    "failing job",
    "retried job",
    "flaky job",
}


@pytest.mark.timeout(400)
async def test_acknowledged_tasks_end_truthfully_and_are_forgotten_in_time(tmp_path: Path) -> None:
    soaked = await soak(Run("soak", tmp_path, rounds=1), 0.6, kept=15.0, server_kills=2)
    assert soaked.account.wrong == []
    assert soaked.account.ended.keys() == KINDS
    assert soaked.kills >= 4
    # The history is purged often enough, and not once an hour.
    assert soaked.remembered < 0.9 * soaked.account.ended.total()
