"""This module turns rows into values of the model, and values into rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import IntEnum
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.task import (
    Attempt,
    Debt,
    Destination,
    Payload,
    Session,
    Status,
    Submission,
    Task,
    Terms,
    Upload,
)
from longshore.server.model.values import AttemptEnd, DeliveryMethod, State, UploadState, WaitReason
from longshore.server.store.tables import codec
from longshore.server.store.tables.fields import Field, columns_of, reader, writer
from longshore.server.store.tables.schema import attempts, debts, payloads, sessions, submissions, tasks, uploads

Row = tuple[Any, ...]
"""A row as the driver returns it: values in the order of the columns that were asked for."""

# The details: terms that no query looks at ---------------------------------------------------------------------------

_T, _SUB = tasks.c, submissions.c

_TERM_COLUMNS: Final = {"queue": _T.queue, "priority": _T.priority, "run_timeout": _SUB.run_timeout}
"""The terms that queries, indexes or limits look at. All others are details."""
_DETAILS: Final = tuple(field.name for field in fields(Terms) if field.name not in _TERM_COLUMNS)
_OF_RETRIES: Final = ("retry_of", "retried_by")
_NOTHING: Final = "{}"
"""The details of a task with default terms that is no retry."""
_details_in: Final = attrgetter(*_DETAILS)
_DEFAULTS: Final = _details_in(Terms())


def details_of(submission: Submission) -> str:
    """Write the terms that differ from their defaults, and the task that this one retries, as JSON."""
    values = _details_in(submission.terms)
    if values == _DEFAULTS and not submission.retry_of:
        return _NOTHING
    said = {name: value for name, value, usual in zip(_DETAILS, values, _DEFAULTS, strict=True) if value != usual}
    said |= {name: value for name in _OF_RETRIES if (value := getattr(submission, name))}
    return codec.encode_map(said)


_LONG: Final = 2048
"""Characters of details. Longer ones are read each time: 1,024 remembered tasks with all labels would take 70 MB."""


def _read(details: str) -> Mapping[str, Any]:
    """Read details."""
    return codec.decode_map(details) if len(details) > _LONG else _remembered(details)


@lru_cache(maxsize=1024)
def _remembered(details: str) -> Mapping[str, Any]:
    """Read details. The result is cached, because the tasks of one caller have the same ones."""
    return codec.decode_map(details)


@lru_cache(maxsize=1024)
def _remembered_terms(*cells: Any) -> Terms:
    return _made_terms(*cells)


def _terms_of(*cells: Any) -> Terms:
    """Make terms of the _TERM_COLUMNS and the details."""
    return _made_terms(*cells) if len(cells[-1]) > _LONG else _remembered_terms(*cells)


def _made_terms(*cells: Any) -> Terms:
    """Make the same anew. A detail that is missing has its default, and one that this version does not know is left
    out: servers of the version before and after write to the same database."""
    *columns, details = cells
    said = _read(details)
    told = {name: said[name] for name in _DETAILS if name in said}
    if "after" in told:
        told["after"] = tuple(told["after"])
    return Terms(**dict(zip(_TERM_COLUMNS, columns, strict=True)), **told)


def _of_retry(name: str) -> Callable[[str], str]:
    return lambda details: "" if details == _NOTHING else str(_read(details).get(name, ""))


# Tasks --------------------------------------------------------------------------------------------------------------


def _by_number(kind: type[IntEnum]) -> Callable[[int], Any]:
    return {each.value: each for each in kind}.__getitem__


_number: Final = attrgetter("_value_")

STATUS: Final = (
    Field("revision", (_T.revision,)),
    Field("state", (_T.state,), _number, _by_number(State)),
    Field("head", (_T.head,), None, bool),
    Field("wait_reason", (_T.wait_reason,), _number, _by_number(WaitReason)),
    Field("due_at", (_T.due_at,)),
    Field("attempt", (_T.attempt,)),
    Field("tries", (_T.tries,)),
    Field("crashes", (_T.crashes,)),
    Field("solo_crashes", (_T.solo_crashes,)),
    Field("alone", (_T.alone,), None, bool),
    Field("session_id", (_T.session_id,), lambda held: held or None, lambda held: held or ""),
    Field("worker", (_T.worker,)),
    Field("started_at", (_T.started_at,)),
    Field("deadline_ticks", (_T.deadline_ticks,)),
    Field("grant", (_T.commit_grant,), codec.encode_grant, codec.decode_grant, optional=True),
    Field("cancel_requested", (_T.cancel_requested,), None, bool),
    Field("cancel_reason", (_T.cancel_reason,)),
    Field("error", (_T.error,), codec.encode_failure, codec.decode_failure, optional=True),
    Field("result", (_T.result_type, _T.result), codec.any_cells, codec.any_of, optional=True),
    Field("method", (_T.method,), _number, _by_number(DeliveryMethod)),
    Field("updated_at", (_T.updated_at,)),
    Field("finished_at", (_T.finished_at,)),
    Field("retryable_until", (_T.retryable_until,)),
    Field("superseded_by", (_T.superseded_by,), lambda by: by or None, lambda by: by or ""),
    Field("unmet", (_T.unmet,), lambda count: count or None, lambda count: count or 0),
    Field("followed", (_T.followed,), lambda flag: flag or None, bool),
)
"""The part of a task that changes: columns of `tasks`."""

SUBMISSION: Final = (
    Field("seq", (_T.seq,)),
    Field("id", (_T.id,)),
    Field("creator", (_T.creator,)),
    Field("request_id", (_SUB.request_id,)),
    Field("work", (_SUB.work, _SUB.arguments_type, _SUB.arguments), codec.work_cells, codec.work_of),
    Field("terms", (*_TERM_COLUMNS.values(), _SUB.details), None, _terms_of),
    Field(
        "payload",
        (_SUB.payload_id, _SUB.payload_size, _SUB.payload_crc32c, _SUB.payload_sha256),
        attrgetter("id", "size", "crc32c", "sha256"),
        lambda id_, size, crc32c, sha256: Payload(id_, size, crc32c, bytes(sha256)),
        optional=True,
    ),
    Field("expires_at", (_T.expires_at,)),
    Field("created_at", (_SUB.created_at,)),
    *(Field(name, (_SUB.details,), None, _of_retry(name)) for name in _OF_RETRIES),
)
"""The part of a task that never changes, as it is read."""
_TERMS: Final = tuple(Field(f"terms.{name}", (column,)) for name, column in _TERM_COLUMNS.items())
_CELLS: Final = tuple(field for field in SUBMISSION if _SUB.details not in field.columns)


def _written_to(table: sa.Table, *more: Field) -> tuple[Field, ...]:
    """Return the fields of a submission that are written to this table."""
    return (*(field for field in (*_CELLS, *_TERMS) if field.columns[0].table is table), *more)


IN_TASKS: Final = _written_to(
    tasks,
    Field("work.kind", (_T.kind,)),
    Field("work.target", (_T.target,)),
    Field("work.project", (_T.project,)),
    Field("work.instance", (_T.instance,)),
    Field("request_id", (_T.batch,)),
)
"""The fields that `tasks` has for indexes and claims."""
IN_SUBMISSIONS: Final = _written_to(submissions, Field("seq", (_SUB.seq,)), Field("", (_SUB.details,), details_of))
"""The others: apart, because a row of `tasks` is written anew at each change."""

STATUS_COLUMNS: Final = columns_of(STATUS)
SUBMISSION_COLUMNS: Final = columns_of(SUBMISSION)
_STATUS_WIDTH: Final = len(STATUS_COLUMNS)

status_of: Final = reader(Status, STATUS)
"""Makes the status of a row of the STATUS_COLUMNS."""
submission_of: Final = reader(Submission, SUBMISSION)
"""Makes the submission of a row of the SUBMISSION_COLUMNS."""
status_cells: Final = writer(STATUS)
"""The values of the STATUS_COLUMNS."""


def task_columns() -> tuple[sa.Column[Any], ...]:
    """Return the columns that `task_of` reads, of `tasks` joined with `submissions`."""
    return (*STATUS_COLUMNS, *SUBMISSION_COLUMNS)


def seq_in(row: Row) -> int:
    """Return the number of the task whose `task_columns` these are."""
    seq: int = row[_STATUS_WIDTH]
    return seq


def task_of(row: Row) -> Task:
    """Make the task of a row of `task_columns`."""
    return Task(submission_of(row[_STATUS_WIDTH:]), status_of(row[:_STATUS_WIDTH]))


def taker_of(kind: str, *, alone: bool, revision: int = 0) -> str:
    """Return the taker of a task: its kind, with a mark if its worker must know a revision of the contract, and with a
    mark if the task must run alone, on an idle worker.

    Tasks of one instance with different takers do not stand in each other's way: one of them may find no worker for
    ever.
    """
    taker = f"{kind}~{revision}" if revision else kind
    return f"{taker}!" if alone else taker


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


def whole_upload(principal: str, request_id: str, upload_id: str, fingerprint: str, tasks: tuple[Task, ...]) -> Upload:
    """Make the upload of a request whose upload has no row: it arrived whole, and was complete at once. Its tasks stay
    as long as its request, and each has its payload."""
    submission = tasks[0].submission
    payload = submission.payload
    if payload is None:
        raise LookupError(f"the request {request_id!r} of an upload has tasks without a payload")
    return Upload(
        id=upload_id,
        principal=principal,
        request_id=request_id,
        fingerprint=fingerprint,
        state=UploadState.COMPLETE,
        offset=payload.size,
        crc32c=payload.crc32c,
        size=payload.size,
        sha256=payload.sha256,
        reserved=0,
        connection=1,
        touched_at=submission.created_at,
        payload=payload,
        tasks=tasks,
    )


PAYLOAD_COLUMNS: Final[tuple[sa.Column[Any], ...]] = (_P.id, _P.size, _P.crc32c, _P.sha256)


def payload_of(row: Row) -> Payload:
    id_, size, crc32c, sha256 = row[:4]
    return Payload(id_, size, crc32c, bytes(sha256))


SESSION_COLUMNS: Final[tuple[sa.Column[Any], ...]] = (
    _S.id, _S.worker, _S.principal, _S.epoch, _S.targets, _S.kinds, _S.version, _S.started_at, _S.lease_ticks,
    _S.connected, _S.draining, _S.revision,
)  # fmt: skip


def session_of(row: Row, held: tuple[tuple[str, int], ...] = ()) -> Session:
    id_, worker, principal, epoch, targets, kinds, version, started_at, lease_ticks, connected, draining, revision = row
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
        revision=revision or 0,
    )


DEBT_COLUMNS: Final[tuple[sa.Column[Any], ...]] = (
    _D.id, _D.target, _D.project, _D.instance, _D.path, _D.task_id, _D.attempt, _D.temp,
)  # fmt: skip


def debt_of(row: Row) -> Debt:
    id_, target, project, instance, path, task_id, attempt, temp = row
    return Debt(id_, Destination(target, project, instance, path), task_id, attempt, temp)
