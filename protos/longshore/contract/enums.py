"""Enumerations say how a push treats its destination, and a job its instance. A test compares every member with the
`.proto` file."""

from __future__ import annotations

from enum import IntEnum
from typing import Self, TypeVar


class OpenEnum(IntEnum):
    """An enumeration that prints its names and takes every number.

    A number that this version does not know is a member named by its number, because a newer program may send it.
    """

    def __str__(self) -> str:
        return self.name

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_, member._value_ = f"UNKNOWN_{value}", value
        return member


class IfExists(OpenEnum):
    """The rule for a destination that exists."""

    REPLACE = 1
    FAIL = 2


class WhenStopped(OpenEnum):
    """The rule for an instance that is not running."""

    DELIVER = 1
    WAIT = 2
    FAIL = 3


class WhenAbsent(OpenEnum):
    """The rule for an instance that does not exist."""

    FAIL = 1
    WAIT = 2


class Access(OpenEnum):
    """Whether other tasks of the instance may run beside a job."""

    SHARED = 1
    EXCLUSIVE = 2


class OnPending(OpenEnum):
    """The rule for earlier tasks for the same destination or key."""

    QUEUE = 1
    SUPERSEDE = 2


E = TypeVar("E", bound=IntEnum)


def chosen(number: int, kind: type[E], *, default: E) -> E | None:
    """Return the member with this number, and `default` for 0. None means that this version does not know the
    number."""
    if number == 0:
        return default
    return next((member for member in kind if member == number), None)
