"""A table of fields says of each field of a value where it is stored and how it is written and read. The column lists,
the row of a value and the value of a row all follow from that table.

The functions that read and write are made as source, as `dataclass` makes its own: a loop over the fields of a status
takes three times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

T = TypeVar("T")

Column = sa.Column[Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One stored field. `path` leads to it from the value, as in "terms.queue"; an empty path is the value itself.

    `decode` takes the cells of all columns, and `encode` answers with as many. None means that the cell is the field's
    value. A field that is `optional` may be None: its columns are then NULL.
    """

    path: str
    columns: tuple[Column, ...]
    encode: Callable[[Any], Any] | None = None
    decode: Callable[..., Any] | None = None
    optional: bool = False


def columns_of(fields: Iterable[Field]) -> tuple[Column, ...]:
    """Return the columns of these fields, each once, in their order."""
    return tuple(dict.fromkeys(column for field in fields for column in field.columns))


def reader(kind: type[T], fields: Iterable[Field]) -> Callable[[tuple[Any, ...]], T]:
    """Make a function that reads a row of `columns_of(fields)` into a value of this kind, whose arguments the paths
    name."""
    fields = tuple(fields)
    cells = {column: f"cell_{number}" for number, column in enumerate(columns_of(fields))}
    space: dict[str, Any] = {"kind": kind}
    arguments = []
    for field in fields:
        given = [cells[column] for column in field.columns]
        told = ", ".join(given)
        if field.decode is not None:
            space[f"decode_{field.path}"] = field.decode
            told = f"decode_{field.path}({told})"
            if field.optional:
                told = f"None if {given[0]} is None else {told}"
        arguments.append(f"{field.path}={told}")
    source = f"    ({', '.join(cells.values())},) = row\n    return kind({', '.join(arguments)})"
    read: Callable[[tuple[Any, ...]], T] = _made("read(row)", source, space)
    return read


def writer(fields: Iterable[Field]) -> Callable[[Any], tuple[Any, ...]]:
    """Make a function that writes a value into a row: the cells of all columns of these fields, in their order."""
    space: dict[str, Any] = {}
    cells = []
    for number, field in enumerate(fields):
        told = ".".join(filter(None, ("value", field.path)))
        several = len(field.columns) > 1
        if field.encode is not None:
            space[f"encode_{number}"] = field.encode
            cell = f"encode_{number}({told})"
            if field.optional:
                nothing = (None,) * len(field.columns) if several else None
                cell = f"{nothing} if {told} is None else {cell}"
            told = f"*({cell})" if several else cell
        cells.append(told)
    write: Callable[[Any], tuple[Any, ...]] = _made("write(value)", f"    return ({', '.join(cells)},)", space)
    return write


def _made(head: str, body: str, space: dict[str, Any]) -> Any:
    exec(f"def {head}:\n{body}", space)  # as `dataclass` does itself
    return space[head.partition("(")[0]]
