"""The tests of targets run against a container and a directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.worker.targets import DirectorySpec, open_target
from longshore.worker.targets.lxd.target import LxdTarget
from longshore.worker.targets.transport import DaemonEndpoint
from tests.support.workers.pushing import DirectoryPlace, InstanceView, LxdPlace


@pytest.fixture(params=[pytest.param("lxd", marks=pytest.mark.lxd), "directory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[InstanceView]:
    if request.param == "directory":
        opened = open_target(DirectorySpec("t", str(tmp_path)))
        yield DirectoryPlace(tmp_path, opened, "box")
    else:
        daemon = request.getfixturevalue("lxd")
        instance = request.getfixturevalue("box")
        opened = LxdTarget("t", DaemonEndpoint(socket_path=str(daemon.socket)))
        inside = LxdPlace(daemon, opened, instance)
        inside.run("rm -rf /root /etc/longshore && mkdir -p /root")
        yield inside
    opened.close()
