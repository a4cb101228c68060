"""The contract's rules for paths and names as a worker's errors, and what folders a path has. Pure."""

from __future__ import annotations

import posixpath
from typing import Final

from longshore.contract import limits, names, paths
from longshore.contract.paths import PathRule, WrongPath
from longshore.contract.temps import TRIES_PER_ATTEMPT, temps_of
from longshore.worker.errors import PermanentError, Reason

_REASONS: Final = {
    PathRule.SPELLING: Reason.INVALID_ARGUMENT,
    PathRule.ESCAPE: Reason.PATH_ESCAPES,
    PathRule.LENGTH: Reason.NAME_TOO_LONG,
}


def normalise(path: str) -> str:
    """Return the one spelling of an instance path. Raises PermanentError for a path that no file can have."""
    if wrong := paths.wrong_path(path):
        raise _refused(wrong)
    return paths.spelled(path)


def folder_of(path: str) -> str:
    """Return the folder that holds a file."""
    return posixpath.dirname(path) or "/"


def parents(path: str) -> list[str]:
    """Return the folders above a normalised path, outermost first, without the root."""
    names = path.split("/")[1:-1]
    return ["/" + "/".join(names[: i + 1]) for i in range(len(names))]


def check_instance(instance: str) -> str:
    """Check that an instance's name can be a part of a URL and a folder's name, and return it."""
    if wrong := names.wrong_instance(instance):
        raise PermanentError(Reason.INVALID_ARGUMENT, f"{instance!r} is no instance name: {wrong}")
    return instance


def check_project(project: str) -> str:
    """Check that a project's name can be a part of a URL, and return it. Empty means the target's own project."""
    if wrong := names.wrong_project(project):
        raise PermanentError(Reason.INVALID_ARGUMENT, f"{project!r} is no project name: {wrong}")
    return project


def check_mode(mode: int) -> int:
    """Check that every target can set these permission bits, and return them."""
    if wrong := limits.wrong_mode(mode):
        raise PermanentError(Reason.UNSUPPORTED_MODE, f"the mode is {mode:#o}: {wrong}")
    return mode


def temp_path(path: str, task_id: str, attempt: int, try_number: int) -> str:
    """Return the temp of one try, beside its destination. Raises PermanentError where the path leaves no room for
    it."""
    if not 1 <= try_number <= TRIES_PER_ATTEMPT:
        raise ValueError(f"try {try_number} is not in 1..{TRIES_PER_ATTEMPT}")
    temp = temps_of(path, task_id, attempt)[try_number - 1]
    if wrong := paths.wrong_room(temp):
        raise _refused(wrong)
    return temp


def _refused(wrong: WrongPath) -> PermanentError:
    return PermanentError(_REASONS[wrong.rule], f"the path {wrong.text}")
