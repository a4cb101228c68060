"""A real worker that writes down every rename right before it: time and temp, one line each.

RECORD=FILE python recording_worker.py [options of longshore-worker]
"""

from __future__ import annotations

import os
import time

from longshore.worker.main import main
from longshore.worker.targets.directory.target import DirectoryDelivery


def record_renames(file: int) -> None:
    commit = DirectoryDelivery.commit

    def recorded(self: DirectoryDelivery, temp: str, path: str, *, replace: bool) -> None:
        # One write to a file opened for appending: whole lines, whoever else writes.
        os.write(file, f"{time.time()} {temp}\n".encode())
        commit(self, temp, path, replace=replace)

    DirectoryDelivery.commit = recorded  # type: ignore[method-assign]


if __name__ == "__main__":
    record_renames(os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    main()
