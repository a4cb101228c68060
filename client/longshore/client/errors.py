"""Everything that the client raises on purpose.

::

    LongshoreError
    ├── ConfigurationError    an address, token or option cannot be used; nothing was sent
    ├── SourceError           the bytes to upload cannot be read, or changed meanwhile
    ├── InvalidArgument       the request is wrong: mend it
    │   └── OutOfRange        a watch starts after a revision that the task has not reached
    ├── NotFound              no such thing, not yours, or not kept any more
    ├── AlreadyExists         the request id stands for another request
    ├── ResourceExhausted     no room now: try later with the same request id
    ├── FailedPrecondition    the thing is not in a state that allows this
    ├── Aborted               somebody else was there: read anew and decide again
    ├── Unauthenticated       no token, or a wrong one
    ├── PermissionDenied      known, and may not do this
    ├── Unavailable           no server could be reached, or it is leaving: try again
    │   └── TLSError          no connection that can be trusted: mend certificates or options
    ├── DataLoss              what was spooled is damaged: start anew under another id
    ├── Internal              a defect of the server
    ├── WaitTimedOut          the task was not done in the time given; it goes on
    └── TaskError             the task ended otherwise than wished; `task` tells all
        ├── TaskFailed
        ├── TaskCancelled
        └── TaskExpired
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from longshore.v1 import task_pb2

_DETAILS_KEY: Final = "grpc-status-details-bin"
_DOMAIN: Final = "longshore"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One wrong field of a request: its path as in the contract, and what is wrong with it."""

    field: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaViolation:
    """One bound that is reached: whose it is, such as `queue:default`, and what it says."""

    subject: str
    description: str


class LongshoreError(Exception):
    """The base of every error of the client.

    `reason` is for programs: an upper-case word such as QUEUE_FULL. `message` is for people. `retry_after` is the
    server's wish in seconds, or None. `from_server` tells that Longshore itself said so, and not the way to it.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[FieldViolation] = (),
        quota_violations: Sequence[QuotaViolation] = (),
        retry_after: float | None = None,
        from_server: bool = False,
    ) -> None:
        super().__init__(message)
        self.message: Final = message
        self.reason: Final = reason
        self.metadata: Final[Mapping[str, str]] = dict(metadata or {})
        self.field_violations: Final = tuple(field_violations)
        self.quota_violations: Final = tuple(quota_violations)
        self.retry_after: Final = retry_after
        self.from_server: Final = from_server

    def __str__(self) -> str:
        return f"{self.message} ({self.reason})" if self.reason else self.message


class ConfigurationError(LongshoreError):
    """An address, a token or an option cannot be used. Nothing was sent."""


class SourceError(LongshoreError):
    """The bytes to upload cannot be read, or they changed while they were being sent. Nothing was accepted."""


class InvalidArgument(LongshoreError):
    """A field of the request is wrong, or a chunk of the upload is. Mend it; unchanged it fails again."""


class OutOfRange(InvalidArgument):
    """A watch was to start after a revision that the task has not reached. Read the task anew."""


class NotFound(LongshoreError):
    """There is no such thing, it is not the caller's, or it is not kept any more."""


class AlreadyExists(LongshoreError):
    """The request id came before with another request. Choose another id."""


class ResourceExhausted(LongshoreError):
    """A bound is reached. Try again after `retry_after` seconds, with the same request id."""


class FailedPrecondition(LongshoreError):
    """The thing is not in a state that allows this; the reason says why."""


class Aborted(LongshoreError):
    """Something else came first: another connection, or a newer revision. Read anew and decide again."""


class Unauthenticated(LongshoreError):
    """No token was sent, or a wrong one. The server's is in the file `token` in its data directory."""


class PermissionDenied(LongshoreError):
    """The server knows the caller and does not allow this."""


class Unavailable(LongshoreError):
    """No server could be reached in the time allowed, or the connection was cut. Try again."""


class TLSError(Unavailable):
    """The server cannot be trusted, or does not trust us, or one side speaks TLS and the other does not. Nothing was
    sent. The message says which certificate or option to mend; without that another try ends the same way."""


class DataLoss(LongshoreError):
    """The bytes that the server had spooled are gone or wrong. Start anew under another request id."""


class Internal(LongshoreError):
    """A defect of the server. Report it with the `incident` in `metadata`."""


class WaitTimedOut(LongshoreError):
    """The task was not done in the time that the caller gave. The task goes on: wait for it again, or cancel it.

    `task` is the task as it was seen last. None means that no server had answered by then.
    """

    def __init__(self, message: str, *, task: task_pb2.Task | None = None) -> None:
        super().__init__(message, reason="WAIT_TIMED_OUT")
        self.task: Final = task


class TaskError(LongshoreError):
    """A task did not succeed. `task` is its final state."""

    def __init__(self, task: task_pb2.Task, message: str) -> None:
        super().__init__(message, reason=task.error.reason, from_server=True)
        self.task: Final = task


class TaskFailed(TaskError):
    """The task is FAILED; `reason` and `message` say why."""


class TaskCancelled(TaskError):
    """The task is CANCELLED: its content was never put at the destination and never will be."""


class TaskExpired(TaskError):
    """The task is EXPIRED: no attempt succeeded in the time that its creator gave it."""


_BY_CODE: Final[Mapping[grpc.StatusCode, type[LongshoreError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DATA_LOSS: DataLoss,
}
"""A status code that is missing here gives Internal."""

_CODES: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


def from_rpc_error(error: grpc.aio.AioRpcError) -> LongshoreError:
    """Make the typed error of a call, with its google.rpc details.

    A status without Longshore's ErrorInfo came from the transport: its reason is then the status code's name.
    """
    return _typed(error.code(), error.details() or error.code().name, _status_of(error))


def from_status(status: status_pb2.Status) -> LongshoreError:
    """Make the typed error of one submission of a stream."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _typed(code, status.message or code.name, status)


def _typed(code: grpc.StatusCode, message: str, status: status_pb2.Status) -> LongshoreError:
    reason, metadata, from_server = code.name, dict[str, str](), False
    fields: list[FieldViolation] = []
    quotas: list[QuotaViolation] = []
    retry_after: float | None = None
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    quota, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    for detail in status.details:
        try:
            if detail.Unpack(info):
                reason, metadata, from_server = info.reason, dict(info.metadata), info.domain == _DOMAIN
            elif detail.Unpack(bad):
                fields += [FieldViolation(field=v.field, description=v.description) for v in bad.field_violations]
            elif detail.Unpack(quota):
                quotas += [QuotaViolation(subject=v.subject, description=v.description) for v in quota.violations]
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        except DecodeError:
            # A detail that cannot be read must not hide the error it belongs to.
            continue
    return _BY_CODE.get(code, Internal)(
        message,
        reason=reason,
        metadata=metadata,
        field_violations=fields,
        quota_violations=quotas,
        retry_after=retry_after,
        from_server=from_server,
    )


def _status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """Return the google.rpc.Status in the trailers. An empty one means that none can be read."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


_WHY_CANCELLED = frozenset({"DEPENDENCY_FAILED", "SUPERSEDED"})
"""Reasons of errors that say why a task was cancelled. Others are those of earlier attempts."""


def from_task(task: task_pb2.Task) -> TaskError | None:
    """Make the error of a finished task. None means that it succeeded or is not done."""
    if task.state == task_pb2.TASK_STATE_FAILED:
        return TaskFailed(task, task.error.message or "the task failed")
    if task.state == task_pb2.TASK_STATE_CANCELLED:
        why = task.cancel_reason or (task.error.message if task.error.reason in _WHY_CANCELLED else "")
        return TaskCancelled(task, f"the task was cancelled{f': {why}' if why else ''}")
    if task.state == task_pb2.TASK_STATE_EXPIRED:
        return TaskExpired(task, "the task expired before an attempt succeeded")
    return None
