"""Records are dataclasses like any other: only their making is faster."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from longshore.server.model.records import changed, record
from longshore.server.model.task import Status
from longshore.server.model.values import State


@record
class Point:
    x: int
    y: int = 2


def test_a_record_is_frozen_and_slotted() -> None:
    point = Point(1)
    assert (point.x, point.y) == (1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 3  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        point.z = 3  # type: ignore[attr-defined]
    assert not hasattr(point, "__dict__")
    assert type(point) is Point


def test_records_are_compared_hashed_shown_and_copied_by_value() -> None:
    point = Point(1, y=3)
    assert point == Point(1, 3)
    assert point != Point(1, 4)
    assert hash(point) == hash(Point(1, 3))
    assert repr(point) == "Point(x=1, y=3)"
    assert copy.copy(point) == point
    assert pickle.loads(pickle.dumps(point)) == point
    assert dataclasses.replace(point, x=5) == Point(5, 3)


def test_a_changed_record_is_another_one() -> None:
    point = Point(1)
    other = changed(point, y=7)
    assert (point, other) == (Point(1, 2), Point(1, 7))
    with pytest.raises(dataclasses.FrozenInstanceError):
        other.x = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        changed(point, z=1)  # type: ignore[call-arg]


def test_arguments_are_checked_as_ever() -> None:
    with pytest.raises(TypeError):
        Point()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Point(1, 2, 3)  # type: ignore[call-arg]


def test_a_default_factory_makes_a_value_for_each() -> None:
    @record
    class Made:
        x: list[int] = dataclasses.field(default_factory=list)

    assert Made() == Made([])
    assert Made().x is not Made().x


def test_changing_a_record_equals_dataclasses_replace() -> None:
    status = Status(revision=1, state=State.QUEUED, head=True)
    more = {"revision": 2, "state": State.RUNNING, "session_id": "s", "deadline_ticks": 7.0}
    assert changed(status, **more) == dataclasses.replace(status, **more)  # type: ignore[arg-type]
