"""A request becomes plans of tasks: defaults are filled in, and a fingerprint is made to know the request again by."""

from __future__ import annotations

import hashlib
import json.encoder
from dataclasses import dataclass
from typing import Final

from longshore.server.model.records import record
from longshore.server.model.task import FilePush, Job, Terms, Work
from longshore.server.store.commands import TaskPlan

_DAY: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """The server's values for what a request leaves open. Times in seconds."""

    run_timeout: float = 3600.0
    expire_after: float = 7 * _DAY
    attempt_limit: int = 5


@record
class TaskRequest:
    """A validated TaskSpec. `work` is one push per destination, or one job. `terms` has the server's default for each
    term that the caller left open; `left_open` has their names."""

    work: tuple[FilePush, ...] | Job
    terms: Terms
    not_before: float = 0.0
    left_open: frozenset[str] = frozenset()

    @property
    def works(self) -> tuple[Work, ...]:
        """The work of each task that the request makes, in their order."""
        return (self.work,) if isinstance(self.work, Job) else self.work


NO_TASK: Final = TaskRequest((), Terms())
"""The task of an upload whose bytes are only kept, as a payload: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest:
    """A validated UploadHeader."""

    request_id: str
    task: TaskRequest
    size: int | None = None
    sha256: bytes = b""
    """32 bytes, or empty."""
    take_over: bool = False
    any_creator: bool = False
    """The tasks that the new ones come after may be anybody's."""


@record
class SubmitRequest:
    """A validated SubmitTaskRequest. At most one of `payload_id` and `content` is there; for a job neither need be."""

    request_id: str
    task: TaskRequest
    payload_id: str = ""
    content: bytes | None = None
    crc32c: int = 0
    """CRC32C of the content."""


@record
class StepRequest:
    """A validated PlanStep."""

    submission: SubmitRequest
    after_steps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """A validated SubmitPlanRequest. Each step makes one task."""

    request_id: str
    steps: tuple[StepRequest, ...]
    dry_run: bool = False


def plans(request: TaskRequest) -> tuple[TaskPlan, ...]:
    """Make one plan per task, in the order of the destinations. All have the same terms."""
    return tuple([TaskPlan(work, request.terms, request.not_before) for work in request.works])


def upload_fingerprint(request: UploadRequest) -> str:
    """Make a fingerprint that is equal for two headers exactly when they ask for the same. `request_id` and `take_over`
    are no part of that."""
    sha256 = request.sha256.hex()
    return _fingerprint(
        f'{{"call":"upload","sha256":"{sha256}","size":{_number(request.size)},"task":{_task(request.task)}}}'
    )


def submit_fingerprint(request: SubmitRequest) -> str:
    """Make the same for a submission. Bytes that come along are known by their size and CRC32C, as an upload's are."""
    content = "" if request.content is None else f'"content":[{request.crc32c},{len(request.content)}],'
    payload = _text(request.payload_id)
    return _fingerprint(f'{{"call":"submit",{content}"payload":{payload},"task":{_task(request.task)}}}')


def plan_fingerprint(request: PlanRequest) -> str:
    """Make the same for a plan. A dry run has the fingerprint of what it tries."""
    steps = ",".join(_step(step) for step in request.steps)
    return _fingerprint(f'{{"call":"plan","steps":[{steps}]}}')


def _step(step: StepRequest) -> str:
    submission = step.submission
    after = ",".join(map(str, step.after_steps))
    content = "" if submission.content is None else f'"content":[{submission.crc32c},{len(submission.content)}],'
    return (
        f'{{"after_steps":[{after}],{content}"payload":{_text(submission.payload_id)},"task":{_task(submission.task)}}}'
    )


def _fingerprint(text: str) -> str:
    """ "v1:" and the SHA-256 of canonical JSON: sorted keys, no spaces, ASCII.

    Compared instead of protobuf bytes, which differ between libraries and versions. It is made of what was asked
    for and not of the defaults, so that a server with other defaults still knows the request again. Another way of
    making it needs another version, and comparing with the old one for as long as old rows live.

    The text is put together here, and not by `json.dumps`, which took a tenth of what a submission cost the loop; a
    test holds it to that.
    """
    return "v1:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def _task(request: TaskRequest) -> str:
    work = request.work
    what = _job(work) if isinstance(work, Job) else f"[{','.join(map(_push, work))}]"
    return f'{{{_terms(request)},"work":{what}}}'


def _terms(request: TaskRequest) -> str:
    """Write the terms. Requests that leave all terms open share them, and the text that was made last holds for all."""
    global _last
    terms, left = request.terms, request.left_open
    if _last is None or _last[0] is not terms or _last[1:3] != (left, request.not_before):
        _last = (terms, left, request.not_before, _terms_text(request))
    return _last[3]


_last: tuple[Terms, frozenset[str], float, str] | None = None


def _terms_text(request: TaskRequest) -> str:
    terms, left = request.terms, request.left_open
    labels = terms.labels
    named = ",".join(f"{_text(key)}:{_text(labels[key])}" for key in sorted(labels)) if labels else ""
    attempts = "null" if "attempt_limit" in left else str(terms.attempt_limit)
    expires = None if "expire_after" in left else terms.expire_after
    runs = None if "run_timeout" in left else terms.run_timeout
    # These members are left out where they are unset: requests of before them keep their fingerprints.
    after = f'"after":[{",".join(map(_text, terms.after))}],' if terms.after else ""
    any_end = '"after_any_end":true,' if terms.after_any_end else ""
    described = f'"description":{_text(terms.description)},' if terms.description else ""
    return (
        f'{after}{any_end}"attempt_limit":{attempts},{described}"expire_after":{_micros(expires)},'
        f'"labels":{{{named}}},"not_before":{_micros(request.not_before)},"priority":{terms.priority},'
        f'"queue":{_text(terms.queue)},"run_timeout":{_micros(runs)},'
        f'"stall_timeout":{_micros(terms.stall_timeout)}'
    )


def _push(push: FilePush) -> str:
    destination = push.destination
    # These members appear only where they are asked for: a request without them has the fingerprint that it had before
    # there were any.
    in_place = '"in_place":true,' if push.in_place else ""
    latest = '"latest_wins":true,' if push.latest_wins else ""
    parents = "" if push.parents_mode is None else f'"parents_mode":{push.parents_mode},'
    where = ",".join(map(_text, (destination.target, destination.project, destination.instance, destination.path)))
    # This member is left out where it is unset: requests of before it keep their fingerprints.
    if_new = "" if push.mode_if_new is None else f'"mode_if_new":{push.mode_if_new},'
    return (
        f'{{"create_parents":{_TRUTH[push.create_parents]},"destination":[{where}],"gid":{_number(push.gid)},'
        f'"if_exists":{int(push.if_exists)},{in_place}{latest}"mode":{_number(push.mode)},{if_new}{parents}'
        f'"read_back":{_TRUTH[push.read_back]},'
        f'"uid":{_number(push.uid)},"when_absent":{int(push.when_absent)},"when_stopped":{int(push.when_stopped)}}}'
    )


def _job(job: Job) -> str:
    arguments = job.arguments
    what = "null" if arguments is None else f'[{_text(arguments.type_url)},"{arguments.value.hex()}"]'
    # These members are left out where they are empty: requests of before them keep their fingerprints.
    exclusive = '"exclusive":true,' if job.exclusive else ""
    key = f'"key":{_text(job.key)},' if job.key else ""
    latest = '"latest_wins":true,' if job.latest_wins else ""
    project = f'"project":{_text(job.project)},' if job.project else ""
    return (
        f'{{"arguments":{what},{exclusive}"instance":{_text(job.instance)},{key}"kind":{_text(job.kind)},{latest}{project}'
        f'"target":{_text(job.target)}}}'
    )


_text: Final = json.encoder.encode_basestring_ascii
_TRUTH: Final = {False: "false", True: "true"}


def _number(value: int | None) -> str:
    return "null" if value is None else str(value)


def _micros(seconds: float | None) -> str:
    """Print whole microseconds: floats print differently where integers cannot."""
    return "null" if seconds is None else str(round(seconds * 1e6))
