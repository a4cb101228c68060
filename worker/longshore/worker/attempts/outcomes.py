"""This module alone decides which report an attempt makes of the way in which its handler ended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from google.protobuf import any_pb2

from longshore.client.errors import ConfigurationError
from longshore.client.values import job_values as values
from longshore.contract.limits import LARGEST_RESULT
from longshore.contract.names import LONGEST_NAME
from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.attempts.attempt import Attempt, ref_of
from longshore.worker.errors import (
    AttemptError,
    AttemptStopped,
    NotReadyError,
    OutcomeUnknown,
    PermanentError,
    Reason,
    StopReason,
    TransientError,
)
from longshore.worker.targets.base import Settlement

HANDLER_ERROR: Final = "HANDLER_ERROR"
"""A handler raised something that is not an AttemptError."""
RESULT_TOO_LARGE: Final = "RESULT_TOO_LARGE"
TIMED_OUT: Final = "TIMED_OUT"
STALLED: Final = "STALLED"
UNKNOWN_KIND: Final = "UNKNOWN_KIND"

_MESSAGE_LIMIT: Final = 2000

_WAITS: Final = {
    "RUNNING": task_pb2.WAIT_REASON_INSTANCE_STOPPED,
    "EXISTS": task_pb2.WAIT_REASON_INSTANCE_ABSENT,
}
_SETTLED: Final = {
    Settlement.REMOVED: ws.OUTCOME_SETTLED_REMOVED,
    Settlement.LANDED: ws.OUTCOME_SETTLED_LANDED,
    Settlement.NEITHER: ws.OUTCOME_SETTLED_NEITHER,
}


def succeeded(attempt: Attempt, value: Any) -> ws.Report:
    """Make the report of a handler that returned `value`."""
    report = ws.Report(attempt=ref_of(attempt.key), delivery_method=attempt.method, left_temps=attempt.left_temps)
    if attempt.assignment.HasField("settle"):
        if not isinstance(value, Settlement):
            return _failed(attempt, TransientError(HANDLER_ERROR, f"settle returned {value!r}, not a Settlement"))
        report.outcome = _SETTLED[value]
        return report
    report.outcome = ws.OUTCOME_OK
    if value is None:
        return report
    try:
        packed = pack(value)
    except PermanentError as error:
        # An attempt whose commit is granted cannot fail because of its result.
        return report if attempt.granted else _failed(attempt, error)
    report.result.CopyFrom(packed)
    return report


def pack(value: Any) -> any_pb2.Any:
    """Pack a handler's return value into an `Any`: a message, or a dict, list, dataclass or pydantic model as JSON has
    them.

    Raises PermanentError for anything else, and for a value that is too large.
    """
    try:
        packed = values.packed(value, name="the result")
    except ConfigurationError as error:
        raise PermanentError(
            HANDLER_ERROR,
            f"the handler returned {type(value).__name__}: return a message, a dict, a list, a dataclass, a pydantic "
            f"model, or None ({error.message})",
        ) from error
    assert packed is not None, "None is no result, and was told apart"
    if packed.ByteSize() > LARGEST_RESULT:
        raise PermanentError(
            RESULT_TOO_LARGE, f"the result has {packed.ByteSize()} bytes; at most {LARGEST_RESULT} are kept"
        )
    return packed


def raised(attempt: Attempt, error: BaseException) -> ws.Report:
    """Make the report of a handler that raised `error`.

    After the grant only an AttemptError counts as a failure, because it says that the commit did not happen and will
    not. Any other error leaves the question open, and the server settles it.
    """
    if isinstance(error, OutcomeUnknown):
        if attempt.granted:
            return unknown(attempt, error.message, left_temps=error.left_temps)
        return _failed(attempt, TransientError(error.reason, error.message), left_temps=error.left_temps)
    if isinstance(error, AttemptError):
        return _failed(attempt, error)
    if isinstance(error, AttemptStopped):
        return _stopped(attempt, error.why, error.message, left_temps=error.left_temps)
    stop = attempt.stop
    if stop is not None and not isinstance(error, Exception):
        # A coroutine ended by its cancellation, which is how the stop reached it.
        return _stopped(attempt, stop.why, stop.error().message, left_temps=False)
    what = f"the handler raised {type(error).__name__}: {error}"
    if attempt.granted:
        return unknown(attempt, what)
    return _failed(attempt, TransientError(HANDLER_ERROR, what))


def abandoned(attempt: Attempt) -> ws.Report:
    """Make the report of a handler that was told to end and does not. It gets no grant any more, and other workers
    remove its temps."""
    stop = attempt.stop
    reason = stop.reason if stop is not None else TIMED_OUT
    if attempt.granted:
        return unknown(attempt, f"the handler hangs after its grant ({reason})")
    if stop is not None and stop.why is StopReason.DRAIN:
        report = ws.Report(attempt=ref_of(attempt.key), outcome=ws.OUTCOME_HANDED_BACK, left_temps=True)
        report.error.CopyFrom(_error(reason, "the worker left while the handler was running", transient=True))
        return report
    error = TransientError(reason, f"the handler was told to end ({reason}) and did not; its worker went on without it")
    return _failed(attempt, error, left_temps=True)


def handed_back(attempt: Attempt) -> ws.Report:
    """Make the report of an attempt that never started because the worker is leaving."""
    return ws.Report(attempt=ref_of(attempt.key), outcome=ws.OUTCOME_HANDED_BACK)


def never_started(attempt: Attempt) -> ws.Report:
    """Make the report of an attempt that was cancelled before it began."""
    return ws.Report(attempt=ref_of(attempt.key), outcome=ws.OUTCOME_STOPPED)


def unknown(attempt: Attempt, message: str, *, left_temps: bool = False) -> ws.Report:
    """Make the report of a granted attempt whose commit may or may not have happened."""
    return ws.Report(
        attempt=ref_of(attempt.key),
        outcome=ws.OUTCOME_UNKNOWN,
        error=_error(Reason.OUTCOME_UNKNOWN, message, transient=True),
        delivery_method=attempt.method,
        left_temps=left_temps,
    )


def _stopped(attempt: Attempt, why: StopReason, message: str, *, left_temps: bool) -> ws.Report:
    if attempt.granted:
        return unknown(attempt, f"told to end after the grant: {message}", left_temps=left_temps)
    if why is StopReason.TIMEOUT:
        reason = attempt.stop.reason if attempt.stop is not None else TIMED_OUT
        return _failed(attempt, TransientError(reason, message), left_temps=left_temps)
    report = ws.Report(attempt=ref_of(attempt.key), outcome=ws.OUTCOME_STOPPED, left_temps=left_temps)
    if why is StopReason.DRAIN:
        report.outcome = ws.OUTCOME_HANDED_BACK
    return report


def _failed(attempt: Attempt, error: AttemptError, *, left_temps: bool = False) -> ws.Report:
    transient = not isinstance(error, PermanentError)
    report = ws.Report(
        attempt=ref_of(attempt.key),
        outcome=ws.OUTCOME_TRANSIENT if transient else ws.OUTCOME_PERMANENT,
        error=_error(error.reason, error.message, transient=transient),
        delivery_method=attempt.method,
        left_temps=left_temps or error.left_temps or attempt.left_temps,
    )
    if isinstance(error, NotReadyError):
        report.outcome = ws.OUTCOME_NOT_READY
        report.wait_reason = _WAITS[error.condition]
    elif isinstance(error, TransientError) and error.retry_after is not None:
        report.retry_after.FromTimedelta(timedelta(seconds=max(0.0, error.retry_after)))
    return report


def _error(reason: str, message: str, *, transient: bool) -> task_pb2.TaskError:
    return task_pb2.TaskError(reason=reason[:LONGEST_NAME], message=message[:_MESSAGE_LIMIT], transient=transient)


def for_the_log(attempt: Attempt, report: ws.Report) -> dict[str, str | int]:
    """Return the fields that the log gives of an attempt's end, without those that are unset."""
    task, error = attempt.task, report.error
    job = task_pb2.Destination(target=task.job.target, instance=task.job.instance)
    to = task.file_push.destination if task.HasField("file_push") else job
    said: dict[str, str | int] = {
        "task_id": attempt.key[0],
        "attempt": attempt.number,
        "kind": task.kind,
        "target": to.target,
        "instance": to.instance,
        "path": to.path,
        "creator": task.creator,
        "outcome": ws.Outcome.Name(report.outcome).removeprefix("OUTCOME_"),
        "reason": error.reason,
        "message": error.message,
    }
    return {key: value for key, value in said.items() if value != ""}
