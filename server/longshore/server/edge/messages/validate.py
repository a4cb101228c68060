"""The contract's requests as values of the engine: every field is checked against what the contract says of it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import lru_cache
from typing import Final, TypeVar

import google_crc32c

from longshore.contract import limits, names
from longshore.contract.enums import Access, IfExists, OnPending, WhenAbsent, WhenStopped
from longshore.contract.request_ids import new_request_id
from longshore.server.edge.messages import fields
from longshore.server.engine.submissions import (
    NO_TASK,
    Defaults,
    PlanRequest,
    StepRequest,
    SubmitRequest,
    TaskRequest,
    UploadRequest,
)
from longshore.server.model.errors import CrcMismatch, InvalidField
from longshore.server.model.task import BUILT_IN, AnyValue, Destination, FilePush, Job, Terms
from longshore.v1 import task_pb2 as pb
from longshore.v1 import task_service_pb2 as service_pb

DEFAULT: Final = "default"
"""Name of the queue and of the target that are meant when none is given."""

_LARGEST: Final = 2**63 - 1


def check_request_id(field: str, value: str) -> str:
    """Check the request id. An empty one is replaced by a new id. Raises InvalidField."""
    return fields.request_id(field, value) if value else new_request_id()


def upload_request(header: service_pb.UploadHeader, defaults: Defaults, *, any_creator: bool = False) -> UploadRequest:
    """Make a request of a header. `any_creator`: its tasks may come after anybody's. Raises InvalidField
    with paths that begin with `header`."""
    size = header.size if header.HasField("size") else None
    if size is not None:
        fields.bounded("header.size", size, 0, _LARGEST)
    if header.HasField("sha256") and len(header.sha256) != 32:
        raise InvalidField("header.sha256", f"has {len(header.sha256)} bytes; a SHA-256 has 32. Or leave it unset.")
    task = NO_TASK
    if not header.payload_only:
        task = _spec("header.spec", header.spec if header.HasField("spec") else None, defaults)
    elif header.HasField("spec"):
        raise InvalidField("header.spec", "is there, and payload_only makes no task: give one of them.")
    return UploadRequest(
        request_id=check_request_id("header.request_id", header.request_id),
        task=task,
        size=size,
        sha256=header.sha256,
        take_over=header.take_over,
        any_creator=any_creator,
    )


def submit_request(request: service_pb.SubmitTaskRequest, defaults: Defaults) -> SubmitRequest:
    """Make a request of a submission without an upload. Raises InvalidField, CrcMismatch."""
    return _submission("", request, check_request_id("request_id", request.request_id), defaults)


def plan_request(request: service_pb.SubmitPlanRequest, defaults: Defaults) -> PlanRequest:
    """Make a request of a plan. Raises InvalidField with paths that begin with `steps[N]`, CrcMismatch."""
    if not 1 <= len(request.steps) <= limits.MOST_STEPS:
        raise InvalidField("steps", f"has {len(request.steps)} steps; give 1 to {limits.MOST_STEPS}.")
    request_id = check_request_id("request_id", request.request_id)
    steps = tuple(_step(number, step, request_id, defaults) for number, step in enumerate(request.steps))
    dependencies = sum(len(step.after_steps) + len(step.submission.task.terms.after) for step in steps)
    if dependencies > limits.MOST_DEPENDENCIES:
        raise InvalidField(
            "steps",
            f"come after others {dependencies} times together; at most {limits.MOST_DEPENDENCIES}. Put a step between "
            "that comes after many, and let others come after that one.",
        )
    return PlanRequest(request_id=request_id, steps=steps, dry_run=request.dry_run)


def _step(number: int, step: service_pb.PlanStep, request_id: str, defaults: Defaults) -> StepRequest:
    field = f"steps[{number}]"
    if len(step.name) > limits.LONGEST_STEP_NAME:
        raise InvalidField(f"{field}.name", f"has {len(step.name)} characters; at most {limits.LONGEST_STEP_NAME}.")
    try:
        submission = _submission(f"{field}.", step, request_id, defaults)
        if len(submission.task.works) != 1:
            raise InvalidField(
                f"{field}.spec.file_push.pushes",
                f"has {len(submission.task.works)} destinations; a step has one. Make a step for each.",
            )
        return StepRequest(submission, _after_steps(number, step, submission.task.terms.after))
    except InvalidField as error:
        if not step.name:
            raise
        said = error.message.removeprefix(f"{error.field}: ")
        raise InvalidField(error.field, f"{said} (step {step.name!r})") from None


def _after_steps(number: int, step: service_pb.PlanStep, after: Sequence[str]) -> tuple[int, ...]:
    field = f"steps[{number}].after_steps"
    for index in step.after_steps:
        if index >= number:
            raise InvalidField(field, f"names step {index}; step {number} can come after earlier ones only.")
    found = tuple(dict.fromkeys(step.after_steps))
    if len(found) + len(after) > limits.MOST_AFTER:
        raise InvalidField(
            field, f"and spec.after have {len(found) + len(after)} entries; at most {limits.MOST_AFTER}."
        )
    return found


def _submission(
    prefix: str, request: service_pb.SubmitTaskRequest | service_pb.PlanStep, request_id: str, defaults: Defaults
) -> SubmitRequest:
    """Make a submission of the fields that a SubmitTaskRequest and a PlanStep both have."""
    task = _spec(f"{prefix}spec", request.spec if request.HasField("spec") else None, defaults)
    content, crc32c = _content(prefix, request)
    if request.payload_id:
        fields.assigned_id(f"{prefix}payload_id", request.payload_id)
    elif content is None and not isinstance(task.work, Job):
        raise InvalidField(
            f"{prefix}payload_id",
            "is empty; a file_push needs the id of a kept payload, or a small file as `content`. Or upload the file.",
        )
    return SubmitRequest(
        request_id=request_id,
        task=task,
        payload_id=request.payload_id,
        content=content,
        crc32c=crc32c,
    )


def _content(prefix: str, request: service_pb.SubmitTaskRequest | service_pb.PlanStep) -> tuple[bytes | None, int]:
    """Return the content that comes along, and its CRC32C. None means that there is none.

    Raises InvalidField, CrcMismatch.
    """
    if not request.HasField("content"):
        if request.HasField("content_crc32c"):
            raise InvalidField(f"{prefix}content_crc32c", "is there and content is not.")
        return None, 0
    if request.payload_id:
        raise InvalidField(f"{prefix}content", "is there, and so is payload_id: give one of them.")
    content = request.content
    if len(content) > limits.LARGEST_CONTENT:
        raise InvalidField(
            f"{prefix}content", f"has {len(content)} bytes; at most {limits.LARGEST_CONTENT}. Upload more than that."
        )
    crc32c = int(google_crc32c.value(content))
    if request.HasField("content_crc32c") and request.content_crc32c != crc32c:
        raise CrcMismatch(f"The content's CRC32C is {crc32c:08x}, and {request.content_crc32c:08x} was announced.")
    return content, crc32c


def _spec(field: str, spec: pb.TaskSpec | None, defaults: Defaults) -> TaskRequest:
    if spec is None:
        raise InvalidField(field, "is missing; say what to do with the bytes.")
    # An absent field needs no look, and no path to name it by: most of a spec is left out in most requests.
    said = {one.name for one, _ in spec.ListFields()}
    if said <= _WORKS:
        return TaskRequest(_work(field, spec), _open_terms(defaults), 0.0, _LEFT_OPEN)
    not_before = 0.0
    if "not_before" in said:
        not_before = fields.seconds(f"{field}.not_before", spec.not_before, longest=limits.LONGEST_WAIT, zero=True)
    terms = Terms(
        queue=fields.name(f"{field}.queue", spec.queue) if "queue" in said else DEFAULT,
        priority=(
            fields.bounded(f"{field}.priority", spec.priority, limits.LOWEST_PRIORITY, limits.HIGHEST_PRIORITY)
            if "priority" in said
            else 0
        ),
        labels=_labels(f"{field}.labels", spec) if "labels" in said else {},
        expire_after=_seconds(field, spec, "expire_after", limits.LONGEST_WAIT, usual=defaults.expire_after, said=said),
        run_timeout=_seconds(field, spec, "run_timeout", limits.LONGEST_RUN, usual=defaults.run_timeout, said=said),
        stall_timeout=_seconds(field, spec, "stall_timeout", limits.LONGEST_RUN, usual=None, said=said),
        attempt_limit=(
            fields.bounded(f"{field}.attempt_limit", spec.attempt_limit, 0, limits.MOST_ATTEMPTS)
            if "attempt_limit" in said
            else defaults.attempt_limit
        ),
        description=_description(f"{field}.description", spec.description) if "description" in said else "",
        after=_after(f"{field}.after", spec.after) if "after" in said else (),
        after_any_end=spec.after_any_end,
    )
    if not_before >= terms.expire_after:
        raise InvalidField(
            f"{field}.expire_after",
            f"is {terms.expire_after:g} s, and the task may not start before {not_before:g} s: it would expire "
            "unstarted. Raise it above not_before.",
        )
    return TaskRequest(_work(field, spec), terms, not_before, _LEFT_OPEN - said)


_WORKS: Final = frozenset({"job", "file_push"})
_LEFT_OPEN: Final = frozenset({"expire_after", "run_timeout", "attempt_limit"})
"""The terms for which a server has defaults of its own."""


@lru_cache(maxsize=8)
def _open_terms(defaults: Defaults) -> Terms:
    """Make the terms of requests that say none. All of these share them."""
    return Terms(
        queue=DEFAULT,
        expire_after=defaults.expire_after,
        run_timeout=defaults.run_timeout,
        attempt_limit=defaults.attempt_limit,
    )


T = TypeVar("T", bound=float | None)


def _seconds(field: str, spec: pb.TaskSpec, name: str, longest: float, *, usual: T, said: Set[str]) -> float | T:
    if name not in said:
        return usual
    return fields.seconds(f"{field}.{name}", getattr(spec, name), longest=longest)


def _description(field: str, text: str) -> str:
    if wrong := names.wrong_description(text):
        raise InvalidField(field, f"{wrong}.")
    return text


def _after(field: str, task_ids: Sequence[str]) -> tuple[str, ...]:
    if len(task_ids) > limits.MOST_AFTER:
        raise InvalidField(field, f"has {len(task_ids)} ids; at most {limits.MOST_AFTER}.")
    found = dict.fromkeys(fields.assigned_id(f"{field}[{number}]", each) for number, each in enumerate(task_ids))
    return tuple(found)


def _labels(field: str, spec: pb.TaskSpec) -> dict[str, str]:
    if len(spec.labels) > limits.MOST_LABELS:
        raise InvalidField(field, f"has {len(spec.labels)} entries; at most {limits.MOST_LABELS}.")
    for key, value in spec.labels.items():
        fields.label(field, key, value)
    return dict(spec.labels)


def _work(field: str, spec: pb.TaskSpec) -> tuple[FilePush, ...] | Job:
    match spec.WhichOneof("work"):
        case "job":
            return _job(f"{field}.job", spec.job)
        case "file_push":
            return _pushes(f"{field}.file_push.pushes", spec.file_push.pushes)
        case _:
            raise InvalidField(field, "has no work; set file_push or job.")


def _pushes(field: str, pushes: Sequence[pb.FilePush]) -> tuple[FilePush, ...]:
    if not 1 <= len(pushes) <= limits.MOST_DESTINATIONS:
        raise InvalidField(field, f"has {len(pushes)} destinations; give 1 to {limits.MOST_DESTINATIONS}.")
    seen: dict[str, int] = {}
    found = []
    for number, message in enumerate(pushes):
        push = _push(f"{field}[{number}]", message)
        first = seen.setdefault(push.destination.key, number)
        if first != number:
            raise InvalidField(
                f"{field}[{number}].destination", f"is the same as that of {field}[{first}]; name each once."
            )
        found.append(push)
    return tuple(found)


def _push(field: str, push: pb.FilePush) -> FilePush:
    if push.in_place and push.if_exists == pb.IF_EXISTS_FAIL:
        raise InvalidField(
            f"{field}.in_place", "writes into a file that exists, and if_exists is FAIL: give one of them."
        )
    return FilePush(
        destination=_destination(f"{field}.destination", push.destination if push.HasField("destination") else None),
        mode=fields.mode(f"{field}.mode", push.mode) if push.HasField("mode") else None,
        uid=fields.owner(f"{field}.uid", push.uid) if push.HasField("uid") else None,
        gid=fields.owner(f"{field}.gid", push.gid) if push.HasField("gid") else None,
        create_parents=push.create_parents,
        if_exists=fields.choice(f"{field}.if_exists", push.if_exists, IfExists, default=IfExists.REPLACE),
        when_stopped=fields.choice(
            f"{field}.when_stopped", push.when_stopped, WhenStopped, default=WhenStopped.DELIVER
        ),
        when_absent=fields.choice(f"{field}.when_absent", push.when_absent, WhenAbsent, default=WhenAbsent.FAIL),
        read_back=push.read_back,
        mode_if_new=(fields.mode(f"{field}.mode_if_new", push.mode_if_new) if push.HasField("mode_if_new") else None),
        parents_mode=(
            fields.mode(f"{field}.parents_mode", push.parents_mode) if push.HasField("parents_mode") else None
        ),
        in_place=push.in_place,
        latest_wins=_latest_wins(f"{field}.on_pending", push.on_pending),
    )


def _latest_wins(field: str, value: int) -> bool:
    return bool(value) and fields.choice(field, value, OnPending, default=OnPending.QUEUE) is OnPending.SUPERSEDE


def _destination(field: str, destination: pb.Destination | None) -> Destination:
    if destination is None:
        raise InvalidField(field, "is missing; say where the file goes.")
    return Destination(
        target=fields.name(f"{field}.target", destination.target, default=DEFAULT),
        project=fields.project(f"{field}.project", destination.project),
        instance=fields.instance(f"{field}.instance", destination.instance),
        path=fields.path(f"{field}.path", destination.path),
    )


def _job(field: str, job: pb.JobSpec) -> Job:
    kind = fields.name(f"{field}.kind", job.kind)
    if kind in BUILT_IN:
        raise InvalidField(f"{field}.kind", f"{kind!r} is built in; use the {kind} field for it.")
    if job.instance and not job.target:
        raise InvalidField(f"{field}.target", "is empty; an instance needs its target.")
    if job.project and not job.instance:
        raise InvalidField(f"{field}.instance", "is empty; a project needs its instance.")
    access = (
        fields.choice(f"{field}.access", job.access, Access, default=Access.SHARED) if job.access else Access.SHARED
    )
    if access is Access.EXCLUSIVE and not job.instance:
        raise InvalidField(f"{field}.instance", "is empty; an exclusive job needs its instance.")
    latest_wins = _latest_wins(f"{field}.on_pending", job.on_pending)
    if latest_wins and not job.key:
        raise InvalidField(f"{field}.key", "is empty; a job that takes the place of others needs their key.")
    arguments = None
    if job.HasField("arguments"):
        size = job.arguments.ByteSize()
        if size > limits.LARGEST_ARGUMENTS:
            raise InvalidField(
                f"{field}.arguments", f"has {size} bytes; at most {limits.LARGEST_ARGUMENTS}. Upload more as a payload."
            )
        arguments = AnyValue(job.arguments.type_url, job.arguments.value)
    return Job(
        kind=kind,
        arguments=arguments,
        target=fields.name(f"{field}.target", job.target) if job.target else "",
        instance=fields.instance(f"{field}.instance", job.instance) if job.instance else "",
        project=fields.project(f"{field}.project", job.project) if job.project else "",
        key=fields.key(f"{field}.key", job.key) if job.key else "",
        exclusive=access is Access.EXCLUSIVE,
        latest_wins=latest_wins,
    )
