"""Parts of the machine that a test needs. Missing: a failure in CI, a loud skip elsewhere."""

from __future__ import annotations

import os
import shutil

import pytest

Skipped = pytest.skip.Exception


def require(condition: object, what: str) -> None:
    """Go on only if `condition` holds; `what` says what is missing and how to get it."""
    if condition:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have every part, and here one is missing: {what}", pytrace=False)
    pytest.skip(f"PART MISSING: {what}")


def require_program(name: str, package: str) -> str:
    """The path of a program."""
    found = shutil.which(name)
    require(found, f"the program {name} (install {package})")
    assert found is not None
    return found


def require_root() -> None:
    """Tests that mount, chown or start daemons."""
    require(os.geteuid() == 0, "root")
