"""These rules hold for every test: no skipping in CI, Hypothesis without a clock or a memory, children that end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import children

# Fixtures that several folders use.
pytest_plugins = [
    "tests.support.workers.lxd",
    "tests.support.stores.postgres",
    "tests.support.stores.s3",
    "tests.support.stores.backends",
]

# `nohup make test &` and some runners of CI start this process with signals ignored, and what is ignored stays ignored
# in every child: three tests of Ctrl-C interrupted programs that could not hear it. A handler is not inherited.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, lambda *_: None)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

# Tests start the programs more than a thousand times. Images of containers set PYTHONDONTWRITEBYTECODE, with which each
# start compiles the whole tree anew: 3.9 instead of 2.6 billion instructions for `longshored --version`.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shared machine is slow at times; that is no finding. CI repeats itself, so that a red build can be looked into.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")


@pytest.fixture(scope="session")
def tree() -> Path:
    """The root of the work tree."""
    return Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all tests that need LXD in one process, so that there is one daemon."""
    for item in items:
        if item.get_closest_marker("lxd") is not None:
            item.add_marker(pytest.mark.xdist_group("lxd"))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """A test that fails while it waits for a process leaves the process to nobody else."""
    children.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that skips itself has failed: there every part is expected to be present."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped itself, which CI=true does not allow: {report.longrepr}"
    return report
