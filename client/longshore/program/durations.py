"""Durations as people write them: in options, in the environment and in files of settings."""

from __future__ import annotations

import re
from typing import Final

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_LONGEST: Final = 36_500 * 86400.0
"""Seconds. No calendar has a date that is farther away."""
_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)\s*(ms|[smhdw])")
_BARE: Final = re.compile(r"\d+\.?\d*|\.\d+")


def parse_duration(text: str, *, bare: bool = False) -> float:
    """Read the seconds of `30s`, `5m`, `2h`, `7d`, `1w`, `500ms`, `1.5h`, of several of them (`1h30m`), or of `0`.

    With `bare` a number without a unit counts seconds, as in settings that were numbers of seconds once. Raises
    ValueError, whose text goes on where the subject was named: "longer than …".
    """
    left, total, parts = text.strip(), 0.0, 0
    while match := _PART.match(left):
        total += float(match[1]) * _SECONDS[match[2]]
        left, parts = left[match.end() :], parts + 1
    if _BARE.fullmatch(left) and (bare or (left == "0" and not parts)):
        total, left, parts = total + float(left), "", parts + 1
    if left or not parts:
        raise ValueError("no duration; write it like 30s, 5m, 2h, 7d or 1h30m")
    if total > _LONGEST:
        raise ValueError("longer than 36500d; write a shorter duration")
    return total


def is_duration(text: str) -> bool:
    """Tell whether `parse_duration` reads a text with units, however long the duration is."""
    return bool(text) and not _PART.sub("", text).strip()
