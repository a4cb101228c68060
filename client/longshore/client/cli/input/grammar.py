"""This module reads what a user types on the command line. Its pure functions raise ValueError with a remedy."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from longshore.program import durations

_MODE: Final = re.compile(r"(?:0o?)?[0-7]{1,3}")
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")


def parse_duration(text: str) -> float:
    """Read the seconds of `30s`, `5m`, `1h30m` or `0`. A number without a unit is refused: its unit would be a
    guess."""
    try:
        return durations.parse_duration(text)
    except ValueError as error:
        raise ValueError(f"{text[:80]!r} is {error}") from None


def parse_mode(text: str) -> int:
    """Permission bits from octal digits: `644`, `0644` or `0o644`."""
    if not _MODE.fullmatch(text):
        raise ValueError(f"{text!r} is no mode; give octal digits from 0 to 777, such as 644")
    return int(text.removeprefix("0o"), 8)


def parse_push_mode(text: str) -> int | Literal["source"]:
    """Permission bits as `parse_mode` reads them, or the word `source`."""
    return "source" if text == "source" else parse_mode(text)


def parse_label(text: str) -> tuple[str, str]:
    """`KEY=VALUE`; the value may be empty and may contain `=`."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"{text!r} is no label; write KEY=VALUE")
    return key, value


def parse_sha256(text: str) -> bytes | Literal["compute"]:
    """64 hexadecimal digits, or the word `compute`."""
    if text == "compute":
        return "compute"
    if not _SHA256.fullmatch(text):
        raise ValueError(f"{text!r} is no SHA-256; give 64 hexadecimal digits, or `compute`")
    return bytes.fromhex(text)


def parse_moment(text: str, *, now: datetime) -> datetime:
    """Read an ISO 8601 time, local unless it has a zone, or a duration that reaches back from now."""
    if durations.is_duration(text):
        return now - timedelta(seconds=parse_duration(text))
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:80]!r} is no time; write 2h for two hours ago, or 2026-01-31T08:00") from None


def format_size(size: int) -> str:
    """Write bytes for people: `987 B`, `1.5 KiB`, `20 MiB`."""
    if size < 1024:
        return f"{size} B"
    value, unit = float(size), "B"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):  # noqa: B007 - the unit where it ends is what counts
        value /= 1024
        if value < 1023.5:
            break
    return f"{value:.0f} {unit}" if value >= 9.95 else f"{value:.1f} {unit}"
