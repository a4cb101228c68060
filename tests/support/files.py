"""Files that clients upload, and looks at files for tests that run in the event loop."""

from __future__ import annotations

import os
from pathlib import Path

CONTENT = os.urandom((9 << 20) + 4321)
UNTRUE = [Path("/proc/version"), Path("/proc/self/cgroup"), Path("/sys/kernel/mm/transparent_hugepage/enabled")]
"""Files whose size is told as 0, or as a page."""


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def size_of(path: Path) -> int:
    return path.stat().st_size
