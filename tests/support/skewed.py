"""Processes whose wall clock is wrong."""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = Path(__file__).with_name("skew")


def skewed(seconds: float) -> dict[str, str]:
    """The environment of a Python process that believes it is so much later."""
    path = os.pathsep.join([str(_FOLDER), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {"PYTHONPATH": path, "CLOCK_SKEW": repr(seconds)}
