"""`make demo-cluster`, smaller: a server and a worker are killed in the middle of a load, and no promise breaks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from scripts.demo_verdict import Line, verdict_of
from tests.support.parts import require
from tests.support.stores.postgres import programs

FILES = 60


@pytest.mark.slow
def test_the_demo_keeps_every_promise(tree: Path) -> None:
    require(programs(), "PostgreSQL's initdb and postgres (install postgresql)")
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo_cluster", "--files", str(FILES)],
        cwd=tree,
        env={name: value for name, value in os.environ.items() if not name.startswith("LONGSHORE_")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every promise was kept." in done.stdout
    assert f"{FILES} of {FILES} uploads accepted" in done.stdout
    assert "kill -9 server s0" in done.stdout
    assert "kill -9 worker-1" in done.stdout


@pytest.mark.parametrize("terminal", [True, False])
def test_a_broken_promise_is_named(terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [Line("whole files", False, "1 of 2"), Line("in order", True, "all")]
    assert not verdict_of(Console(force_terminal=terminal, width=100), lines, "2 files")
    assert "Broken: whole files." in capsys.readouterr().out


@pytest.mark.parametrize("terminal", [True, False])
def test_an_untried_promise_counts_as_unproven(terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [Line("whole files", True, "2 of 2"), Line("sessions move", None, "none had to")]
    assert verdict_of(Console(force_terminal=terminal, width=100), lines, "2 files")
    told = capsys.readouterr().out
    assert "Every promise was kept. Not exercised this time: sessions move." in told
    assert told.count("not exercised") == 1
