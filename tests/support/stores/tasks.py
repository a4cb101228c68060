"""Tasks as values, for tests that need no store."""

from __future__ import annotations

from typing import Any

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
    Work,
)
from longshore.server.model.values import State


def job(
    task_id: str = "task-1", *, payload: Payload | None = None, arguments: bytes = b"", target: str = "", **status: Any
) -> Task:
    """A running job, unless `status` says otherwise."""
    work = Job("job", AnyValue("type.googleapis.com/test", arguments), target=target)
    return Task(submission(work, id=task_id, payload=payload), _status(status))


def pushing(task_id: str = "task-1", *, path: str = "/etc/motd", instance: str = "c1", **status: Any) -> Task:
    """A running push."""
    work = FilePush(Destination("default", "", instance, path))
    return Task(submission(work, id=task_id, payload=Payload("payload-1", 3, 0)), _status(status))


def submission(work: Work, **more: Any) -> Submission:
    """A submission with defaults for whatever is not said."""
    values: dict[str, Any] = {
        "seq": 1,
        "id": "task-1",
        "creator": "alice",
        "request_id": "request-1",
        "terms": Terms(run_timeout=60.0),
        "payload": None,
        "expires_at": 1e10,
        "created_at": 1.0,
    }
    return Submission(work=work, **(values | more))


def _status(fields: dict[str, Any]) -> Status:
    running: dict[str, Any] = {
        "revision": 2,
        "state": State.RUNNING,
        "head": True,
        "attempt": 1,
        "session_id": "session-of-a-test-0001",
        "worker": "worker-1",
        "started_at": 2.0,
    }
    return Status(**{**running, **fields})
