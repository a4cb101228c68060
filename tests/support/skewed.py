"""Processes whose wall clock is wrong."""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = Path(__file__).with_name("skew")


def skewed(seconds: float) -> dict[str, str]:
    """The environment of a Python process that believes it is so much later."""
    return {"PYTHONPATH": _path(), "CLOCK_SKEW": repr(seconds)}


def skewed_by(file: Path) -> dict[str, str]:
    """The environment of one that believes it is as many seconds later as that file says at the moment."""
    return {"PYTHONPATH": _path(), "CLOCK_SKEW_FILE": str(file)}


def _path() -> str:
    return os.pathsep.join([str(_FOLDER), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
