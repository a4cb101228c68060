"""The terms that no query looks at are one JSON text. It leaves out defaults, and a reader skips unknown terms."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import fields, replace
from typing import Any

import pytest

from longshore.contract.limits import MOST_LABELS
from longshore.contract.names import LONGEST_LABEL_VALUE
from longshore.server.model.task import (
    AnyValue,
    Destination,
    FilePush,
    Job,
    Payload,
    Status,
    Submission,
    Task,
    Terms,
)
from longshore.server.model.values import State
from longshore.server.store.memory.tasks import TaskCache
from longshore.server.store.tables.fields import columns_of, writer
from longshore.server.store.tables.rows import IN_SUBMISSIONS, IN_TASKS, SUBMISSION_COLUMNS, details_of, submission_of
from longshore.server.store.tables.schema import submissions, tasks
from longshore.server.store.transaction.loaded_tasks import LoadedTask
from tests.support.stores.tasks import submission

PLAIN = submission(FilePush(Destination("default", "", "web1", "/a")), terms=Terms())
STRANGE = 'naïve " \\ \u2028 \0 \n \x7f \U0001f6a2 %s {} "retried_by":"boss"'
SUBMISSIONS = (
    PLAIN,
    replace(PLAIN, work=Job("report", AnyValue(STRANGE, b"\0\xff"), "t", "i"), payload=Payload("p", 2**63, 7, b"s")),
    replace(PLAIN, work=Job("report", None), retry_of="old", retried_by=STRANGE),
    replace(PLAIN, terms=Terms(description=STRANGE)),
    replace(
        PLAIN,
        terms=Terms(
            "q", -3, {STRANGE: STRANGE}, expire_after=0.1, run_timeout=1e-9, stall_timeout=0.0, attempt_limit=1
        ),
    ),
)


def row_of(submission: Submission, **cells: Any) -> tuple[Any, ...]:
    """The row that the database answers with, with these cells in place of its own."""
    stored = dict(zip(columns_of(IN_TASKS), writer(IN_TASKS)(submission), strict=True))
    stored |= dict(zip(columns_of(IN_SUBMISSIONS), writer(IN_SUBMISSIONS)(submission), strict=True))
    return tuple(cells.get(column.name, stored[column]) for column in SUBMISSION_COLUMNS)


@pytest.mark.parametrize("submission", SUBMISSIONS)
def test_a_submission_comes_back_as_it_was(submission: Submission) -> None:
    assert submission_of(row_of(submission)) == submission


def test_defaults_are_left_out() -> None:
    assert details_of(PLAIN) == "{}"
    patient = replace(PLAIN, terms=Terms(attempt_limit=99))
    assert json.loads(details_of(patient)) == {"attempt_limit": 99}


def test_a_missing_detail_is_the_default_and_an_unknown_one_is_passed_over() -> None:
    """As another version wrote it: the one before knows fewer terms, and the one after more."""
    other = row_of(PLAIN, details='{"attempt_limit":2,"colour":{"of":["the",null]}}')
    assert submission_of(other) == replace(PLAIN, terms=Terms(attempt_limit=2))


def test_every_column_of_both_tables_is_in_the_table_of_fields() -> None:
    """But for what a status and the order of claims add to `tasks`."""
    assert {column.name for column in columns_of(IN_SUBMISSIONS)} == set(submissions.c.keys())
    assert {column.table for column in columns_of(IN_TASKS)} == {tasks}


def test_no_default_of_a_term_has_changed() -> None:
    """Stored tasks leave it out. A term whose default is to change gets another name."""
    assert {field.name: getattr(Terms(), field.name) for field in fields(Terms)} == {
        "queue": "default",
        "priority": 0,
        "labels": {},
        "expire_after": 604_800.0,
        "run_timeout": 3600.0,
        "stall_timeout": None,
        "attempt_limit": 5,
        "description": "",
        "after": (),
        "after_any_end": False,
    }


def labelled(number: int) -> Submission:
    """A submission with as many labels as may be, none of whose values another one has."""
    labels = {f"key{one}": f"{number}-{one}".ljust(LONGEST_LABEL_VALUE, "x") for one in range(MOST_LABELS)}
    return replace(PLAIN, seq=number, terms=Terms(labels=labels))


def test_long_details_are_not_remembered() -> None:
    """P3: the memory of a server does not grow by what its callers write into labels."""
    rows = [row_of(labelled(number)) for number in range(200)]
    tracemalloc.start()
    for row in rows:
        submission_of(row)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1 << 20


def test_a_task_with_long_labels_is_not_kept_between_transactions() -> None:
    cache = TaskCache()
    status = Status(revision=1, state=State.QUEUED, head=True)
    few, many = (LoadedTask(Task(one, status), stored=True) for one in (PLAIN, labelled(2)))
    cache.update({1: few, 2: many})
    assert (cache.get(1, None), cache.get(2, None)) == (few, None)
