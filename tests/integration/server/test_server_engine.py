"""A defect in the loops behind the services ends the server: one that serves and dispatches nothing would look well."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.servers.processes import Process, ServerProcess, eventually

BROKEN = """
import asyncio, os
from pathlib import Path
from longshore.server import main
from longshore.server.engine.dispatch import Dispatcher

async def fail(self):
    while not os.path.exists(os.environ["FAIL_NOW"]):
        await asyncio.sleep(0.02)
    raise RuntimeError("a defect")

Dispatcher.run = fail
main.main()
"""


def test_a_failed_dispatcher_ends_the_server_for_a_restart(tmp_path: Path) -> None:
    mark, script = tmp_path / "now", tmp_path / "broken.py"
    script.write_text(BROKEN)
    server = ServerProcess(tmp_path, environment={"FAIL_NOW": str(mark)})
    server.argv = [sys.executable, str(script), *server.argv[3:]]
    with server:
        mark.touch()
        eventually(lambda: not server.running, what="the end of the server")
        assert server.process.returncode == 1
        (failure,) = server.events("engine_failed")
        assert "a defect" in failure["exception"]
        assert list(server.events("stopped"))


def test_a_start_that_fails_late_leaves_nothing_running(tmp_path: Path) -> None:
    """The address is the last thing that is taken: everything before it is let go of."""
    with ServerProcess(tmp_path) as first:
        argv = [sys.executable, "-m", "longshore.server.main", "--data-dir", str(tmp_path / "other")]
        with Process(name="second", root=tmp_path, argv=[*argv, "--listen", first.address]) as second:
            assert second.process.wait(20) == 2
            assert "Traceback" not in second.log()
        with ServerProcess(tmp_path / "third", "--data-dir", str(tmp_path / "other")) as third:
            assert third.running
