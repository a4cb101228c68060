"""This module chooses exit codes and words errors. docs/cli.md lists the codes; scripts rely on them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, Final

from longshore.client import errors
from longshore.client.cli.output.wording import words_for
from longshore.program.visible import visible_json
from longshore.v1 import task_pb2, task_service_pb2


class ExitCode(IntEnum):
    """An exit code of the process."""

    OK = 0
    """Done; with --wait: delivered."""
    INTERNAL = 1
    """A defect of the server or of this program."""
    USAGE = 2
    """An option, an argument or a local file cannot be used; nothing was made."""
    FAILED = 3
    """The task failed."""
    CANCELLED = 4
    """The task was cancelled."""
    EXPIRED = 5
    """The task expired."""
    REFUSED = 6
    """The server refused: invalid, full, not found, not possible now."""
    UNREACHABLE = 7
    """No server could be reached in the time allowed."""
    UNAUTHENTICATED = 8
    """The token is missing or wrong, or the call is not permitted."""
    OUTPUT_LOST = 74
    """Standard output could not be written: closed, or its disk full. What was to be changed is changed, and told on
    standard error; what was to be shown is not shown."""
    TIMED_OUT = 124
    """The tasks were not done by --timeout, and go on."""
    INTERRUPTED = 130
    """Ctrl-C."""
    BROKEN_PIPE = 141
    """No program reads the output any more."""


_BY_ERROR: Final[Mapping[type[errors.LongshoreError], ExitCode]] = {
    errors.ConfigurationError: ExitCode.USAGE,
    errors.SourceError: ExitCode.USAGE,
    errors.TaskFailed: ExitCode.FAILED,
    errors.TaskCancelled: ExitCode.CANCELLED,
    errors.TaskExpired: ExitCode.EXPIRED,
    errors.WaitTimedOut: ExitCode.TIMED_OUT,
    errors.InvalidArgument: ExitCode.REFUSED,
    errors.NotFound: ExitCode.REFUSED,
    errors.AlreadyExists: ExitCode.REFUSED,
    errors.ResourceExhausted: ExitCode.REFUSED,
    errors.FailedPrecondition: ExitCode.REFUSED,
    errors.Aborted: ExitCode.REFUSED,
    errors.DataLoss: ExitCode.REFUSED,
    errors.Unavailable: ExitCode.UNREACHABLE,
    errors.Unauthenticated: ExitCode.UNAUTHENTICATED,
    errors.PermissionDenied: ExitCode.UNAUTHENTICATED,
}
"""A subclass without a row takes the code of its base; an error without any row is INTERNAL."""

_BY_STATE: Final[Mapping[int, ExitCode]] = {
    task_pb2.TASK_STATE_FAILED: ExitCode.FAILED,
    task_pb2.TASK_STATE_CANCELLED: ExitCode.CANCELLED,
    task_pb2.TASK_STATE_EXPIRED: ExitCode.EXPIRED,
}
_BY_VERDICT: Final[Mapping[int, ExitCode]] = {
    task_service_pb2.BATCH_VERDICT_FAILED: ExitCode.FAILED,
    task_service_pb2.BATCH_VERDICT_CANCELLED: ExitCode.CANCELLED,
}
_WORST_FIRST: Final = (ExitCode.FAILED, ExitCode.EXPIRED, ExitCode.CANCELLED, ExitCode.OK)

_NO_TOKEN: Final = "No token, or a wrong one."
"""A server's answer begins with this text when the server knows nothing about the token that it was shown."""
_CAUSE: Final = re.compile(r": ([A-Z][A-Za-z ]+)(?: \(\d+\))?$")


def code_for(error: errors.LongshoreError) -> ExitCode:
    """Return the exit code of this error."""
    for base in type(error).__mro__:
        if base in _BY_ERROR:
            return _BY_ERROR[base]
    return ExitCode.INTERNAL


def code_for_tasks(tasks: Iterable[task_pb2.Task]) -> ExitCode:
    """Return the exit code for tasks that are done: of several, failed before expired before cancelled before
    delivered."""
    found = {_BY_STATE.get(task.state, ExitCode.OK) for task in tasks}
    return next((code for code in _WORST_FIRST if code in found), ExitCode.OK)


def code_for_batch(batch: task_service_pb2.Batch) -> ExitCode:
    """Return the exit code for the verdict on the tasks of a request. Live tasks have none yet."""
    return _BY_VERDICT.get(batch.verdict, ExitCode.OK)


def explain(error: errors.LongshoreError, *, server: str, token: str, local: bool = True) -> list[str]:
    """Say in one line what is wrong, and in a second one the remedy, where there is one.

    `token` tells what was shown to the server. `local` means that the server is on this machine and is spoken to
    without TLS, so that its data directory is here.
    """
    match error:
        case errors.TLSError():
            return [_sentence(error.message)]
        case errors.Unavailable() if not error.from_server:
            return [
                f"cannot reach the server at {server}{_cause(error)}",
                "start one with `longshored`, or name another with --server or $LONGSHORE_SERVER",
            ]
        case errors.Unauthenticated():
            return [f"the server at {server} does not let us in with {token}", _way_in(error, local=local)]
        case errors.InvalidArgument() if error.field_violations:
            return [f"{words_for(each.field)}: {_sentence(each.description)}" for each in error.field_violations]
        case errors.ConfigurationError() if "candidates" in error.metadata:
            return [_sentence(error.message), *error.metadata["candidates"].split("\n")]
        case errors.ResourceExhausted() if error.retry_after is not None:
            again = f"try again in {error.retry_after:.0f} s, or wait in line with --patience"
            return [f"{_sentence(error.message)} ({error.reason})", again]
        case errors.Internal() if "incident" in error.metadata:
            return [f"{_sentence(error.message)} (incident {error.metadata['incident']})"]
    reason = f" ({error.reason})" if error.reason and error.from_server else ""
    return [f"{_sentence(error.message)}{reason}"]


def _way_in(error: errors.LongshoreError, *, local: bool) -> str:
    """Return the server's own sentence, if it says more than that the token is unknown."""
    if error.from_server and not error.message.startswith(_NO_TOKEN):
        return _sentence(error.message)
    if local:
        return "its token is the file `token` in its data directory: use --data-dir, --token-file or $LONGSHORE_TOKEN"
    return "it takes tokens of `longshored token create`: use --token-file, $LONGSHORE_TOKEN_FILE or $LONGSHORE_TOKEN"


def brief(error: errors.LongshoreError) -> str:
    """Say in a few words why a call did not succeed, for a message that it is tried again."""
    if isinstance(error, errors.Unavailable) and not error.from_server and not isinstance(error, errors.TLSError):
        return f"the server does not answer{_cause(error)}"
    return f"{_sentence(error.message)} ({error.reason})"


def as_json(error: errors.LongshoreError, code: ExitCode) -> dict[str, Any]:
    """Return the error for programs, as `--output json` prints it on standard error."""
    return {
        "error": {
            "reason": error.reason or _reason_of(error),
            "message": error.message,
            "metadata": dict(error.metadata),
            "field_violations": [{"field": e.field, "description": e.description} for e in error.field_violations],
            "quota_violations": [{"subject": e.subject, "description": e.description} for e in error.quota_violations],
            "retry_after": error.retry_after,
            "exit_code": int(code),
        }
    }


def usage_error(message: str) -> ExitCode:
    """Print the error on standard error as JSON, and return its exit code."""
    error = errors.ConfigurationError(message)
    sys.stderr.write(visible_json(as_json(error, ExitCode.USAGE), ascii_only=True) + "\n")
    return ExitCode.USAGE


def _reason_of(error: errors.LongshoreError) -> str:
    """Make a reason from the class of an error that the client raised by itself: its name, spelled as reasons are."""
    if isinstance(error, errors.ConfigurationError):
        return "USAGE"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).upper()


def _cause(error: errors.LongshoreError) -> str:
    """Return the cause of gRPC's message, which is long and names the cause last."""
    if error.reason == "DEADLINE_EXCEEDED":
        return ": it does not answer"
    found = _CAUSE.search(error.message)
    return f": {found[1].lower()}" if found else ""


def _sentence(text: str) -> str:
    """Return the text without its full stop, because more may follow."""
    return text.rstrip().removesuffix(".")
