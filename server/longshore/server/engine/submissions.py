"""What somebody asks for, and the plans that come of it: defaults filled in, and a fingerprint to know it again by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from longshore.server.model.task import FILE_PUSH, FilePush, Job
from longshore.server.store.commands import TaskPlan

_DAY: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a request leaves open. Times in seconds."""

    run_timeout: float = 3600.0
    expire_after: float = 7 * _DAY
    attempt_limit: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRequest:
    """A validated TaskSpec; None: the server's default. `work` is one push per destination, or one job."""

    work: tuple[FilePush, ...] | Job
    queue: str = "default"
    priority: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    not_before: float = 0.0
    expire_after: float | None = None
    run_timeout: float | None = None
    stall_timeout: float | None = None
    attempt_limit: int | None = None

    @property
    def tasks(self) -> int:
        """How many tasks it makes."""
        return 1 if isinstance(self.work, Job) else len(self.work)


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest:
    """A validated UploadHeader."""

    request_id: str
    task: TaskRequest
    size: int | None = None
    sha256: bytes = b""
    """32 bytes, or empty."""
    take_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """A validated SubmitTaskRequest. `payload_id` may be empty for a job."""

    request_id: str
    task: TaskRequest
    payload_id: str = ""


def plans(request: TaskRequest, defaults: Defaults) -> tuple[TaskPlan, ...]:
    """One plan per task, in the order of the destinations."""
    works: tuple[FilePush | Job, ...] = (request.work,) if isinstance(request.work, Job) else request.work
    return tuple(
        TaskPlan(
            kind=work.kind if isinstance(work, Job) else FILE_PUSH,
            work=work,
            queue=request.queue,
            priority=request.priority,
            labels=request.labels,
            not_before=request.not_before,
            expire_after=defaults.expire_after if request.expire_after is None else request.expire_after,
            run_timeout=defaults.run_timeout if request.run_timeout is None else request.run_timeout,
            stall_timeout=request.stall_timeout,
            attempt_limit=defaults.attempt_limit if request.attempt_limit is None else request.attempt_limit,
        )
        for work in works
    )


def upload_fingerprint(request: UploadRequest) -> str:
    """Equal for two headers exactly when they ask for the same. `request_id` and `take_over` are no part of that."""
    declared = {"size": request.size, "sha256": request.sha256.hex()}
    return _fingerprint({"call": "upload", "task": _task(request.task), **declared})


def submit_fingerprint(request: SubmitRequest) -> str:
    """The same for submissions without bytes."""
    return _fingerprint({"call": "submit", "task": _task(request.task), "payload": request.payload_id})


def _fingerprint(value: Mapping[str, Any]) -> str:
    """ "v1:" and the SHA-256 of canonical JSON: sorted keys, no spaces, ASCII.

    Compared instead of protobuf bytes, which differ between libraries and versions. It is made of what was asked
    for and not of the defaults, so that a server with other defaults still knows the request again. Another way of
    making it needs another version, and comparing with the old one for as long as old rows live.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return "v1:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def _task(request: TaskRequest) -> dict[str, Any]:
    work = request.work
    return {
        "work": _job(work) if isinstance(work, Job) else [_push(one) for one in work],
        "queue": request.queue,
        "priority": request.priority,
        "labels": dict(request.labels),
        "not_before": _micros(request.not_before),
        "expire_after": _micros(request.expire_after),
        "run_timeout": _micros(request.run_timeout),
        "stall_timeout": _micros(request.stall_timeout),
        "attempt_limit": request.attempt_limit,
    }


def _push(push: FilePush) -> dict[str, Any]:
    place = push.destination
    return {
        "destination": [place.target, place.project, place.instance, place.path],
        "mode": push.mode,
        "uid": push.uid,
        "gid": push.gid,
        "create_parents": push.create_parents,
        "if_exists": int(push.if_exists),
        "when_stopped": int(push.when_stopped),
        "when_absent": int(push.when_absent),
        "read_back": push.read_back,
    }


def _job(job: Job) -> dict[str, Any]:
    arguments = job.arguments
    return {
        "kind": job.kind,
        "arguments": None if arguments is None else [arguments.type_url, arguments.value.hex()],
        "target": job.target,
        "instance": job.instance,
    }


def _micros(seconds: float | None) -> int | None:
    """Whole microseconds: floats print differently where integers cannot."""
    return None if seconds is None else round(seconds * 1e6)
