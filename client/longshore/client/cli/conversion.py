"""Commands convert only those values of the command line that need it.

Typer converts with pydantic. Importing pydantic and making an adapter for each option of `push` took a seventh of the
instructions of the command, and most options are not given.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Any, Final

from typer.core import TyperCommand, TyperGroup

_KEEP: Final = object()


class QuickGroup(TyperGroup):
    """A group of commands that converts only what needs it."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters as the base class does."""
        return _quickened(super().get_params(ctx))


class QuickCommand(TyperCommand):
    """A command that converts only what needs it."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters as the base class does."""
        return _quickened(super().get_params(ctx))


def _quickened(parameters: list[Any]) -> list[Any]:
    for each in parameters:
        if "process_value" not in vars(each):
            each.process_value = _processing(each, each.process_value)
    return parameters


def _processing(parameter: Any, converted: Any) -> Any:
    def process(context: Any, value: Any) -> Any:
        known = _known(parameter, value)
        if known is _KEEP:
            return converted(context, value)
        return known if parameter.callback is None else parameter.callback(context, parameter, known)

    return process


def _known(parameter: Any, value: Any) -> Any:
    """Return the result of a conversion that typer is not needed for.

    Nothing was given, a default is a value already, a text stays a text, names a choice, or has a parser of ours.
    """
    if value is None and not parameter.required:
        return () if parameter.multiple or parameter.nargs == -1 else None
    if value is parameter.default and (value == "" or isinstance(value, int | float | Enum)):
        return value
    asked = getattr(parameter, "type_descriptor", None)  # versions of typer that use pydantic have it
    if asked is None or not value:
        return _KEEP
    if (parse := asked.parameter_info.parser) is not None:
        return parse(value) if parameter.nargs == 1 and not parameter.multiple else _KEEP
    if asked.annotation is str and isinstance(value, str):
        return value
    if asked.annotation == list[str] and all(isinstance(each, str) for each in value):
        return list(value)
    if isinstance(asked.annotation, type) and issubclass(asked.annotation, StrEnum) and value in [*asked.annotation]:
        return asked.annotation(value)
    return _KEEP
