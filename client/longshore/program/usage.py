"""This module runs a command line. If the command line is wrong, it says so in plain sentences and exits with 2."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

import typer

from longshore.program import streams

USAGE: Final = 2
"""Exit code: an option, an argument or a setting cannot be used."""
_INTERRUPTED: Final = 130

# `typer.BadParameter` derives from it, in every version of typer, whatever package has its parser.
_UsageError: Final[type[Exception]] = typer.BadParameter.__mro__[1]

_PLAIN: Final = (
    (re.compile(r"Value error, "), ""),
    (
        re.compile(r"Input should be a valid integer.*|Unable to parse input string as an integer.*"),
        "write a whole number",
    ),
    (re.compile(r"Input should be a valid number.*|Unable to parse input string as a number.*"), "write a number"),
    (re.compile(r"Input should be a valid boolean.*"), "write true or false"),
    (re.compile(r"Input should be less than or equal to (\S+)"), r"the most is \1"),
    (re.compile(r"Input should be greater than or equal to (\S+)"), r"the least is \1"),
    (re.compile(r"Input should be (.*)"), r"write \1"),
    (re.compile(r"\s+"), " "),
)


def run(name: str, app: typer.Typer, *, tell: Callable[[str, str], None] | None = None) -> NoReturn:
    """Run the program to its exit. `tell` prints a usage error and its hint.

    None means that both are printed in prose, on standard error.
    """
    # What is imported by now stays until the exit, where Python looks through all that is not frozen several times:
    # 7 % of the instructions of `longshore --version`.
    gc.freeze()
    try:
        code = app(prog_name=name, standalone_mode=False)
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.exit(USAGE)  # the help was printed instead
        (tell or _tell(name))(sentence(error), _hint(name, error))
        sys.exit(USAGE)
    except typer.Abort:
        sys.exit(_INTERRUPTED)
    except streams.OutputLost as lost:
        if lost.exit_code != streams.BROKEN_PIPE:
            streams.say(f"{name}: {lost}", err=True)
        sys.exit(lost.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _tell(name: str) -> Callable[[str, str], None]:
    def tell(said: str, hint: str) -> None:
        streams.say(f"{name}: {said}", err=True)
        streams.say(f"{' ' * len(name)}  {hint}", err=True)

    return tell


def _hint(name: str, error: Exception) -> str:
    context: Any = getattr(error, "ctx", None)
    return f"`{name if context is None else context.command_path} --help` explains the options"


def sentence(error: Exception) -> str:
    """Describe a usage error in one sentence, which begins with the option or the argument where one is to blame."""
    kind, parameter, context = type(error).__name__, getattr(error, "param", None), getattr(error, "ctx", None)
    message = _plain(str(getattr(error, "message", None) or "")).rstrip(".")
    if kind == "NoSuchOption":
        near: Sequence[str] = sorted(getattr(error, "possibilities", None) or ())
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        return f"there is no option {getattr(error, 'option_name', '')}{meant}"
    if parameter is None:
        return message[:1].lower() + message[1:] if message[:2].istitle() else message
    subject = _subject(parameter)
    if kind == "MissingParameter":
        choices = _plain(parameter.get_missing_message(ctx=context) or "")
        return f"{subject} is missing" + (f"; {choices[:1].lower()}{choices[1:]}" if choices else "")
    return f"{subject}{_given(error)}{_origin(parameter, context)}: {message}"


def _plain(message: str) -> str:
    for pattern, words in _PLAIN:
        message = pattern.sub(words, message)
    return message.strip()


def _subject(parameter: Any) -> str:
    """Return the longest name of an option, or an argument's name in capitals."""
    options = [each for each in parameter.opts if each.startswith("-")]
    return max(options, key=len) if options else str(parameter.metavar or parameter.name.upper())


def _given(error: Exception) -> str:
    """Return the given value, where the parser tells it and the message does not."""
    found: Any = getattr(error.__cause__, "errors", None)
    try:
        value = found()[0]["input"] if callable(found) else None
    except (LookupError, TypeError):
        return ""
    text = str(value)
    return f" {text[:80]}" if isinstance(value, str | int | float) and repr(text) not in str(error) else ""


def _origin(parameter: Any, context: Any) -> str:
    """Name the place of a value that is not on the command line."""
    source = getattr(context.get_parameter_source(parameter.name), "name", "") if context is not None else ""
    if source == "DEFAULT_MAP":
        return " (in the file of --config)"
    if source != "ENVIRONMENT":
        return ""
    names = parameter.envvar or f"{context.auto_envvar_prefix}_{parameter.name.upper()}"
    every = [names] if isinstance(names, str) else list(names)
    return f" (in ${next((each for each in every if _is_set(each)), every[0])})"


def _is_set(name: str) -> bool:
    return bool(os.environ.get(name))
