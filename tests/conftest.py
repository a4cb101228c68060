"""What holds for every test: no skipping in CI, and Hypothesis without a clock or a memory."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Fixtures that several folders use.
pytest_plugins = ["tests.support.lxd", "tests.support.postgres", "tests.support.s3", "tests.support.backends"]

# A shared machine is slow at times; that is no finding. CI repeats itself, so that a red build can be looked into.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")


@pytest.fixture(scope="session")
def tree() -> Path:
    """The root of the work tree."""
    return Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs LXD runs in one process, so that there is one daemon."""
    for item in items:
        if item.get_closest_marker("lxd") is not None:
            item.add_marker(pytest.mark.xdist_group("lxd"))


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
