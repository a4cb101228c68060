"""Turns rows into values of the model, and back."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.task import (
    AnyValue,
    Attempt,
    Debt,
    Destination,
    FilePush,
    Job,
    Payload,
    Session,
    Status,
    Submission,
    Task,
    Upload,
)
from longshore.server.model.values import AttemptEnd, DeliveryMethod, State, UploadState, WaitReason
from longshore.server.store.tables import codec
from longshore.server.store.tables.schema import attempts, debts, payloads, sessions, submissions, tasks, uploads

Row = tuple[Any, ...]
"""A row as the driver returns it: values in the order of the columns that were asked for."""

# Tasks --------------------------------------------------------------------------------------------------------------

_T, _SUB = tasks.c, submissions.c

STATUS_COLUMNS: Final[tuple[sa.Column[Any], ...]] = (
    _T.revision, _T.state, _T.head, _T.wait_reason, _T.due_at, _T.attempt, _T.tries, _T.crashes, _T.solo_crashes,
    _T.alone, _T.session_id, _T.worker, _T.started_at, _T.deadline_ticks, _T.commit_grant, _T.cancel_requested,
    _T.cancel_reason, _T.error, _T.result_type, _T.result, _T.method, _T.updated_at, _T.finished_at, _T.retryable_until,
)  # fmt: skip

SUBMISSION_COLUMNS: Final[tuple[sa.Column[Any], ...]] = (
    _T.seq, _T.id, _T.creator, _SUB.request_id, _T.kind, _T.queue, _T.priority, _SUB.labels, _SUB.work,
    _SUB.arguments_type, _SUB.arguments, _SUB.payload_id, _SUB.payload_size, _SUB.payload_crc32c, _SUB.payload_sha256,
    _SUB.run_timeout, _SUB.stall_timeout, _SUB.attempt_limit, _T.expires_at, _SUB.created_at, _SUB.retry_of,
)  # fmt: skip

_STATUS_WIDTH: Final = len(STATUS_COLUMNS)
_STATES: Final = {state.value: state for state in State}
_REASONS: Final = {reason.value: reason for reason in WaitReason}
_METHODS: Final = {method.value: method for method in DeliveryMethod}


def task_columns() -> tuple[sa.Column[Any], ...]:
    """The columns that `task_of` reads, of `tasks` joined with `submissions`."""
    return (*STATUS_COLUMNS, *SUBMISSION_COLUMNS)


def status_of(row: Row) -> Status:
    (
        revision, state, head, wait_reason, due_at, attempt, tries, crashes, solo_crashes,
        alone, session_id, worker, started_at, deadline_ticks, grant, cancel_requested,
        cancel_reason, error, result_type, result, method, updated_at, finished_at, retryable_until,
    ) = row[:_STATUS_WIDTH]  # fmt: skip
    return Status(
        revision=revision,
        state=_STATES[state],
        head=bool(head),
        wait_reason=_REASONS[wait_reason],
        due_at=due_at,
        attempt=attempt,
        tries=tries,
        crashes=crashes,
        solo_crashes=solo_crashes,
        alone=bool(alone),
        session_id=session_id or "",
        worker=worker,
        started_at=started_at,
        deadline_ticks=deadline_ticks,
        grant=None if grant is None else codec.decode_grant(grant),
        cancel_requested=bool(cancel_requested),
        cancel_reason=cancel_reason,
        error=None if error is None else codec.decode_failure(error),
        result=None if result_type is None else AnyValue(result_type, bytes(result)),
        method=_METHODS[method],
        updated_at=updated_at,
        finished_at=finished_at,
        retryable_until=retryable_until,
    )


def submission_of(row: Row) -> Submission:
    """Make the submission of a row that begins with the SUBMISSION_COLUMNS."""
    (
        seq, id_, creator, request_id, kind, queue, priority, labels, work, arguments_type,
        arguments, payload_id, payload_size, payload_crc32c, payload_sha256, run_timeout,
        stall_timeout, attempt_limit, expires_at, created_at, retry_of,
    ) = row  # fmt: skip
    payload = None
    if payload_id is not None:
        payload = Payload(payload_id, payload_size, payload_crc32c, bytes(payload_sha256))
    return Submission(
        seq=seq,
        id=id_,
        creator=creator,
        request_id=request_id,
        kind=kind,
        queue=queue,
        priority=priority,
        labels=codec.decode_map(labels),
        work=codec.decode_work(work, None if arguments_type is None else AnyValue(arguments_type, bytes(arguments))),
        payload=payload,
        run_timeout=run_timeout,
        stall_timeout=stall_timeout,
        attempt_limit=attempt_limit,
        expires_at=expires_at,
        created_at=created_at,
        retry_of=retry_of,
        retried_by=codec.retrier_of(work),
    )


def seq_in(row: Row) -> int:
    """The number of the task whose `task_columns` these are."""
    seq: int = row[_STATUS_WIDTH]
    return seq


def task_of(row: Row) -> Task:
    """Make the task of a row of `task_columns`."""
    return Task(submission_of(row[_STATUS_WIDTH:]), status_of(row))


def concurrency_key_of(work: FilePush | Job) -> str:
    """Return the concurrency key of a work. Empty means that it names no instance. Neither part has slashes."""
    if isinstance(work, FilePush):
        destination = work.destination
        return concurrency_key_at(destination.target, destination.project, destination.instance)
    return concurrency_key_at(work.target, "", work.instance)


def concurrency_key_at(target: str, project: str, instance: str) -> str:
    """Return the concurrency key of a target, project and instance. Empty means that no instance is named."""
    return f"{target}/{instance}/{_project(project)}" if instance else ""


def _project(project: str) -> str:
    """Take the project `default` for the empty one. They are the same on all targets but those that were given another
    project, which only their workers know. There two instances are taken for one: they wait for each other, and nothing
    worse happens.
    """
    return "" if project == "default" else project


def taker_of(kind: str, *, alone: bool) -> str:
    """The taker of a task: its kind, with a mark if it must run alone, on an idle worker.

    Tasks of one instance with different takers do not stand in each other's way: one of them may find no worker for
    ever.
    """
    return f"{kind}!" if alone else kind


@lru_cache(maxsize=8192)
def destination_key_of(destination: Destination) -> bytes:
    """The digest that stands for a destination in the order of deliveries."""
    if destination.project != _project(destination.project):
        destination = replace(destination, project=_project(destination.project))
    return blake2b(destination.key.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def status_values(status: Status) -> dict[str, Any]:
    """The values of a status, in the order of STATUS_COLUMNS."""
    result = status.result
    return {
        "revision": status.revision,
        "state": status.state.value,
        "head": status.head,
        "wait_reason": status.wait_reason.value,
        "due_at": status.due_at,
        "attempt": status.attempt,
        "tries": status.tries,
        "crashes": status.crashes,
        "solo_crashes": status.solo_crashes,
        "alone": status.alone,
        "session_id": status.session_id or None,
        "worker": status.worker,
        "started_at": status.started_at,
        "deadline_ticks": status.deadline_ticks,
        "commit_grant": None if status.grant is None else codec.encode_grant(status.grant),
        "cancel_requested": status.cancel_requested,
        "cancel_reason": status.cancel_reason,
        "error": None if status.error is None else codec.encode_failure(status.error),
        "result_type": None if result is None else result.type_url,
        "result": None if result is None else result.value,
        "method": status.method.value,
        "updated_at": status.updated_at,
        "finished_at": status.finished_at,
        "retryable_until": status.retryable_until,
    }


def submission_values(submission: Submission) -> dict[str, Any]:
    """A row of `submissions`, in the order of its columns."""
    payload = submission.payload
    arguments = getattr(submission.work, "arguments", None)
    return {
        "seq": submission.seq,
        "request_id": submission.request_id,
        "labels": codec.encode_map(submission.labels),
        "work": codec.with_retrier(codec.encode_work(submission.work), submission.retried_by),
        "arguments_type": None if arguments is None else arguments.type_url,
        "arguments": None if arguments is None else arguments.value,
        "payload_id": None if payload is None else payload.id,
        "payload_size": None if payload is None else payload.size,
        "payload_crc32c": None if payload is None else payload.crc32c,
        "payload_sha256": None if payload is None else payload.sha256,
        "run_timeout": submission.run_timeout,
        "stall_timeout": submission.stall_timeout,
        "attempt_limit": submission.attempt_limit,
        "created_at": submission.created_at,
        "retry_of": submission.retry_of,
    }


# The rest -----------------------------------------------------------------------------------------------------------

_A, _U, _P, _S, _D = attempts.c, uploads.c, payloads.c, sessions.c, debts.c

ATTEMPT_COLUMNS: Final[tuple[sa.Column[Any], ...]] = (
    _A.number, _A.worker, _A.session_id, _A.started_at, _A.settling, _A.alone, _A.granted_at, _A.ended_at, _A.ending,
    _A.error,
)  # fmt: skip


def attempt_of(row: Row) -> Attempt:
    number, worker, session_id, started_at, settling, alone, granted_at, ended_at, ending, error = row
    return Attempt(
        number=number,
        worker=worker,
        session_id=session_id,
        started_at=started_at,
        settling=bool(settling),
        alone=bool(alone),
        granted_at=granted_at,
        ended_at=ended_at,
        end=None if ending is None else AttemptEnd(ending),
        error=None if error is None else codec.decode_failure(error),
    )


UPLOAD_COLUMNS: Final[tuple[sa.Column[Any], ...]] = (
    _U.id, _U.principal, _U.request_id, _U.fingerprint, _U.state, _U.offset, _U.crc32c, _U.size, _U.sha256, _U.reserved,
    _U.connection, _U.touched_at, _U.payload_id, _U.payload_size, _U.payload_crc32c, _U.payload_sha256, _U.queue,
    _U.promised,
)  # fmt: skip


def upload_of(row: Row) -> Upload:
    """Make the upload of a row, without its tasks."""
    (
        id_, principal, request_id, fingerprint, state, offset, crc32c, size, sha256, reserved,
        connection, touched_at, payload_id, payload_size, payload_crc32c, payload_sha256, _, _,
    ) = row  # fmt: skip
    payload = None
    if payload_id is not None:
        payload = Payload(payload_id, payload_size, payload_crc32c, bytes(payload_sha256))
    return Upload(
        id=id_,
        principal=principal,
        request_id=request_id,
        fingerprint=fingerprint,
        state=UploadState(state),
        offset=offset,
        crc32c=crc32c,
        size=size,
        sha256=bytes(sha256),
        reserved=reserved,
        connection=connection,
        touched_at=touched_at,
        payload=payload,
    )


PAYLOAD_COLUMNS: Final[tuple[sa.Column[Any], ...]] = (_P.id, _P.size, _P.crc32c, _P.sha256)


def payload_of(row: Row) -> Payload:
    id_, size, crc32c, sha256 = row[:4]
    return Payload(id_, size, crc32c, bytes(sha256))


SESSION_COLUMNS: Final[tuple[sa.Column[Any], ...]] = (
    _S.id, _S.worker, _S.principal, _S.epoch, _S.targets, _S.kinds, _S.version, _S.started_at, _S.lease_ticks,
    _S.connected, _S.draining,
)  # fmt: skip


def session_of(row: Row, held: tuple[tuple[str, int], ...] = ()) -> Session:
    id_, worker, principal, epoch, targets, kinds, version, started_at, lease_ticks, connected, draining = row
    return Session(
        id=id_,
        worker=worker,
        principal=principal,
        epoch=epoch,
        targets=codec.decode_map(targets),
        kinds=codec.decode_map(kinds),
        version=version,
        started_at=started_at,
        lease_ticks=lease_ticks,
        connected=bool(connected),
        draining=bool(draining),
        held=held,
    )


DEBT_COLUMNS: Final[tuple[sa.Column[Any], ...]] = (
    _D.id, _D.target, _D.project, _D.instance, _D.path, _D.task_id, _D.attempt, _D.temp,
)  # fmt: skip


def debt_of(row: Row) -> Debt:
    id_, target, project, instance, path, task_id, attempt, temp = row
    return Debt(id_, Destination(target, project, instance, path), task_id, attempt, temp)
