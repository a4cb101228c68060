"""A real worker that has an accident at a chosen point of a delivery.

    python faulty_worker.py [options of longshore-worker]

The environment says where and what:

    ACCIDENT_AT     staged (verified, before the grant is asked for), granted (before the rename), renamed (after it,
                    before the report)
    ACCIDENT        stop (SIGSTOP to itself), kill (SIGKILL to itself), touch (only leaves the mark)
    ACCIDENT_MARK   a file that is created when it happens; while it exists no second accident does
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from longshore.worker.file_push import push
from longshore.worker.main import main
from longshore.worker.targets.directory import target as directory
from longshore.worker.targets.sftp import delivery as sftp_delivery

AT = os.environ["ACCIDENT_AT"]
WHAT = os.environ["ACCIDENT"]
MARK = Path(os.environ["ACCIDENT_MARK"])


def accident(point: str) -> None:
    """Have it, once."""
    if point != AT:
        return
    try:
        MARK.touch(exist_ok=False)
    except FileExistsError:
        return
    if WHAT == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
        # Another thread may take the signal, and this one run on for a moment: let that moment pass here.
        time.sleep(0.2)
    elif WHAT == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


def break_delivery(delivery: Any) -> None:
    """Put the points `granted` and `renamed` around a delivery's commit."""
    commit = delivery.commit

    def broken(self: object, temp: str, path: str, *, replace: bool) -> None:
        accident("granted")
        commit(self, temp, path, replace=replace)
        accident("renamed")

    delivery.commit = broken


def break_staging() -> None:
    """Put the point `staged` before the grant is asked for."""
    commit = push._Attempt._commit

    def broken(self: push._Attempt, staged: push._Staged) -> push.Pushed:
        accident("staged")
        return commit(self, staged)

    push._Attempt._commit = broken  # type: ignore[method-assign]


if __name__ == "__main__":
    break_staging()
    break_delivery(directory.DirectoryDelivery)
    break_delivery(sftp_delivery.SftpDelivery)
    main()
