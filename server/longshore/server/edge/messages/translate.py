"""The model's values as the contract's messages. Protobuf stops here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from longshore.server.model import task as model
from longshore.server.model.request_summary import RequestSummary
from longshore.server.model.values import State, UploadState, WaitReason
from longshore.server.model.waiting import Waiting
from longshore.v1 import task_pb2 as pb
from longshore.v1 import task_service_pb2 as service_pb

ATTEMPTS_SHOWN = 5
"""The most attempts that a Task carries; ListAttempts has all."""


def timestamp(seconds: float) -> Timestamp:
    """Translate seconds since the epoch into a Timestamp, to the microsecond."""
    message = Timestamp()
    _set_timestamp(message, seconds)
    return message


def duration(seconds: float) -> Duration:
    """Translate seconds (zero or more) into a Duration, to the microsecond."""
    message = Duration()
    _set_duration(message, seconds)
    return message


def _set_timestamp(message: Timestamp, seconds: float) -> None:
    message.seconds, message.nanos = _instant(seconds)


def _set_duration(message: Duration, seconds: float) -> None:
    message.seconds, message.nanos = _span(seconds)


# The tasks of a commit have the same times, and most tasks the same durations: each task has five of them.
@lru_cache(maxsize=256)
def _instant(seconds: float) -> tuple[int, int]:
    whole = int(seconds // 1)
    return whole, round((seconds - whole) * 1e6) * 1000 % 1_000_000_000


@lru_cache(maxsize=256)
def _span(seconds: float) -> tuple[int, int]:
    whole, micros = divmod(round(seconds * 1e6), 1_000_000)
    return whole, micros * 1000


def any_message(value: model.AnyValue) -> AnyMessage:
    """Translate into a google.protobuf.Any, unopened."""
    return AnyMessage(type_url=value.type_url, value=value.value)


def failure(value: model.Failure) -> pb.TaskError:
    """Translate the reason why something did not succeed."""
    return pb.TaskError(reason=value.reason, message=value.message, transient=value.transient)


def payload(value: model.Payload) -> pb.Payload:
    """Translate the payload of a task."""
    return pb.Payload(id=value.id, size=value.size, crc32c=value.crc32c, sha256=value.sha256)


def file_push(value: model.FilePush) -> pb.FilePush:
    """Translate the push of one file to one destination."""
    destination = value.destination
    return pb.FilePush(
        destination=pb.Destination(
            target=destination.target, project=destination.project, instance=destination.instance, path=destination.path
        ),
        mode=value.mode,
        uid=value.uid,
        gid=value.gid,
        create_parents=value.create_parents,
        if_exists=pb.IfExists.ValueType(value.if_exists),
        when_stopped=pb.WhenStopped.ValueType(value.when_stopped),
        when_absent=pb.WhenAbsent.ValueType(value.when_absent),
        read_back=value.read_back,
        mode_if_new=value.mode_if_new,
        parents_mode=value.parents_mode,
        in_place=value.in_place,
        on_pending=pb.ON_PENDING_SUPERSEDE if value.latest_wins else pb.ON_PENDING_UNSPECIFIED,
    )


def job(value: model.Job) -> pb.JobSpec:
    """Translate a call of a handler."""
    message = pb.JobSpec()
    _fill_job(message, value)
    return message


def _fill_job(message: pb.JobSpec, value: model.Job) -> None:
    message.kind = value.kind
    if value.arguments is not None:
        message.arguments.SetInParent()
        message.arguments.type_url = value.arguments.type_url
        message.arguments.value = value.arguments.value
    if value.target:
        message.target = value.target
    if value.instance:
        message.instance = value.instance
    if value.project:
        message.project = value.project
    if value.key:
        message.key = value.key
    if value.exclusive:
        message.access = pb.ACCESS_EXCLUSIVE
    if value.latest_wins:
        message.on_pending = pb.ON_PENDING_SUPERSEDE


def attempt(value: model.Attempt) -> pb.Attempt:
    """Translate one attempt of a task."""
    message = pb.Attempt()
    _fill_attempt(message, value)
    return message


def _fill_attempt(message: pb.Attempt, value: model.Attempt) -> None:
    message.number = value.number
    message.worker = value.worker
    message.session_id = value.session_id
    _set_timestamp(message.start_time, value.started_at)
    if value.end is not None:
        message.outcome = value.end.value
    if value.settling:
        message.settling = True
    if value.alone:
        message.alone = True
    if value.ended_at is not None:
        _set_timestamp(message.end_time, value.ended_at)
    if value.granted_at is not None:
        _set_timestamp(message.grant_time, value.granted_at)
    if value.error is not None:
        message.error.CopyFrom(failure(value.error))


def task(
    value: model.Task,
    *,
    attempts: Sequence[model.Attempt] = (),
    blocked_by: str = "",
    waiting: Waiting | None = None,
) -> pb.Task:
    """Translate a whole Task. `attempts` are the last few; `blocked_by` is shown for a BLOCKED task only. `waiting`
    None means that the wait reason is shown as far as the task itself knows it."""
    message = pb.Task()
    fill_task(message, value)
    if waiting is not None:
        message.wait_reason = pb.WaitReason.ValueType(waiting.reason)
        message.wait_detail = waiting.detail
    if blocked_by and value.status.state is State.BLOCKED:
        message.blocked_by = blocked_by
    for one in attempts[-ATTEMPTS_SHOWN:]:
        _fill_attempt(message.attempts.add(), one)
    return message


def fill_task(message: pb.Task, value: model.Task) -> None:
    """Translate a Task into an empty message where it is wanted. It sets field by field, and only what is not the
    field's default: with keywords for all of them a task took 8 µs, and one is sent for each assignment."""
    submission, status = value.submission, value.status
    terms = submission.terms
    message.id = submission.id
    message.revision = status.revision
    message.state = pb.TaskState.ValueType(status.state)
    message.kind = submission.kind
    message.queue = terms.queue
    message.creator = submission.creator
    message.request_id = submission.request_id
    message.attempt_limit = terms.attempt_limit
    _set_duration(message.run_timeout, terms.run_timeout)
    _set_timestamp(message.create_time, submission.created_at)
    _set_timestamp(message.expire_time, submission.expires_at)
    if terms.priority:
        message.priority = terms.priority
    if terms.description:
        message.description = terms.description
    if terms.after:
        message.after.extend(terms.after)
        message.after_any_end = terms.after_any_end
    if terms.labels:
        message.labels.update(terms.labels)
    if submission.retry_of:
        message.retry_of = submission.retry_of
    if submission.retried_by:
        message.retried_by = submission.retried_by
    if isinstance(submission.work, model.Job):
        _fill_job(message.job, submission.work)
    else:
        message.file_push.CopyFrom(file_push(submission.work))
    if submission.payload is not None:
        message.payload.CopyFrom(payload(submission.payload))
    if terms.stall_timeout is not None:
        _set_duration(message.stall_timeout, terms.stall_timeout)
    _fill_status(message, status)


def _fill_status(message: pb.Task, status: model.Status) -> None:
    if status.state.terminal:
        message.done = True
    _set_timestamp(message.update_time, status.updated_at)
    if status.state is State.BLOCKED and status.wait_reason is not WaitReason.AFTER:
        message.wait_reason = pb.WAIT_REASON_EARLIER_TASK
    elif status.wait_reason:
        message.wait_reason = pb.WaitReason.ValueType(status.wait_reason)
    if status.attempt:
        message.attempt = status.attempt
    if status.worker:
        message.worker = status.worker
    if status.tries:
        message.tries = status.tries
    if status.crashes:
        message.crashes = status.crashes
    if status.cancel_requested:
        message.cancel_requested = True
    if status.superseded_by:
        message.superseded_by = status.superseded_by
    if status.cancel_reason:
        message.cancel_reason = status.cancel_reason
    if status.method:
        message.delivery_method = pb.DeliveryMethod.ValueType(status.method)
    if status.error is not None:
        message.error.CopyFrom(failure(status.error))
    if status.result is not None:
        message.result.CopyFrom(any_message(status.result))
    if status.started_at is not None:
        _set_timestamp(message.start_time, status.started_at)
    if status.finished_at is not None:
        _set_timestamp(message.finish_time, status.finished_at)
    if status.due_at is not None:
        _set_timestamp(message.due_time, status.due_at)
    if status.retryable_until is not None:
        _set_timestamp(message.retryable_until, status.retryable_until)


def tasks(
    values: Sequence[model.Task],
    *,
    attempts: Mapping[str, Sequence[model.Attempt]] | None = None,
    blocked_by: Mapping[str, str] | None = None,
    waiting: Mapping[str, Waiting] | None = None,
) -> list[pb.Task]:
    """Translate tasks with what was looked up for them by task id: attempts, the tasks before them, why they wait."""
    attempts, blocked_by, waiting = attempts or {}, blocked_by or {}, waiting or {}
    return [
        task(
            value,
            attempts=attempts.get(value.id, ()),
            blocked_by=blocked_by.get(value.id, ""),
            waiting=waiting.get(value.id),
        )
        for value in values
    ]


def batch(value: RequestSummary) -> service_pb.Batch:
    """Translate a batch, without its failures."""
    message = service_pb.Batch(
        request_id=value.request_id,
        creator=value.principal,
        verdict=service_pb.BatchVerdict.ValueType(value.verdict),
        done=value.done,
        total=value.total,
        states={state.name: count for state, count in value.states.items()},
    )
    _set_timestamp(message.create_time, value.created_at)
    if value.finished_at is not None:
        _set_timestamp(message.finish_time, value.finished_at)
    return message


def upload(value: model.Upload, *, active: bool, expires_at: float) -> service_pb.Upload:
    """Translate an upload without its tasks. A complete one has its size for an offset."""
    complete = value.state is UploadState.COMPLETE
    return service_pb.Upload(
        id=value.id,
        request_id=value.request_id,
        offset=value.payload.size if complete and value.payload is not None else value.offset,
        crc32c=value.payload.crc32c if complete and value.payload is not None else value.crc32c,
        complete=complete,
        active=active,
        expire_time=timestamp(expires_at),
    )
