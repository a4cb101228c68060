"""Reads what became of the tasks of one request. They are numbered without gaps, so each statement is a range of the
primary key."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from longshore.server.model.request_summary import RequestSummary
from longshore.server.model.values import State
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import Statement, statement
from longshore.server.store.tables.rows import task_columns, task_of
from longshore.server.store.tables.schema import STATE, requests, submissions, tasks

SHOWN: Final = 10
"""The most failures that a batch names."""

_REQUEST: Final = statement(
    sa.select(requests.c.first_seq, requests.c.count, submissions.c.created_at)
    .join_from(requests, submissions, submissions.c.seq == requests.c.first_seq)
    .where(requests.c.request_id == sa.bindparam("request_id"), requests.c.principal == sa.bindparam("principal"))
)
_of_request: Final = sa.and_(tasks.c.seq >= sa.bindparam("first"), tasks.c.seq < sa.bindparam("beyond"))
_COUNTS: Final = statement(
    sa.select(tasks.c.state, sa.func.count(), sa.func.max(tasks.c.finished_at))
    .where(_of_request)
    .group_by(tasks.c.state)
)


def _first(*states: State) -> Statement:
    return statement(
        sa.select(*task_columns())
        .join_from(tasks, submissions, tasks.c.seq == submissions.c.seq)
        .where(_of_request, tasks.c.state.in_([STATE[state] for state in states]))
        .order_by(tasks.c.seq)
        .limit(sa.literal_column(str(SHOWN)))
    )


_FAILED: Final = _first(State.FAILED, State.EXPIRED)
_CANCELLED: Final = _first(State.CANCELLED)


def request_summary(link: Link, principal: str, request_id: str) -> RequestSummary | None:
    """See Store.request_summary."""
    row = link.row(_REQUEST, principal=principal, request_id=request_id)
    if row is None:
        return None
    first, count, created_at = row
    within = {"first": first, "beyond": first + count}
    counts = [(State(state), number, ended) for state, number, ended in link.rows(_COUNTS, **within)]
    failures = link.rows(_FAILED, **within) or link.rows(_CANCELLED, **within)
    ends = [ended for _, _, ended in counts]
    return RequestSummary(
        principal=principal,
        request_id=request_id,
        states={state: number for state, number, _ in counts},
        failures=tuple(task_of(each) for each in failures),
        created_at=created_at,
        finished_at=None if None in ends else max(ends, default=None),
    )
