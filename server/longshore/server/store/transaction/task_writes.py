"""Writes tasks in few shapes, each of which names only the columns that differ from task to task.

A row of `tasks` has forty columns, and a step of the usual way changes a handful of them. SQLite looks at an index, and
at a CHECK, whenever a statement sets a column of it, changed or not; and each value that is bound costs by itself. With
all columns in every statement a no-op task took 43 µs in SQLite for its own row, in these shapes 16 µs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.task import Status
from longshore.server.model.values import State
from longshore.server.store.sql.dialect import Dialect
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Bulk, Given, inserting, types_of
from longshore.server.store.tables import codec
from longshore.server.store.tables.fields import columns_of, writer
from longshore.server.store.tables.rows import IN_SUBMISSIONS, IN_TASKS, STATUS_COLUMNS, Row, status_cells
from longshore.server.store.tables.schema import labels, submissions, tasks
from longshore.server.store.transaction.loaded_tasks import LoadedTask

# New ones ---------------------------------------------------------------------------------------------------------

_FIRST: Final = Status(revision=1, state=State.QUEUED, head=True)
"""The status with which a task begins that is ready at once."""
_CLAIMED: Final = Status(revision=2, state=State.RUNNING, head=True, attempt=1)
"""The same, claimed in the transaction that makes it. Nothing else has this revision and this state."""

_submission_cells: Final = writer(IN_TASKS)
_SUBMISSION: Final = (*(column.name for column in columns_of(IN_TASKS)), "concurrency_key", "updated_at", "taker")


def _literal(value: object) -> sa.ColumnElement[Any]:
    if isinstance(value, bool):
        return sa.true() if value else sa.false()
    return sa.literal_column(f"'{value}'" if isinstance(value, str) else str(value))


def _new(sample: Status, *names: str, **fixed: bool) -> Bulk:
    """Insert rows like that of `sample`, except for the columns `names`. Columns that are NULL are left out."""
    names_of_all = (column.name for column in STATUS_COLUMNS)
    values = dict(zip(names_of_all, status_cells(sample), strict=True)) | {"live": True} | fixed
    same = {name: _literal(value) for name, value in values.items() if name not in names and value is not None}
    return inserting(tasks, *names, fixed=same)


_QUEUED: Final = _new(_FIRST, *_SUBMISSION, "ready", "paused")
_QUEUED_PUSH: Final = _new(_FIRST, *_SUBMISSION, "ready", "paused", "destination_key")
_RUN: Final = ("session_id", "worker", "started_at", "deadline_ticks")
_RUNNING: Final = _new(_CLAIMED, *_SUBMISSION, *_RUN, ready=False, paused=False)
_RUNNING_PUSH: Final = _new(_CLAIMED, *_SUBMISSION, *_RUN, "destination_key", ready=False, paused=False)
_COLUMNS: Final = (*(column.name for column in STATUS_COLUMNS), "live", "taker", "ready", "paused")
_ANY: Final = inserting(tasks, *_SUBMISSION[:-2], "destination_key", *_COLUMNS)
_ANY_EXCLUSIVE: Final = inserting(tasks, *_SUBMISSION[:-2], "destination_key", *_COLUMNS, "exclusive")

_INSERT_SUBMISSION: Final = inserting(submissions, *(column.name for column in columns_of(IN_SUBMISSIONS)))
_cells_of: Final = writer(IN_SUBMISSIONS)
_IN_PLAIN: Final = tuple(field for field in IN_SUBMISSIONS if field.path not in {"work", "payload"})
_INSERT_PLAIN_SUBMISSION: Final = inserting(submissions, *(column.name for column in columns_of(_IN_PLAIN)), "work")
"""Inserts the submissions of tasks without payload and arguments."""
_plain_cells_of: Final = writer(_IN_PLAIN)
_INSERT_LABEL: Final = inserting(labels)


def write_new(link: Link, loaded_tasks: Iterable[LoadedTask], paused: Callable[[str], bool]) -> None:
    """Insert tasks that are not stored yet, together with their submissions."""
    rows: dict[Bulk, list[Row]] = {}
    plain: list[Row] = []
    full: list[Row] = []
    named: list[Row] = []
    for loaded in loaded_tasks:
        shape, row = _new_row(loaded, paused)
        rows.setdefault(shape, []).append(row)
        submission = loaded.submission
        if submission.payload is None and submission.work.arguments is None:
            plain.append((*_plain_cells_of(submission), codec.encode_work(submission.work)))
        else:
            full.append(_cells_of(submission))
        if submission.terms.labels:
            named += [(name, value, submission.seq) for name, value in submission.terms.labels.items()]
    for shape, found in rows.items():
        link.write(shape, found)
    link.write(_INSERT_PLAIN_SUBMISSION, plain)
    link.write(_INSERT_SUBMISSION, full)
    link.write(_INSERT_LABEL, named)


def _new_row(loaded: LoadedTask, paused: Callable[[str], bool]) -> tuple[Bulk, Row]:
    submission, status, taker = loaded.submission, loaded.status, loaded.taker
    head = (*_submission_cells(submission), loaded.concurrency_key, status.updated_at)
    key = loaded.destination_key
    row: Row
    if submission.work.exclusive:
        return _ANY_EXCLUSIVE, (*head[:-1], key, *_all_values(loaded, paused), True)
    if status.followed:
        return _ANY, (*head[:-1], key, *_all_values(loaded, paused))
    if status.state is State.RUNNING and status.revision == _CLAIMED.revision:
        row = (
            *head, taker, status.session_id, status.worker, status.started_at,
            status.deadline_ticks,
        )  # fmt: skip
        return (_RUNNING, row) if key is None else (_RUNNING_PUSH, (*row, key))
    if status.state is State.QUEUED and status.revision == _FIRST.revision:
        held = paused(submission.terms.queue)
        row = (*head, taker, _is_ready(loaded, held), held)
        return (_QUEUED, row) if key is None else (_QUEUED_PUSH, (*row, key))
    return _ANY, (*head[:-1], key, *_all_values(loaded, paused))


def _is_ready(loaded: LoadedTask, held: bool) -> bool:  # noqa: FBT001
    """Whether claims see the task: at once where it names no instance, else once its instance has room."""
    return not held and (not loaded.concurrency_key or (loaded.stored is None and loaded.ready))


def _all_values(loaded: LoadedTask, paused: Callable[[str], bool]) -> Iterable[Any]:
    """The values of the _COLUMNS, in their order."""
    queued = loaded.status.state is State.QUEUED
    held = queued and paused(loaded.submission.terms.queue)
    ready = queued and _is_ready(loaded, held)
    return (*status_cells(loaded.status), not loaded.status.state.terminal, loaded.taker, ready, held)


# Changed ones -----------------------------------------------------------------------------------------------------


def _update(names: Iterable[str], fixed: Mapping[str, sa.ColumnElement[Any]] | None = None) -> Bulk:
    names = tuple(names)

    def make(dialect: Dialect, given: Given, _: sa.FromClause | None) -> sa.Update:
        known = [name for name in names if not dialect.schema.lacks(tasks.c[name])]
        return (
            tasks.update()
            .where(tasks.c.seq == given["of_seq"], tasks.c.revision == given["of_revision"])
            .values({name: given[name] for name in known} | dict(fixed or {}))
        )

    return Bulk(make, types_of(tasks, *names, of_seq="seq", of_revision="revision"))


_SELDOM: Final = ("head", "live")
_UPDATE: Final = _update(_COLUMNS)
_MOVE: Final = _update(name for name in _COLUMNS if name not in _SELDOM)
"""Writes tasks that stay live and are heads, or not, as before."""
_MOVED: Final = [number for number, name in enumerate(_COLUMNS) if name not in _SELDOM]

_FIELDS: Final = tuple(Status.__dataclass_fields__)


def _others(*names: str) -> Callable[[Status], Any]:
    """The fields of a status that a shape leaves as they are."""
    return attrgetter(*(name for name in _FIELDS if name not in names))


_CLAIM: Final = ("revision", "updated_at", "attempt", "session_id", "worker", "started_at", "deadline_ticks")
_TAKE: Final = _update(_CLAIM, {"state": _literal(State.RUNNING.value), "ready": sa.false(), "paused": sa.false()})
_others_of_take: Final = _others("state", *_CLAIM)
_GRANT: Final = ("revision", "updated_at", "commit_grant", "method")
_PERMIT: Final = _update(_GRANT, {"state": _literal(State.COMMITTING.value)})
_others_of_permit: Final = _others("revision", "updated_at", "state", "grant", "method")
_END: Final = ("revision", "updated_at", "finished_at", "method")
_SUCCEED: Final = _update(
    _END,
    {
        "state": _literal(State.SUCCEEDED.value), "head": sa.false(), "live": sa.false(), "session_id": sa.null(),
        "deadline_ticks": sa.null(), "commit_grant": sa.null(),
    },
)  # fmt: skip
_others_of_success: Final = _others(*_END, "state", "head", "session_id", "deadline_ticks", "grant")
_ended: Final = attrgetter("head", "session_id", "deadline_ticks", "grant")
_HOW_IT_ENDS: Final = (False, "", None, None)


def write_changed(link: Link, loaded_tasks: Iterable[LoadedTask], paused: Callable[[str], bool]) -> None:
    """Update tasks that are stored, on condition of the revision that the database has."""
    rows: dict[Bulk, list[Row]] = {}
    for loaded in sorted(loaded_tasks, key=lambda loaded: loaded.submission.seq):
        shape, row = _changed_row(loaded, paused)
        rows.setdefault(shape, []).append(row)
    for shape, found in rows.items():
        link.write(shape, found, exactly=True)


def _changed_row(loaded: LoadedTask, paused: Callable[[str], bool]) -> tuple[Bulk, Row]:
    old, new = loaded.stored, loaded.status
    if old is None:
        raise AssertionError("the task is not stored")
    where = (loaded.submission.seq, old.revision)
    before, after = old.state, new.state
    if after is State.SUCCEEDED:
        if (
            (before is State.RUNNING or before is State.COMMITTING)
            and _ended(new) == _HOW_IT_ENDS
            and _others_of_success(old) == _others_of_success(new)
        ):
            return _SUCCEED, (new.revision, new.updated_at, new.finished_at, new.method.value, *where)
    elif after is State.RUNNING:
        if before is State.QUEUED and _others_of_take(old) == _others_of_take(new):
            return _TAKE, (
                new.revision, new.updated_at, new.attempt, new.session_id, new.worker, new.started_at,
                new.deadline_ticks, *where,
            )  # fmt: skip
    elif (
        after is State.COMMITTING
        and before is State.RUNNING
        and new.grant is not None
        and _others_of_permit(old) == _others_of_permit(new)
    ):
        return _PERMIT, (new.revision, new.updated_at, codec.encode_grant(new.grant), new.method.value, *where)
    values = tuple(_all_values(loaded, paused))
    if old.head != new.head or after.terminal:
        return _UPDATE, (*values, *where)
    return _MOVE, (*[values[number] for number in _MOVED], *where)
