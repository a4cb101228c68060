"""Enumerations of the model. Names are the contract's without their prefixes; values are what the database stores."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class State(IntEnum):
    """The state of a task; numbered as in the contract."""

    BLOCKED = 1
    SCHEDULED = 2
    QUEUED = 3
    RUNNING = 4
    COMMITTING = 5
    CANCELLING = 6
    SETTLING = 7
    SUCCEEDED = 8
    FAILED = 9
    CANCELLED = 10
    EXPIRED = 11

    terminal: bool

    def __init__(self, number: int) -> None:
        # Not a property: each step of a task asks nine times, and a call takes 40 ns.
        self.terminal = number >= 8


LIVE: Final = frozenset(state for state in State if not state.terminal)
TERMINAL: Final = frozenset(state for state in State if state.terminal)
WAITING: Final = frozenset({State.BLOCKED, State.SCHEDULED, State.QUEUED})
"""States in which no worker has the task and none has been granted a commit: cancel and expiry end them at once."""


class WaitReason(IntEnum):
    """The condition that keeps a task from running; numbered as in the contract."""

    NONE = 0
    NOT_BEFORE = 1
    BACK_OFF = 2
    INSTANCE_STOPPED = 3
    INSTANCE_ABSENT = 4
    EARLIER_TASK = 5
    SETTLING = 6
    NO_WORKER = 7
    """This reason and those up to NEXT are found out when a task is read, and never stored."""
    NO_HANDLER = 8
    QUEUE_PAUSED = 9
    INSTANCE_LIMIT = 10
    TARGET_LIMIT = 11
    NO_CREDIT = 12
    NO_IDLE_WORKER = 13
    NEXT = 14
    AFTER = 19
    EXCLUSIVE = 20
    OLD_WORKERS = 22


PARKED: Final = frozenset({WaitReason.INSTANCE_STOPPED, WaitReason.INSTANCE_ABSENT})


class Outcome(IntEnum):
    """How a worker says that an attempt ended; numbered as in the contract."""

    OK = 1
    TRANSIENT = 2
    PERMANENT = 3
    NOT_READY = 4
    HANDED_BACK = 5
    STOPPED = 6
    UNKNOWN = 7
    SETTLED_REMOVED = 8
    SETTLED_LANDED = 9
    SETTLED_NEITHER = 10


class AttemptEnd(StrEnum):
    """How an attempt ended, as its history tells it."""

    OK = "OK"
    TRANSIENT = "TRANSIENT"
    PERMANENT = "PERMANENT"
    NOT_READY = "NOT_READY"
    HANDED_BACK = "HANDED_BACK"
    STOPPED = "STOPPED"
    UNKNOWN = "UNKNOWN"
    LOST = "LOST"
    NEVER_ARRIVED = "NEVER_ARRIVED"
    TIMED_OUT = "TIMED_OUT"
    SETTLED_REMOVED = "SETTLED_REMOVED"
    SETTLED_LANDED = "SETTLED_LANDED"
    SETTLED_NEITHER = "SETTLED_NEITHER"
    OVERTAKEN = "OVERTAKEN"
    """A settling attempt whose question something else answered meanwhile."""


class SessionEnd(IntEnum):
    """How a session ended; numbered as in the contract."""

    NONE = 0
    """The session lives, or a server of an older version saw its end."""
    LEFT = 1
    LOST = 2
    REPLACED = 3


class Settlement(IntEnum):
    """The finding of a settlement; numbered as in the contract."""

    REMOVED = 1
    LANDED = 2
    NEITHER = 3


class DeliveryMethod(IntEnum):
    """How bytes were written; FILES_API and IN_PLACE are neither atomic nor fenced."""

    UNKNOWN = 0
    SFTP = 1
    DIRECTORY = 2
    FILES_API = 3
    IN_PLACE = 4


class UploadState(IntEnum):
    """The state of an upload."""

    OPEN = 1
    """Bytes may arrive."""
    COMPLETE = 2
    """The payload is sealed, and its tasks exist."""
    ABANDONED = 3
    """The upload is given up: its file is removed next, then its row."""
