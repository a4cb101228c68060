"""Plain values in and out: specs, arguments and results of jobs, names of choices, and filters."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, get_type_hints

import pytest
from google.protobuf import any_pb2, duration_pb2, struct_pb2, wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st

from longshore.client import (
    ConfigurationError,
    TaskFilter,
    arguments_of,
    enums,
    job_spec,
    push_spec,
    result_of,
    state_of,
    wait_reason_of,
)
from longshore.client.cli.commands import options
from longshore.client.values import job_values as values
from longshore.client.values import specs
from longshore.client.values.filters import FilterOptions, task_filter
from longshore.client.values.specs import PushOptions, TermOptions
from longshore.v1 import task_pb2

# Jobs ----------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5) | st.just(0.5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def back(value: object) -> Any:
    """The value as a handler has it, after its way over the wire."""
    spec = task_pb2.TaskSpec.FromString(job_spec("k", value).SerializeToString())
    return arguments_of(task_pb2.Task(job=spec.job))


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: 4 is not 4.0, and 1 is not True."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=5))
def test_a_dict_survives_the_round_trip(value: dict[str, Any]) -> None:
    assert same(back(value), value)


def test_four_at_once_stay_four() -> None:
    assert job_spec("k", {"steps": 4}).job.arguments.type_url.endswith("google.protobuf.Struct")
    assert same(back({"steps": 4, "half": 0.5, "largest": 2**53}), {"steps": 4, "half": 0.5, "largest": 2**53})


class Colour(StrEnum):
    RED = "red"


@dataclasses.dataclass
class Inner:
    width: int


@dataclasses.dataclass
class Thumb:
    steps: int
    inner: Inner
    colour: Colour = Colour.RED
    sizes: tuple[int, ...] = (1, 2)


class Model:
    """Shaped like a pydantic model, which the client knows by its methods alone."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        return {**self.fields, "mode": mode}

    @classmethod
    def model_validate(cls, fields: Any) -> Model:
        if "bad" in fields:
            raise ValueError("bad")
        return cls(**fields)


def test_dataclasses_and_models_are_taken() -> None:
    thumb = {"steps": 3, "inner": {"width": 7}, "colour": "red", "sizes": [1, 2]}
    assert same(back(Thumb(steps=3, inner=Inner(7))), thumb)
    assert same(back(Model(steps=3)), {"steps": 3, "mode": "json"})
    assert same(back({"a": Model(x=1), "b": [Inner(2)]}), {"a": {"x": 1, "mode": "json"}, "b": [{"width": 2}]})
    assert same(back([1, "x"]), [1, "x"])


def test_messages_go_as_they_are() -> None:
    struct = struct_pb2.Struct()
    struct.update({"steps": 4})
    assert back(struct) == {"steps": 4}
    assert back(wrappers_pb2.Int64Value(value=2**60)) == 2**60
    assert back(duration_pb2.Duration(seconds=5)) == duration_pb2.Duration(seconds=5)
    foreign = any_pb2.Any(type_url="type.googleapis.com/team.Thumb", value=b"\x08\x01")
    assert back(foreign) == foreign
    assert not job_spec("k").job.HasField("arguments")
    assert arguments_of(task_pb2.Task()) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"when": datetime(2026, 1, 1, tzinfo=UTC)}, r"arguments\['when'\] is a datetime"),
        ({"a": [1, b"x"]}, r"arguments\['a'\]\[1\] is a bytes, .*upload bytes as the content"),
        ({"a": 2**53 + 1}, r"arguments\['a'\] is 9007199254740993.*2\*\*53"),
        ({"a": math.nan}, r"arguments\['a'\] is nan"),
        ({1: 2}, r"arguments has the key 1"),
        ({"a": "\udce9"}, r"arguments\['a'\] is \\xe9, which is not UTF-8"),
        ({"\udce9": "a"}, r"a key of arguments is \\xe9, which is not UTF-8"),
        ({"a": Decimal(1)}, r"arguments\['a'\] is a Decimal"),
        ({"a": Enum("E", "X").X}, r"arguments\['a'\] is a E"),  # type: ignore[attr-defined]
        ({"a": Inner}, r"arguments\['a'\] is a type"),
        (Thumb(1, Decimal(2)), r"arguments\.inner is a Decimal"),  # type: ignore[arg-type]
        ("text", "arguments is a str: give a dict"),
        (7, "arguments is a int: give a dict"),
    ],
    ids=repr,
)
def test_a_value_outside_json_is_refused_by_its_path(value: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        job_spec("k", value)


def test_a_result_has_the_type_that_the_handler_returned() -> None:
    assert result_of(task_pb2.Task()) is None
    for value in ({"steps": 4}, [1, 2.5, None], wrappers_pb2.StringValue(value="x")):
        task = task_pb2.Task(result=values.packed(value, name="the result"))
        assert same(result_of(task), "x" if isinstance(value, wrappers_pb2.StringValue) else value)
    damaged = any_pb2.Any(type_url="type.googleapis.com/google.protobuf.Struct", value=b"\xff")
    with pytest.raises(ConfigurationError, match=r"google\.protobuf\.Struct"):
        result_of(task_pb2.Task(result=damaged))


def test_types_that_arguments_are_made_into() -> None:
    assert values.built(dict, {"a": 1}) == {"a": 1}
    assert values.built(Inner, {"width": 1}) == Inner(1)
    assert values.built(Model, {"a": 1}).fields == {"a": 1}
    for kind, fields in ((Inner, {"height": 1}), (Model, {"bad": 1}), (Inner, [1])):
        with pytest.raises((TypeError, ValueError)):
            values.built(kind, fields)


# Specs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["644", "0644", "0o644", 0o644])
def test_a_mode_in_every_way_of_writing(mode: Any) -> None:
    [push] = push_spec("web/etc/motd", mode=mode, mode_if_new=mode).file_push.pushes
    assert (push.mode, push.mode_if_new) == (0o644, 0o644)


@pytest.mark.parametrize(
    ("name", "given_", "number"),
    [
        ("if_exists", "fail", 2),
        ("if_exists", "IF_EXISTS_FAIL", 2),
        ("if_exists", enums.IfExists.FAIL, 2),
        ("if_exists", task_pb2.IF_EXISTS_FAIL, 2),
        ("if_exists", 0, 0),
        ("when_stopped", "Wait", 2),
        ("when_absent", "wait", 2),
    ],
)
def test_choices_by_name_and_number(name: str, given_: Any, number: int) -> None:
    [push] = push_spec("web/etc/motd", **{name: given_}).file_push.pushes
    assert getattr(push, name) == number


push: Any = push_spec
job: Any = job_spec
"""As a program without type checks calls them."""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: push("web/x", mode="rw"), r"^mode is 'rw': give octal digits"),
        (lambda: push("web/x", mode="888"), r"^mode is '888'"),
        (lambda: push("web/x", mode=644), r"^mode is 0o1204 \(0o644\?\)"),
        (lambda: push("web/x", mode="1777"), r"^mode is 0o1777"),
        (lambda: push("web/x", mode=True), r"^mode is True"),
        (lambda: push("web/x", mode_if_new=-1), r"^mode_if_new is "),
        (lambda: push("web/x", uid=-1), r"^uid is -1: give a whole number from 0"),
        (lambda: push("web/x", gid="staff"), r"^gid is 'staff'"),
        (
            lambda: push("web/x", if_exists="overwrite"),
            r'^if_exists is \'overwrite\': give one of "replace", "fail"',
        ),
        (lambda: push("web/x", if_exists=7), r"^if_exists is 7"),
        (lambda: push("web/x", if_exists=True), r"^if_exists is True"),
        (lambda: push("web/x", when_stopped=["wait"]), r"^when_stopped is \['wait'\]"),
        (lambda: push("web/x", priority=101), r"^priority is 101"),
        (lambda: push("web/x", priority="high"), r"^priority is 'high'"),
        (lambda: push("web/x", labels={"a": 1}), r"^labels\['a'\] is 1: give a text"),
        (lambda: push("web/x", labels="a=b"), r"^labels is a str"),
        (lambda: push("web/x", queue=None), r"^queue is None"),
        (lambda: push("web/x", queue="\udce9"), r"^queue is \\xe9, which is not UTF-8"),
        (lambda: push("web/\udce9"), r"^the destination is .*not UTF-8"),
        (lambda: push("web/x", project="\ud800"), r"^project is \\ud800, which is not UTF-8"),
        (lambda: push(7), r"^the destination is 7"),
        (lambda: push("web/x", not_before=math.inf), r"^not_before is inf"),
        (lambda: push("web/x", expire_after=math.nan), r"^expire_after is nan"),
        (lambda: push("web/x", run_timeout=-1), r"^run_timeout is -1"),
        (lambda: push("web/x", stall_timeout="5m"), r"^stall_timeout is '5m'"),
        (lambda: push("web/x", stall_timeout=timedelta.max), r"^stall_timeout is "),
        (lambda: push("web/x", attempt_limit=1.5), r"^attempt_limit is 1.5"),
        (lambda: push("web/x", description="x" * 501), r"^description has 501 characters; give at most 500"),
        (lambda: push("web/x", description=None), r"^description is None"),
        (lambda: push("web/x", description="\udce9"), r"^description is \\xe9, which is not UTF-8"),
        (lambda: job(7), r"^kind is 7"),
        (lambda: job("k", target=None), r"^target is None"),
        (lambda: job("k", access="alone"), r'^access is \'alone\': give one of "shared", "exclusive"'),
        (lambda: job("k", on_pending="drop"), r"^on_pending is 'drop'"),
        (lambda: push("web/x", on_pending=7), r"^on_pending is 7"),
        (lambda: job("k", project=7), r"^project is 7"),
        (lambda: job("k", key=7), r"^key is 7"),
        (lambda: job("k", key="x" * 129), r"^key has 129 bytes; give at most 128"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make()


# Names of choices ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (enums.TaskState, task_pb2.TaskState, "TASK_STATE_"),
        (enums.WaitReason, task_pb2.WaitReason, "WAIT_REASON_"),
        (enums.DeliveryMethod, task_pb2.DeliveryMethod, "DELIVERY_METHOD_"),
        (enums.IfExists, task_pb2.IfExists, "IF_EXISTS_"),
        (enums.Access, task_pb2.Access, "ACCESS_"),
        (enums.OnPending, task_pb2.OnPending, "ON_PENDING_"),
        (enums.WhenStopped, task_pb2.WhenStopped, "WHEN_STOPPED_"),
        (enums.WhenAbsent, task_pb2.WhenAbsent, "WHEN_ABSENT_"),
    ],
)
def test_enumerations_are_the_contract_s(ours: Any, theirs: Any, prefix: str) -> None:
    known = {name.removeprefix(prefix): number for name, number in theirs.items()}
    assert {each.name: each.value for each in ours} | {"UNSPECIFIED": 0} == known


def test_a_state_prints_its_name() -> None:
    task = task_pb2.Task(state=task_pb2.TASK_STATE_SUCCEEDED)
    assert (str(state_of(task)), f"{state_of(task)}") == ("SUCCEEDED", "SUCCEEDED")
    assert state_of(task) is enums.TaskState.SUCCEEDED
    assert int(task.state) == enums.TaskState.SUCCEEDED
    assert wait_reason_of(task) is None
    waiting = task_pb2.Task(wait_reason=task_pb2.WAIT_REASON_NO_WORKER)
    assert str(wait_reason_of(waiting)) == "NO_WORKER"


def test_a_state_of_a_newer_server_is_one_too() -> None:
    task = task_pb2.Task.FromString(b"\x98\x06\x63")  # some unknown field, and a state below
    task.state = task_pb2.TaskState.ValueType(99)
    assert (str(state_of(task)), state_of(task) == 99) == ("UNKNOWN_99", True)


# Filters -------------------------------------------------------------------------------------------------------------


def test_a_filter_from_plain_values() -> None:
    day = datetime(2026, 1, 31, 8, tzinfo=UTC)
    found = task_filter(
        TaskFilter(queue="slow"),
        state=["failed", enums.TaskState.EXPIRED],
        kind="resize",
        labels={"app": "shop"},
        target="east",
        created_after=day,
    )
    assert list(found.states) == [9, 11]
    assert (list(found.kinds), found.queue, found.target, dict(found.labels)) == (
        ["resize"],
        "slow",
        "east",
        {"app": "shop"},
    )
    assert found.created_after.ToDatetime(UTC) == day
    assert list(task_filter(state="done").states) == [8, 9, 10, 11]
    assert list(task_filter(state=enums.TaskState.FAILED).states) == [9]
    assert list(task_filter(state="TASK_STATE_FAILED").states) == [9]
    assert task_filter() == TaskFilter()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"state": "gone"}, "there is no state"),
        ({"state": 77}, "^state is 77"),
        ({"labels": {"a": 1}}, r"^labels\['a'\] is 1"),
        ({"created_after": datetime(2026, 1, 1)}, "^created_after is .*time zone"),  # noqa: DTZ001
        ({"created_before": "2h"}, "^created_before is '2h'"),
        ({"queue": 7}, "^queue is 7"),
        ({"kind": [7]}, "^kind is 7"),
    ],
)
def test_a_filter_that_cannot_be_is_refused_by_its_name(options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        task_filter(**options)


def test_a_filter_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="filter is a dict: give a TaskFilter, or arguments by their names"):
        task_filter({"queue": "x"})  # type: ignore[arg-type]


# Options by name -----------------------------------------------------------------------------------------------------


def parameters(function: Callable[..., Any], *, but: set[str]) -> set[str]:
    return {
        name
        for name, each in inspect.signature(function).parameters.items()
        if each.kind is not inspect.Parameter.VAR_POSITIONAL and name not in but
    }


def test_options_by_name_are_those_of_the_functions() -> None:
    terms = set(get_type_hints(TermOptions))
    assert (
        terms == parameters(specs._terms, but=set()) == {each.name for each in dataclasses.fields(options.TermsGroup)}
    )
    assert set(get_type_hints(PushOptions)) - terms == parameters(push_spec, but={"terms"})
    assert set(get_type_hints(FilterOptions)) == parameters(task_filter, but={"base"})
