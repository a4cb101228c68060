"""A real worker one of whose directory targets hangs: the one named `hung`, for as long as a file is not there.

    python hanging_worker.py [options of longshore-worker]

RELEASE in the environment names the file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from longshore.worker.main import main
from longshore.worker.targets.base import Delivery
from longshore.worker.targets.directory.target import DirectoryTarget

RELEASE = Path(os.environ["RELEASE"])

_open = DirectoryTarget.open


def hang(
    self: DirectoryTarget, project: str, instance: str, *, check: Callable[[], None] = lambda: None, **more: Any
) -> AbstractContextManager[Delivery]:
    while self.name == "hung" and not RELEASE.exists():
        check()
        time.sleep(0.02)
    return _open(self, project, instance, check=check, **more)


if __name__ == "__main__":
    DirectoryTarget.open = hang  # type: ignore[assignment, method-assign]
    main()
