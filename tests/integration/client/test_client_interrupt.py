"""Ctrl-C in a program that waits with the blocking client."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import children
from tests.support.children import leashed
from tests.support.servers.stage import staged

PROGRAM = """
import sys
import tempfile
from longshore.client import Client, push_spec
from longshore.v1.task_pb2 import WHEN_ABSENT_WAIT

with Client() as client:
    [task] = client.upload(b"x", spec=push_spec("absent/etc/x", when_absent=WHEN_ABSENT_WAIT))
    try:
        print(task.id, flush=True)
        client.wait(task.id)
    except KeyboardInterrupt:
        # The client goes on being useful.
        print(client.get(task.id).done, flush=True)
"""


def test_an_interrupt_ends_the_wait_and_nothing_else(tmp_path: Path) -> None:
    with staged(tmp_path) as stage:
        program = leashed(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"LONGSHORE_SERVER": stage.server.address, "LONGSHORE_DATA_DIR": str(stage.server.data)},
                text=True,
            )
        )
        assert program.stdout is not None
        task_id = program.stdout.readline().strip()
        assert len(task_id) == 26
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=30)
        assert (program.returncode, out.strip(), err) == (0, "False", "")


def test_tests_of_interrupts_hold_where_interrupts_are_ignored(tree: Path) -> None:
    """As under `nohup make test &`, and on some runners of CI.

    The folder is short: below `tmp_path`, which has this test's name, a socket's path has more than 107 bytes.
    """
    mine = f"{Path(__file__).relative_to(tree)}::test_an_interrupt_ends_the_wait_and_nothing_else"
    with tempfile.TemporaryDirectory(prefix="ls-") as folder:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}/t", mine]
        deaf = ["/bin/sh", "-c", 'trap "" INT HUP; exec "$@"', "sh", *command]
        done = subprocess.run(deaf, cwd=tree, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout


def test_a_wait_that_fails_leaves_no_process() -> None:
    program = children.leashed(subprocess.Popen(["sleep", "300"], stdout=subprocess.PIPE))
    children.end()
    assert program.returncode == -signal.SIGKILL
