"""What can be told of names, paths and durations before a server is asked: the same rules as the server's, in the words
of the command line. What is let through here may still be refused there."""

from __future__ import annotations

import re
from typing import Final

from longshore.client.errors import ConfigurationError
from longshore.v1 import task_pb2

_NAME: Final = re.compile(r"[a-z0-9._-]{1,63}")
_INSTANCE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}(?<!-)")
_LABEL_KEY: Final = re.compile(r"[a-z0-9._/-]{1,63}")
_REQUEST_ID: Final = re.compile(r"[\x20-\x7e]{1,128}")
_DOTS: Final = frozenset({".", ".."})
_PATH_BYTES: Final = 4095
_COMPONENT_BYTES: Final = 255
_VALUE_LENGTH: Final = 255
_REASON_LENGTH: Final = 500
_LONGEST: Final = 366 * 86400.0
_LONGEST_RUN: Final = 7 * 86400.0
OWNERS: Final = 2**32 - 2
"""The highest user or group id: the one above means "leave it as it is" to chown."""


def name(text: str) -> str:
    """A queue, a target or a kind. Raises ValueError."""
    if text and (not _NAME.fullmatch(text) or text in _DOTS):
        raise ValueError(f"{text[:80]!r} is no name; give 1 to 63 of the characters a-z 0-9 . _ -")
    return text


def instance(text: str) -> str:
    """An instance. Raises ValueError."""
    if text and not _INSTANCE.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is no name of an instance; give 1 to 63 of the characters A-Z a-z 0-9 . _ -, with no '-' "
            "or '.' at the beginning and no '-' at the end"
        )
    return text


def label(key: str, value: str) -> None:
    """One label. Raises ValueError."""
    if not _LABEL_KEY.fullmatch(key):
        raise ValueError(f"{key[:80]!r} is no key of a label; give 1 to 63 of the characters a-z 0-9 . _ / -")
    if len(value) > _VALUE_LENGTH:
        raise ValueError(f"the value of {key!r} has {len(value)} characters; at most {_VALUE_LENGTH}")


def request_id(text: str) -> str:
    """A request id. Raises ValueError."""
    if text and not _REQUEST_ID.fullmatch(text):
        raise ValueError(f"{text[:140]!r} is no request id; give 1 to 128 printable ASCII characters")
    return text


def reason(text: str) -> str:
    """A reason for a cancel. Raises ValueError."""
    if len(text) > _REASON_LENGTH:
        raise ValueError(f"it has {len(text)} characters; at most {_REASON_LENGTH}")
    return text


def waits(seconds: float) -> float:
    """A time from now. Raises ValueError."""
    if seconds > _LONGEST:
        raise ValueError("at most 366d")
    return seconds


def expires(seconds: float) -> float:
    """A time from now that is not now. Raises ValueError."""
    if seconds <= 0:
        raise ValueError("give more than 0")
    return waits(seconds)


def runs(seconds: float) -> float:
    """The length of an attempt. Raises ValueError."""
    if seconds <= 0:
        raise ValueError("give more than 0")
    if seconds > _LONGEST_RUN:
        raise ValueError("at most 7d")
    return seconds


def destination(text: str, to: task_pb2.Destination) -> task_pb2.Destination:
    """A destination that was read from `text`. Raises ConfigurationError."""
    try:
        name(to.target)
    except ValueError:
        raise ConfigurationError(
            f"{text}: {to.target[:80]!r} is no name of a target; it has 1 to 63 of the characters a-z 0-9 . _ -"
        ) from None
    try:
        instance(to.instance)
    except ValueError as error:
        raise ConfigurationError(f"{text}: {error}") from None
    wrong = _wrong_path(to.path)
    if wrong:
        raise ConfigurationError(f"{text}: {wrong}")
    return to


def _wrong_path(path: str) -> str:
    """What is wrong with it; empty: nothing is."""
    parts = path.split("/")
    if ".." in parts:
        return "the path has '..'; give it without"
    if "\0" in path:
        return "the path has a NUL byte, which no file name can have"
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return "the path is not UTF-8"
    if sum(lengths) + len(parts) - 1 > _PATH_BYTES:
        return f"the path has more than {_PATH_BYTES} bytes"
    if max(lengths) > _COMPONENT_BYTES:
        return f"a name in the path has {max(lengths)} bytes; at most {_COMPONENT_BYTES}"
    if parts[-1] in {"", "."}:
        return "the path names a folder; add the name that the file gets there"
    return ""


def together(*, not_before: float | None, expire_after: float | None) -> None:
    """What two options say together. Raises ConfigurationError."""
    if not_before is not None and expire_after is not None and not_before >= expire_after:
        raise ConfigurationError("--not-before is not before --expire-after: the task would expire unstarted")
