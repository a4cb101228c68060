"""The contract's enumerations with short names, as Python's own: `print(state_of(task))` says SUCCEEDED.

Their values are the contract's numbers, so they compare with a message's fields. A number that this version does not
know is a member too, named by its number: a newer server may send one.
"""

from __future__ import annotations

from longshore.contract.enums import Access, IfExists, OnPending, OpenEnum, WhenAbsent, WhenStopped
from longshore.v1 import task_pb2

__all__ = [
    "Access",
    "DeliveryMethod",
    "IfExists",
    "OnPending",
    "TaskState",
    "WaitReason",
    "WhenAbsent",
    "WhenStopped",
    "state_of",
    "wait_reason_of",
]


class TaskState(OpenEnum):
    """The state of a task."""

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


class WaitReason(OpenEnum):
    """The condition that keeps a live task from running."""

    UNSPECIFIED = 0
    NOT_BEFORE = 1
    BACK_OFF = 2
    INSTANCE_STOPPED = 3
    INSTANCE_ABSENT = 4
    EARLIER_TASK = 5
    SETTLING = 6
    NO_WORKER = 7
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


class DeliveryMethod(OpenEnum):
    """The way in which the bytes were written."""

    UNSPECIFIED = 0
    SFTP = 1
    DIRECTORY = 2
    FILES_API = 3
    IN_PLACE = 4


def state_of(task: task_pb2.Task) -> TaskState:
    """Return the task's state, as a member that prints its name."""
    return TaskState(task.state)


def wait_reason_of(task: task_pb2.Task) -> WaitReason | None:
    """Return the condition that keeps a live task from running. None means that no reason is known, or that it runs."""
    return WaitReason(task.wait_reason) if task.wait_reason else None
