"""This module reads the durations that people write in options and settings, and writes durations for people."""

from __future__ import annotations

import re
from typing import Final

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_LONGEST: Final = 36_500 * 86400.0
"""Seconds. No calendar has a date that is farther away."""
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "m"))
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


def format_duration(seconds: float) -> str:
    """Write a duration for an output, in at most two units: `40ms`, `1.4s`, `12s`, `3m05s`, `2h10m`, `7d3h`."""
    if 0 < seconds < 0.9995:
        return f"{max(round(seconds * 1000), 1)}ms"
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f}".rstrip("0").rstrip(".") + "s"
    return _two_units(round(seconds), digits=2)


def format_span(seconds: float) -> str:
    """Write a duration for a sentence, in whole seconds and at most two units: `0s`, `12s`, `1m1s`, `7d3h`."""
    return _two_units(round(seconds), digits=1)


def format_took(seconds: float) -> str:
    """Write a duration for a log record, in one unit: `19 ms`, `1.4 s`, `3 min`."""
    if seconds < 1:
        return f"{max(seconds, 0.0) * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _two_units(seconds: int, *, digits: int) -> str:
    """Write the two largest units. Minutes and seconds behind another unit have at least so many digits."""
    if seconds < 60:
        return f"{seconds}s"
    for (size, unit), (smaller, its) in zip(_UNITS, (*_UNITS[1:], (1, "s")), strict=True):
        if seconds >= size:
            count, rest = divmod(seconds, size)
            width = 1 if its == "h" else digits
            return f"{count}{unit}{rest // smaller:0{width}}{its}" if rest >= smaller else f"{count}{unit}"
    raise AssertionError(seconds)
