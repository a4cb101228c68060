"""Ctrl-C in a program that waits with the blocking client."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.support.stage import staged

PROGRAM = """
import sys
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
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"LONGSHORE_SERVER": stage.server.address, "LONGSHORE_DATA_DIR": str(stage.server.data)},
            text=True,
        )
        assert program.stdout is not None
        task_id = program.stdout.readline().strip()
        assert len(task_id) == 26
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=30)
        assert (program.returncode, out.strip(), err) == (0, "False", "")
