"""The model's values as the contract's messages. Protobuf stops here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from longshore.server.model import task as model
from longshore.server.model.values import State, UploadState, WaitReason
from longshore.v1 import task_pb2 as pb
from longshore.v1 import task_service_pb2 as service_pb

ATTEMPTS_SHOWN = 5
"""How many attempts a Task carries; ListAttempts has all."""


def timestamp(seconds: float) -> Timestamp:
    """Seconds since the epoch as a Timestamp, to the microsecond."""
    whole = int(seconds // 1)
    return Timestamp(seconds=whole, nanos=round((seconds - whole) * 1e6) * 1000 % 1_000_000_000)


def duration(seconds: float) -> Duration:
    """Seconds (zero or more) as a Duration, to the microsecond."""
    whole, micros = divmod(round(seconds * 1e6), 1_000_000)
    return Duration(seconds=whole, nanos=micros * 1000)


def any_message(value: model.AnyValue) -> AnyMessage:
    """A google.protobuf.Any, unopened."""
    return AnyMessage(type_url=value.type_url, value=value.value)


def failure(value: model.Failure) -> pb.TaskError:
    """Why something did not succeed."""
    return pb.TaskError(reason=value.reason, message=value.message, transient=value.transient)


def payload(value: model.Payload) -> pb.Payload:
    """What a task works on."""
    return pb.Payload(id=value.id, size=value.size, crc32c=value.crc32c, sha256=value.sha256)


def file_push(value: model.FilePush) -> pb.FilePush:
    """One file to one destination."""
    place = value.destination
    return pb.FilePush(
        destination=pb.Destination(
            target=place.target, project=place.project, instance=place.instance, path=place.path
        ),
        mode=value.mode,
        uid=value.uid,
        gid=value.gid,
        create_parents=value.create_parents,
        if_exists=pb.IfExists.ValueType(value.if_exists),
        when_stopped=pb.WhenStopped.ValueType(value.when_stopped),
        when_absent=pb.WhenAbsent.ValueType(value.when_absent),
        read_back=value.read_back,
    )


def job(value: model.Job) -> pb.JobSpec:
    """A call of a handler."""
    return pb.JobSpec(
        kind=value.kind,
        arguments=any_message(value.arguments) if value.arguments is not None else None,
        target=value.target,
        instance=value.instance,
    )


def attempt(value: model.Attempt) -> pb.Attempt:
    """One run of a task."""
    message = pb.Attempt(
        number=value.number,
        worker=value.worker,
        session_id=value.session_id,
        start_time=timestamp(value.started_at),
        outcome=value.end.value if value.end is not None else "",
        settling=value.settling,
        alone=value.alone,
    )
    if value.ended_at is not None:
        message.end_time.CopyFrom(timestamp(value.ended_at))
    if value.granted_at is not None:
        message.grant_time.CopyFrom(timestamp(value.granted_at))
    if value.error is not None:
        message.error.CopyFrom(failure(value.error))
    return message


def task(value: model.Task, *, attempts: Sequence[model.Attempt] = (), blocked_by: str = "") -> pb.Task:
    """A whole Task. `attempts` are the last few; `blocked_by` is shown for a BLOCKED task only."""
    order, status = value.order, value.status
    message = pb.Task(
        id=order.id,
        revision=status.revision,
        state=pb.TaskState.ValueType(status.state),
        done=status.state.terminal,
        kind=order.kind,
        queue=order.queue,
        priority=order.priority,
        labels=order.labels,
        creator=order.creator,
        request_id=order.request_id,
        wait_reason=pb.WaitReason.ValueType(_wait_reason(status)),
        blocked_by=blocked_by if status.state is State.BLOCKED else "",
        cancel_requested=status.cancel_requested,
        cancel_reason=status.cancel_reason,
        attempts=[attempt(one) for one in attempts[-ATTEMPTS_SHOWN:]],
        attempt=status.attempt,
        tries=status.tries,
        crashes=status.crashes,
        attempt_limit=order.attempt_limit,
        delivery_method=pb.DeliveryMethod.ValueType(status.method),
        run_timeout=duration(order.run_timeout),
        retry_of=order.retry_of,
        create_time=timestamp(order.created_at),
        expire_time=timestamp(order.expires_at),
        worker=status.worker,
    )
    if isinstance(order.work, model.FilePush):
        message.file_push.CopyFrom(file_push(order.work))
    else:
        message.job.CopyFrom(job(order.work))
    if order.payload is not None:
        message.payload.CopyFrom(payload(order.payload))
    if order.stall_timeout is not None:
        message.stall_timeout.CopyFrom(duration(order.stall_timeout))
    if status.error is not None:
        message.error.CopyFrom(failure(status.error))
    if status.result is not None:
        message.result.CopyFrom(any_message(status.result))
    _times(message, status)
    return message


def _wait_reason(status: model.Status) -> WaitReason:
    return WaitReason.EARLIER_TASK if status.state is State.BLOCKED else status.wait_reason


def _times(message: pb.Task, status: model.Status) -> None:
    if status.started_at is not None:
        message.start_time.CopyFrom(timestamp(status.started_at))
    if status.finished_at is not None:
        message.finish_time.CopyFrom(timestamp(status.finished_at))
    if status.due_at is not None:
        message.due_time.CopyFrom(timestamp(status.due_at))
    if status.retryable_until is not None:
        message.retryable_until.CopyFrom(timestamp(status.retryable_until))


def tasks(
    values: Sequence[model.Task],
    *,
    attempts: Mapping[str, Sequence[model.Attempt]] | None = None,
    blocked_by: Mapping[str, str] | None = None,
) -> list[pb.Task]:
    """Tasks with what was looked up for them: attempts by task id, heads by destination key."""
    attempts, blocked_by = attempts or {}, blocked_by or {}
    return [
        task(
            value,
            attempts=attempts.get(value.id, ()),
            blocked_by=blocked_by.get(value.order.destination.key, "") if value.order.destination else "",
        )
        for value in values
    ]


def upload(value: model.Upload, *, active: bool, expires_at: float) -> service_pb.Upload:
    """An upload; a complete one says so by an offset that is its size."""
    complete = value.state is UploadState.COMPLETE
    return service_pb.Upload(
        id=value.id,
        request_id=value.request_id,
        offset=value.payload.size if complete and value.payload is not None else value.offset,
        crc32c=value.payload.crc32c if complete and value.payload is not None else value.crc32c,
        complete=complete,
        active=active,
        expire_time=timestamp(expires_at),
        tasks=tasks(value.tasks),
    )
