"""The version that is running."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Final


def _version() -> str:
    try:
        return installed("longshore")
    except PackageNotFoundError:  # from a checkout that is on the path but not installed
        return "0+unknown"


VERSION: Final = _version()
