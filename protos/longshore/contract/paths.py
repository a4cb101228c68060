"""Paths of files inside an instance."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from longshore.contract.limits import LARGEST_ATTEMPT
from longshore.contract.names import TASK_ID_LENGTH
from longshore.contract.temps import temps_of

LONGEST_PATH: Final = 4095
"""Bytes of a path. Linux counts 4096 with the NUL at the end."""
LONGEST_TEMP: Final = 4096
"""Characters of a temp's path that a handler names, whatever it calls a temp."""
LONGEST_COMPONENT: Final = 255
"""Bytes of one name in a path (Linux)."""

# A path of at most so many bytes leaves room for a temp beside it, whatever its name.
_ROOMY: Final = 3800
_ANY_ID: Final = "0" * TASK_ID_LENGTH


class PathRule(Enum):
    """The rule that a path breaks."""

    SPELLING = auto()
    """The path is not the absolute path of a file, or no file name can hold its characters."""
    ESCAPE = auto()
    """The path contains `..`, and where that leads depends on links inside the instance."""
    LENGTH = auto()
    """The path, a name in it or its temp is too long."""


@dataclass(frozen=True, slots=True)
class WrongPath:
    """A rule that a path breaks, and a text that continues "the path ..."."""

    rule: PathRule
    text: str


def wrong_path(path: str) -> WrongPath | None:
    """Say what is wrong with the path of a file in an instance. `//` and `/./` are good, see `spelled`."""
    if not path.startswith("/"):
        return WrongPath(PathRule.SPELLING, f"is {path[:80]!r}; give an absolute path, beginning with a slash")
    if "\0" in path:
        return WrongPath(PathRule.SPELLING, "has a NUL byte; no file name can")
    names = path.split("/")
    if names[-1] in ("", "."):
        return WrongPath(PathRule.SPELLING, "names a folder; give the file's own path, without a slash at the end")
    if ".." in names:
        return WrongPath(PathRule.ESCAPE, "has '..'; give the path without it")
    try:
        longest = max(len(name.encode()) for name in names)
    except UnicodeEncodeError:
        return WrongPath(PathRule.SPELLING, "is not UTF-8; give one that is")
    if longest > LONGEST_COMPONENT:
        return WrongPath(PathRule.LENGTH, f"has a component of {longest} bytes; at most {LONGEST_COMPONENT}")
    if (size := len(spelled(path).encode())) > LONGEST_PATH:
        return WrongPath(PathRule.LENGTH, f"has {size} bytes; at most {LONGEST_PATH}")
    return None


def wrong_destination(path: str) -> WrongPath | None:
    """Say what is wrong with the path of a file that is to be delivered: its temps need room beside it."""
    if wrong := wrong_path(path):
        return wrong
    normal = spelled(path)
    if len(normal.encode()) <= _ROOMY:
        return None
    return wrong_room(temps_of(normal, _ANY_ID, LARGEST_ATTEMPT)[0])


def wrong_room(temp: str) -> WrongPath | None:
    """Say what is wrong with the path beside which this temp is to be written."""
    if len(temp.encode()) <= LONGEST_PATH:
        return None
    return WrongPath(PathRule.LENGTH, "leaves no room for a temporary file beside it: give a shorter path")


def spelled(path: str) -> str:
    """Return the one spelling of a good path: `//` and `/./` are collapsed. `..` is refused above and never
    resolved."""
    if "//" not in path and "/./" not in path:
        return path
    return "/" + "/".join(name for name in path.split("/") if name not in ("", "."))


def wrong_temp(temp: str) -> str | None:
    """Say what is wrong with the temp that a handler names when it asks for a commit."""
    if temp.startswith("/") and "\0" not in temp and len(temp) <= LONGEST_TEMP:
        return None
    return f"give an absolute path of at most {LONGEST_TEMP} characters"
