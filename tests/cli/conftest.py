"""One server with one worker for the whole folder; each test has an instance of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commandline import CommandLine
from tests.support.servers.processes import eventually
from tests.support.servers.stage import Stage, staged


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[Stage]:
    """A server, and a worker that is connected, for a directory of instance roots."""
    with staged(tmp_path_factory.mktemp("cli")) as stage, stage.worker():
        eventually(stage.client.workers, what="the worker")
        yield stage


@pytest.fixture
def instance(stage: Stage, request: pytest.FixtureRequest) -> str:
    """An instance that no other test uses, with a folder /etc in it."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:60].strip("-")
    (stage.instances / name / "etc").mkdir(parents=True)
    return name


@pytest.fixture
def root(stage: Stage, instance: str) -> Path:
    """Return the folder with the instance's files."""
    return stage.instances / instance


@pytest.fixture
def cli(stage: Stage, tmp_path: Path) -> CommandLine:
    """`longshore` against that server, in a folder of its own with a file `motd`."""
    (tmp_path / "motd").write_text("hello\n")
    return CommandLine(address=stage.server.address, data_dir=stage.server.data, folder=tmp_path)
