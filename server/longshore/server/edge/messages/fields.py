"""Checks of single fields. Each raises InvalidField with the field's path and what to do about it."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration

from longshore.contract import enums, limits, names, paths
from longshore.server.model.errors import InvalidField

E = TypeVar("E", bound=IntEnum)


def name(field: str, value: str, *, default: str = "") -> str:
    """Check the name of a queue, target or kind. Empty means `default`, and is refused where there is no default."""
    if not value and default:
        return default
    if wrong := names.wrong_name(value):
        raise InvalidField(field, f"is {value[:80]!r}; {wrong}.")
    return value


def instance(field: str, value: str) -> str:
    """Check an instance's name."""
    if wrong := names.wrong_instance(value):
        raise InvalidField(field, f"is {value[:80]!r}; {wrong}.")
    return value


def project(field: str, value: str) -> str:
    """Check a project's name, which may be empty."""
    if wrong := names.wrong_project(value):
        raise InvalidField(field, f"is {value[:80]!r}; {wrong}.")
    return value


def key(field: str, value: str) -> str:
    """Check the key of jobs, which may be empty."""
    if wrong := names.wrong_key(value):
        raise InvalidField(field, f"{wrong}.")
    return value


def path(field: str, value: str) -> str:
    """Check an absolute path of a file, and return its one spelling."""
    if wrong := paths.wrong_destination(value):
        raise InvalidField(field, f"{wrong.text}.")
    return paths.spelled(value)


def mode(field: str, value: int) -> int:
    """Check permission bits, 0 to 0777."""
    if wrong := limits.wrong_mode(value):
        raise InvalidField(field, f"is {value:#o}; {wrong}.")
    return value


def owner(field: str, value: int) -> int:
    """Check a user or group id."""
    if wrong := limits.wrong_owner(value):
        raise InvalidField(field, f"is {value}, which is no id; {wrong}.")
    return value


def choice(field: str, value: int, kind: type[E], *, default: E) -> E:
    """Check a value of an enumeration whose 0 means the default."""
    found = enums.chosen(value, kind, default=default)
    if found is None:
        known = ", ".join(f"{one.name} ({one.value})" for one in kind)
        raise InvalidField(field, f"is {value}, which this server does not know; give one of {known}.")
    return found


def seconds(field: str, value: Duration, *, longest: float, zero: bool = False) -> float:
    """Return a duration in seconds: positive (or zero, if `zero`), at most `longest`."""
    length = value.seconds + value.nanos / 1e9
    wrong = limits.wrong_seconds(length, longest=longest, zero=zero)
    if wrong is None and not (abs(value.nanos) < 1_000_000_000 and value.seconds * value.nanos >= 0):
        wrong = "give seconds and nanos of one sign, and less than 1,000,000,000 nanos"
    if wrong:
        raise InvalidField(field, f"is {length:g} s; {wrong}.")
    return length


def bounded(field: str, value: int, least: int, most: int) -> int:
    """Check a whole number in a range."""
    if not least <= value <= most:
        raise InvalidField(field, f"is {value}; give {least} to {most}.")
    return value


def label(field: str, key: str, value: str) -> None:
    """Check one label."""
    if wrong := names.wrong_label_key(key):
        raise InvalidField(field, f"has the key {key[:80]!r}; {wrong}.")
    if wrong := names.wrong_label_value(value):
        raise InvalidField(f"{field}[{key}]", f"{wrong}.")


def request_id(field: str, value: str) -> str:
    """Check a request id: 1 to 128 printable ASCII characters."""
    if wrong := names.wrong_request_id(value):
        raise InvalidField(field, f"is {value[:140]!r}; {wrong}.")
    return value


def assigned_id(field: str, value: str) -> str:
    """Check an id that the server gave out."""
    if wrong := names.wrong_assigned_id(value):
        raise InvalidField(field, f"is {value[:80]!r}, which is no id; {wrong}.")
    return value
