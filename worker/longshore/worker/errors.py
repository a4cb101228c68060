"""This tree has everything that can go wrong in an attempt.

A handler ends well by returning. Otherwise it raises one of these, and its class alone decides what the server
does next; the reason is for people and scripts. `AttemptError` is about the work, `AttemptStopped` about being
told to end it.

::

    AttemptError
    ├── TransientError     try again later; counts as a try
    ├── PermanentError     trying again cannot help
    ├── NotReadyError      park until the target changes; counts as nothing
    └── OutcomeUnknown     the commit was sent and its answer never seen; settle it
    AttemptStopped
    └── GrantRefused       the server said no to the commit
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

__all__ = [
    "AttemptError",
    "AttemptStopped",
    "Condition",
    "GrantRefused",
    "NotReadyError",
    "OutcomeUnknown",
    "PermanentError",
    "Reason",
    "StopReason",
    "TransientError",
]

Condition = Literal["RUNNING", "EXISTS"]
"""The condition that a parked task waits for: its instance runs, or its instance exists."""


class StopReason(StrEnum):
    """Why an attempt is told to end."""

    CANCELLED = "CANCELLED"
    """The task was cancelled."""
    REVOKED = "REVOKED"
    """The attempt is no longer this worker's: its lease was lost, or another attempt took over."""
    TIMEOUT = "TIMEOUT"
    """The run or stall time-out passed."""
    DRAIN = "DRAIN"
    """The worker is leaving and cannot wait for this attempt to finish."""


class Reason(StrEnum):
    """The reasons that Longshore itself gives. A handler of your own may use any other UPPER_SNAKE word."""

    ALREADY_EXISTS = "ALREADY_EXISTS"
    INSTANCE_BUSY = "INSTANCE_BUSY"
    INSTANCE_NOT_FOUND = "INSTANCE_NOT_FOUND"
    INSTANCE_STOPPED = "INSTANCE_STOPPED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    IO_ERROR = "IO_ERROR"
    IS_A_DIRECTORY = "IS_A_DIRECTORY"
    LINK_BROKEN = "LINK_BROKEN"
    MOUNT_POINT = "MOUNT_POINT"
    NAME_TOO_LONG = "NAME_TOO_LONG"
    NOT_A_DIRECTORY = "NOT_A_DIRECTORY"
    NOT_A_FILE = "NOT_A_FILE"
    NO_NEW_FILES = "NO_NEW_FILES"
    NO_SFTP = "NO_SFTP"
    NO_SPACE = "NO_SPACE"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    PARENT_MISSING = "PARENT_MISSING"
    PATH_ESCAPES = "PATH_ESCAPES"
    PAYLOAD_UNAVAILABLE = "PAYLOAD_UNAVAILABLE"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    READ_ONLY = "READ_ONLY"
    SYMLINK_LOOP = "SYMLINK_LOOP"
    TARGET_BUSY = "TARGET_BUSY"
    TARGET_ERROR = "TARGET_ERROR"
    TARGET_FORBIDDEN = "TARGET_FORBIDDEN"
    TARGET_PROTOCOL = "TARGET_PROTOCOL"
    TARGET_TIMEOUT = "TARGET_TIMEOUT"
    TARGET_UNREACHABLE = "TARGET_UNREACHABLE"
    TEMP_MISSING = "TEMP_MISSING"
    UNSUPPORTED_MODE = "UNSUPPORTED_MODE"
    UNSUPPORTED_PROJECT = "UNSUPPORTED_PROJECT"
    VERIFY_FAILED = "VERIFY_FAILED"


class AttemptError(Exception):
    """The work itself failed. Raise one of the subclasses, never this one.

    `reason` is UPPER_SNAKE and stable: scripts compare it. `message` tells a person what to do. `left_temps` is set
    when something of this attempt is still at the target because it could not be removed: a debt to be reported.
    """

    left_temps: bool = False

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason: Final = str(reason)
        self.message: Final = message

    def __str__(self) -> str:
        return f"{self.message} ({self.reason})"


class TransientError(AttemptError):
    """The work may succeed later: the task goes back to the queue after a back-off, and one try is counted.

    `retry_after` is a hint in seconds (> 0), or None when the server's own back-off should decide.
    """

    def __init__(self, reason: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason, message)
        self.retry_after: Final = retry_after


class PermanentError(AttemptError):
    """Trying again with the same task cannot help: it fails now, and the message says what to change."""


class NotReadyError(AttemptError):
    """The target is fine but not in the state the task waits for: it is parked and costs no try."""

    def __init__(self, reason: str, message: str, *, condition: Condition) -> None:
        super().__init__(reason, message)
        self.condition: Final[Condition] = condition


class OutcomeUnknown(AttemptError):
    """The commit was sent, its answer was lost, and the worker could not find out what became of it.

    This is no failure: the content may be at the destination. The server has the commit settled.
    """


class AttemptStopped(Exception):
    """The attempt was told to end; raised by `context.check()` and passed on by its callers.

    A handler cleans up what it made and lets this go. Catching it to carry on is a bug. `left_temps` as for
    `AttemptError`.
    """

    left_temps: bool = False

    def __init__(self, why: StopReason, message: str = "") -> None:
        super().__init__(why, message)
        self.why: Final = why
        self.message: Final = message or f"the attempt was told to end: {why.value}"

    def __str__(self) -> str:
        return self.message


class GrantRefused(AttemptStopped):
    """The server did not grant the commit: something else was durably decided first. Nothing was committed."""
