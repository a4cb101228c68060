"""This module makes destinations, specs and durations from plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias, TypedDict, Unpack, cast

from google.protobuf.duration_pb2 import Duration

from longshore.client import enums
from longshore.client.errors import ConfigurationError
from longshore.client.values import arguments
from longshore.client.values import job_values as values
from longshore.contract import limits, names
from longshore.v1 import task_pb2

_MICROSECONDS: Final = 1_000_000
_text: Final = arguments.text
_choice: Final = arguments.choice

# Enum values are ints with a type that only checkers see.
TaskState: TypeAlias = "task_pb2.TaskState.ValueType"
IfExists: TypeAlias = 'task_pb2.IfExists.ValueType | enums.IfExists | Literal["replace", "fail"]'
WhenStopped: TypeAlias = 'task_pb2.WhenStopped.ValueType | enums.WhenStopped | Literal["deliver", "wait", "fail"]'
WhenAbsent: TypeAlias = 'task_pb2.WhenAbsent.ValueType | enums.WhenAbsent | Literal["fail", "wait"]'
Access: TypeAlias = 'task_pb2.Access.ValueType | enums.Access | Literal["shared", "exclusive"]'
OnPending: TypeAlias = 'task_pb2.OnPending.ValueType | enums.OnPending | Literal["queue", "supersede"]'
Time: TypeAlias = "timedelta | float | None"


class TermOptions(TypedDict, total=False):
    """The terms of a task: `push_spec`, `job_spec` and `push` take these options by name. Durations are in seconds or a
    timedelta. What is left out is the server's default."""

    queue: str
    priority: int
    labels: Mapping[str, str] | None
    not_before: Time
    expire_after: Time
    run_timeout: Time
    stall_timeout: Time
    attempt_limit: int
    description: str
    after: Iterable[str]
    after_any_end: bool


class PushOptions(TermOptions, total=False):
    """`push_spec` and `push` take these options by name."""

    project: str
    default_name: str
    mode: int | str | None
    mode_if_new: int | str | None
    uid: int | None
    gid: int | None
    create_parents: bool
    parents_mode: int | str | None
    in_place: bool
    if_exists: IfExists
    when_stopped: WhenStopped
    when_absent: WhenAbsent
    read_back: bool
    on_pending: OnPending


def parse_destination(text: str, *, project: str = "", default_name: str = "") -> task_pb2.Destination:
    """Read `[TARGET:]INSTANCE/PATH`, as in `web/etc/motd` or `east:web/etc/motd`.

    A path that ends in `/` is a directory and gets `default_name` appended. Raises ConfigurationError; whether the
    names are good ones is for the server to say.
    """
    arguments.text("the destination", text)
    arguments.text("project", project)
    before, slash, path = text.partition("/")
    target, colon, instance = before.rpartition(":")
    if not slash or not instance or (colon and not target):
        raise ConfigurationError(f"{text!r} is no destination; expected [TARGET:]INSTANCE/PATH, as in web/etc/motd")
    if not path or path.endswith("/"):
        if not default_name:
            raise ConfigurationError(f"{text!r} is a directory; add the name that the file gets there")
        if arguments.shown(default_name) != default_name:
            raise ConfigurationError(
                f"the file name {arguments.shown(default_name)} is not UTF-8, and names in instances are: give the "
                f"name that the file gets there, as in --to {text}NAME"
            )
        path += default_name
    return task_pb2.Destination(target=target, project=project, instance=instance, path=f"/{path}")


def push_spec(
    *to: str | task_pb2.Destination,
    project: str = "",
    default_name: str = "",
    mode: int | str | None = None,
    mode_if_new: int | str | None = None,
    uid: int | None = None,
    gid: int | None = None,
    create_parents: bool = False,
    parents_mode: int | str | None = None,
    in_place: bool = False,
    if_exists: IfExists = task_pb2.IF_EXISTS_UNSPECIFIED,
    when_stopped: WhenStopped = task_pb2.WHEN_STOPPED_UNSPECIFIED,
    when_absent: WhenAbsent = task_pb2.WHEN_ABSENT_UNSPECIFIED,
    read_back: bool = False,
    on_pending: OnPending = task_pb2.ON_PENDING_UNSPECIFIED,
    **terms: Unpack[TermOptions],
) -> task_pb2.TaskSpec:
    """Push one file to each of these destinations, all in the same manner. Durations in seconds or as timedelta.

    Fields mean what they mean in `FilePush` and `TaskSpec` of the contract; what is left out is the server's default.
    Modes are ints such as 0o644 or octal digits such as "644"; choices are members of `enums` or their names, such as
    "fail". Raises ConfigurationError that names the argument.
    """
    manner: dict[str, Any] = {
        "mode": None if mode is None else arguments.permissions("mode", mode),
        "mode_if_new": None if mode_if_new is None else arguments.permissions("mode_if_new", mode_if_new),
        "uid": None if uid is None else arguments.whole("uid", uid, 0, limits.LARGEST_OWNER),
        "gid": None if gid is None else arguments.whole("gid", gid, 0, limits.LARGEST_OWNER),
        "create_parents": create_parents,
        "parents_mode": None if parents_mode is None else arguments.permissions("parents_mode", parents_mode),
        "in_place": in_place,
        "if_exists": arguments.choice("if_exists", if_exists, task_pb2.IfExists, prefix="IF_EXISTS_"),
        "when_stopped": arguments.choice("when_stopped", when_stopped, task_pb2.WhenStopped, prefix="WHEN_STOPPED_"),
        "when_absent": arguments.choice("when_absent", when_absent, task_pb2.WhenAbsent, prefix="WHEN_ABSENT_"),
        "read_back": read_back,
        "on_pending": arguments.choice("on_pending", on_pending, task_pb2.OnPending, prefix="ON_PENDING_"),
    }
    destinations = [
        each
        if isinstance(each, task_pb2.Destination)
        else parse_destination(each, project=project, default_name=default_name)
        for each in to
    ]
    return task_pb2.TaskSpec(
        file_push=task_pb2.FilePushSpec(
            pushes=[task_pb2.FilePush(destination=destination, **manner) for destination in destinations],
        ),
        **_terms(**terms),
    )


def with_new_mode(spec: task_pb2.TaskSpec, mode: int) -> task_pb2.TaskSpec:
    """Make a spec whose pushes give a new file this mode, where they do not say a mode themselves."""
    if all(push.HasField("mode") or push.HasField("mode_if_new") for push in spec.file_push.pushes):
        return spec
    more = task_pb2.TaskSpec()
    more.CopyFrom(spec)
    for push in more.file_push.pushes:
        if not (push.HasField("mode") or push.HasField("mode_if_new")):
            push.mode_if_new = mode
    return more


def job_spec(
    kind: str,
    arguments: object = None,
    *,
    target: str = "",
    instance: str = "",
    project: str = "",
    key: str = "",
    access: Access = task_pb2.ACCESS_UNSPECIFIED,
    on_pending: OnPending = task_pb2.ON_PENDING_UNSPECIFIED,
    **terms: Unpack[TermOptions],
) -> task_pb2.TaskSpec:
    """Run the handler `kind` with these arguments.

    They are a message (packed unless it is an Any already), or a dict, a dataclass or a pydantic model, which goes as a
    `google.protobuf.Struct`: whole numbers up to 2**53 stay whole, and what JSON cannot say is refused by its place.

    Jobs with the same `key`, target, project and instance run one at a time, in the order of their acceptance.
    With `access="exclusive"` nothing else of the instance runs beside the job. With `on_pending="supersede"` it takes
    the place of your earlier jobs of its key: those that wait are cancelled, and a running one is asked to stop.
    """
    if wrong := names.wrong_key(_text("key", key)):
        raise ConfigurationError(f"key {wrong}", reason="INVALID_ARGUMENT")
    return task_pb2.TaskSpec(
        job=task_pb2.JobSpec(
            kind=_text("kind", kind),
            arguments=values.packed(arguments, name="arguments"),
            target=_text("target", target),
            instance=_text("instance", instance),
            project=_text("project", project),
            key=key,
            access=cast("task_pb2.Access.ValueType", _choice("access", access, task_pb2.Access, prefix="ACCESS_")),
            on_pending=cast(
                "task_pb2.OnPending.ValueType",
                _choice("on_pending", on_pending, task_pb2.OnPending, prefix="ON_PENDING_"),
            ),
        ),
        **_terms(**terms),
    )


def _terms(
    *,
    queue: str = "",
    priority: int = 0,
    labels: Mapping[str, str] | None = None,
    not_before: Time = None,
    expire_after: Time = None,
    run_timeout: Time = None,
    stall_timeout: Time = None,
    attempt_limit: int = 0,
    description: str = "",
    after: Iterable[str] = (),
    after_any_end: bool = False,
) -> dict[str, Any]:
    """Make the fields that every TaskSpec may have."""
    if wrong := names.wrong_description(_text("description", description)):
        raise ConfigurationError(f"description {wrong}", reason="INVALID_ARGUMENT")
    return {
        "queue": _text("queue", queue),
        "priority": arguments.whole("priority", priority, limits.LOWEST_PRIORITY, limits.HIGHEST_PRIORITY),
        "labels": checked_labels(labels),
        "not_before": duration(not_before, name="not_before", zero=True),
        "expire_after": duration(expire_after, name="expire_after"),
        "run_timeout": duration(run_timeout, name="run_timeout", longest=limits.LONGEST_RUN),
        "stall_timeout": duration(stall_timeout, name="stall_timeout", longest=limits.LONGEST_RUN),
        "attempt_limit": arguments.whole("attempt_limit", attempt_limit, 0, limits.MOST_ATTEMPTS),
        "description": description,
        "after": _ids("after", after),
        "after_any_end": after_any_end,
    }


def _ids(name: str, ids: Iterable[str]) -> list[str]:
    """Return ids of tasks as a list. Raises ConfigurationError."""
    if isinstance(ids, str):
        raise ConfigurationError(f"{name} is a text: give a list of ids", reason="INVALID_ARGUMENT")
    found = [_text(f"{name}[{number}]", each) for number, each in enumerate(ids)]
    if len(found) > limits.MOST_AFTER:
        raise ConfigurationError(
            f"{name} has {len(found)} ids: give at most {limits.MOST_AFTER}", reason="INVALID_ARGUMENT"
        )
    return found


def checked_labels(labels: Mapping[str, str] | None) -> dict[str, str] | None:
    """Labels, if they are texts. Raises ConfigurationError."""
    if labels is None:
        return None
    if not isinstance(cast("object", labels), Mapping):
        raise ConfigurationError(f"labels is a {type(labels).__name__}: give a dict of texts")
    return {_text("a label's key", key): _text(f"labels[{key!r}]", value) for key, value in labels.items()}


def duration(
    value: Time, *, name: str = "a duration", longest: float = limits.LONGEST_WAIT, zero: bool = False
) -> Duration | None:
    """Turn seconds or a timedelta into the contract's duration. None stays unset. Raises ConfigurationError."""
    if value is None:
        return None
    whole = Duration()
    whole.FromMicroseconds(round(arguments.seconds(name, value, longest=longest, zero=zero) * _MICROSECONDS))
    return whole


def states(names: Iterable[str]) -> list[TaskState]:
    """States by their short names, such as `running`, in any case; also `live` and `done` for all of a sort."""
    found: list[TaskState] = []
    for name in names:
        match name.lower():
            case "live":
                found += [state for state in ALL_STATES if state < task_pb2.TASK_STATE_SUCCEEDED]
            case "done":
                found += [state for state in ALL_STATES if state >= task_pb2.TASK_STATE_SUCCEEDED]
            case short if short in STATE_NAMES.values():
                found += [state for state, known in STATE_NAMES.items() if known == short]
            case _:
                known = ", ".join(STATE_NAMES.values())
                raise ConfigurationError(f"there is no state {name!r}; there are {known}, and live and done for many")
    return sorted(set(found))


ALL_STATES: Final = tuple(value for value in task_pb2.TaskState.values() if value)
"""Every state that a task can be in."""
STATE_NAMES: Final[Mapping[TaskState, str]] = {
    value: task_pb2.TaskState.Name(value).removeprefix("TASK_STATE_").lower() for value in ALL_STATES
}
"""Short names for people, such as `succeeded`."""
