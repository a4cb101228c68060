"""This module has the base of all commands."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Generic, TypeVar

R = TypeVar("R", covariant=True)


class Urgency(IntEnum):
    """Order in which waiting commands enter a transaction. `SUBMIT` is bounded in bytes and refuses
    (StoreOverloaded)."""

    LEASE = 0
    CONTROL = 1
    SUBMIT = 2
    MAINTENANCE = 3


class Command(Generic[R]):
    """Base of all commands."""

    __slots__ = ()
    urgency: ClassVar[Urgency] = Urgency.CONTROL

    @property
    def weight(self) -> int:
        """How much of a batch the command fills: the tasks that it makes, or 1."""
        return 1

    @property
    def held_bytes(self) -> int:
        """About how much memory the command holds while it waits."""
        return 1024
