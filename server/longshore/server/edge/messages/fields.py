"""Checks of single fields. Each raises InvalidField with the field's path and what to do about it."""

from __future__ import annotations

import re
from typing import Final, TypeVar

from google.protobuf.duration_pb2 import Duration

from longshore.server.model.errors import InvalidField
from longshore.server.model.temps import temps_of

E = TypeVar("E")

DAY: Final = 24 * 3600.0
LONGEST: Final = 366 * DAY
LONGEST_RUN: Final = 7 * DAY

_NAME: Final = re.compile(r"[a-z0-9._-]{1,63}")
_INSTANCE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}(?<!-)")
"""What LXD, Incus and directory targets allow together, and letter for letter the worker's rule (a test compares them).
LXD allows no digit in front and neither `.` nor `_`: such an instance is not found there."""
_LABEL: Final = re.compile(r"[a-z0-9._/-]{1,63}")
_ASCII: Final = re.compile(r"[\x20-\x7e]{1,128}")
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_DOTS: Final = frozenset({".", ".."})

_PATH_BYTES: Final = 4095
"""Linux counts 4096 with the NUL at the end."""
_ROOM_BYTES: Final = 3800
"""Paths up to here leave room for a temp beside them, whatever its name."""
_ANY_ID: Final = "0" * 26
_ANY_ATTEMPT: Final = 2**31 - 1
_COMPONENT_BYTES: Final = 255
_NO_ID: Final = 2**32 - 1
"""As a user or group id, this means "leave it as it is" to chown."""


def name(field: str, value: str, *, default: str = "") -> str:
    """A queue, target or kind: 1 to 63 of `[a-z0-9._-]`; empty means `default`, and is refused without one."""
    if not value and default:
        return default
    if not _NAME.fullmatch(value) or value in _DOTS:
        raise InvalidField(field, f"is {value[:80]!r}; give 1 to 63 characters of [a-z0-9._-].")
    return value


def instance(field: str, value: str) -> str:
    """An instance's name. Never `.` or `..`: a directory target makes a path of it."""
    if not _INSTANCE.fullmatch(value):
        raise InvalidField(
            field,
            f"is {value[:80]!r}; give 1 to 63 letters, digits, '-', '.' or '_', with no '-' or '.' at the beginning "
            "and no '-' at the end.",
        )
    return value


def project(field: str, value: str) -> str:
    """A project's name, or nothing."""
    wrong = len(value) > 63 or value in _DOTS or not value.isprintable() or any(c in "/ " for c in value)
    if wrong:
        raise InvalidField(
            field, f"is {value[:80]!r}; give at most 63 characters without spaces or slashes, or nothing."
        )
    return value


def path(field: str, value: str) -> str:
    """An absolute path of a file, normalised: `//` and `/./` are collapsed, `..` is refused and never resolved,
    since what it leads to depends on links inside the instance."""
    if not value.startswith("/"):
        raise InvalidField(field, f"is {value[:80]!r}; give an absolute path, beginning with a slash.")
    if "\0" in value:
        raise InvalidField(field, "has a NUL byte; no file name can.")
    parts = value.split("/")
    if parts[-1] in ("", "."):
        raise InvalidField(field, "names a folder; give the file's own path, without a slash at the end.")
    if ".." in parts:
        raise InvalidField(field, "has a '..'; give the path without it.")
    for part in parts:
        if len(part.encode()) > _COMPONENT_BYTES:
            raise InvalidField(field, f"has a component of {len(part.encode())} bytes; at most {_COMPONENT_BYTES}.")
    normal = "/" + "/".join(part for part in parts if part not in ("", "."))
    if (size := len(normal.encode())) > _ROOM_BYTES:
        if size > _PATH_BYTES:
            raise InvalidField(field, f"has {size} bytes; at most {_PATH_BYTES}.")
        if len(temps_of(normal, _ANY_ID, _ANY_ATTEMPT)[0].encode()) > _PATH_BYTES:
            raise InvalidField(field, "leaves no room for a temporary file beside it: give a shorter path.")
    return normal


def mode(field: str, value: int) -> int:
    """Permission bits, 0 to 0777."""
    if value > 0o777:
        raise InvalidField(
            field,
            f"is {value:#o}; give 0 to 0o777. setuid, setgid and sticky are not supported over SFTP, whose servers "
            f"drop "
            "them silently.",
        )
    return value


def owner(field: str, value: int) -> int:
    """A user or group id."""
    if value == _NO_ID:
        raise InvalidField(field, f"is {value}, which is no id; leave it unset to keep the owner.")
    return value


def choice(field: str, value: int, kind: type[E], *, default: E) -> E:
    """A value of an enumeration whose 0 means the default."""
    if value == 0:
        return default
    try:
        return kind(value)  # type: ignore[call-arg]
    except ValueError:
        known = ", ".join(f"{one.name} ({one.value})" for one in kind)  # type: ignore[attr-defined]
        raise InvalidField(field, f"is {value}, which this server does not know; give one of {known}.") from None


def seconds(field: str, value: Duration, *, longest: float, zero: bool = False) -> float:
    """A duration in seconds: positive (or zero, if `zero`), at most `longest`."""
    length = value.seconds + value.nanos / 1e9
    valid = abs(value.nanos) < 1_000_000_000 and value.seconds * value.nanos >= 0
    if not valid or length < 0 or length > longest or (length == 0 and not zero):
        least = "0" if zero else "more than 0"
        raise InvalidField(field, f"is {length:g} s; give {least} to {longest:.0f} s.")
    return length


def bounded(field: str, value: int, least: int, most: int) -> int:
    """A whole number in a range."""
    if not least <= value <= most:
        raise InvalidField(field, f"is {value}; give {least} to {most}.")
    return value


def label(field: str, key: str, value: str) -> None:
    """One label: a key of 1 to 63 of `[a-z0-9._/-]`, a value of at most 255 characters."""
    if not _LABEL.fullmatch(key):
        raise InvalidField(field, f"has the key {key[:80]!r}; give 1 to 63 characters of [a-z0-9._/-].")
    if len(value) > 255 or "\0" in value:
        raise InvalidField(f"{field}[{key}]", f"has {len(value)} characters; give at most 255, without NUL.")


def request_id(field: str, value: str) -> str:
    """1 to 128 printable ASCII characters."""
    if not _ASCII.fullmatch(value):
        raise InvalidField(field, f"is {value[:140]!r}; give 1 to 128 printable ASCII characters.")
    return value


def assigned_id(field: str, value: str) -> str:
    """An id that the server gave out."""
    if not _ID.fullmatch(value):
        raise InvalidField(field, f"is {value[:80]!r}, which is no id; give one as the server assigned it.")
    return value
