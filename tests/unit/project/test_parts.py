"""A part of the machine that is missing cannot be hidden by a skip where CI runs."""

from __future__ import annotations

import pytest

from tests.support.parts import Skipped, require


def test_a_missing_part_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    require("there", "the moon")
    with pytest.raises(pytest.fail.Exception, match="one is missing: the moon"):
        require(None, "the moon")


def test_a_missing_part_is_named_by_a_skip_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(Skipped, match="PART MISSING: the moon"):
        require(None, "the moon")
