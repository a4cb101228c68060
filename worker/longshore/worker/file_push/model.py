"""This module has the values that a push is asked for and that it leaves, and the rules between them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Protocol

from longshore.contract.enums import WhenAbsent, WhenStopped
from longshore.worker.errors import PermanentError, Reason
from longshore.worker.targets.base import Attributes, Content, FileKind, FileStat, Source
from longshore.worker.targets.paths import check_instance, check_mode, check_project, normalise

NEW_FILE_MODE: Final = 0o644
_AS_IT_IS: Final = Attributes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """One file to one destination, as one attempt sees it.

    Mode and owner that are None are those of the file that is replaced, else `mode_if_new` and root: what
    `lxc file push` leaves. Set-id and sticky bits of a replaced file are not kept, and a symlink at the destination is
    replaced, not followed.
    """

    task_id: str
    attempt: int
    project: str
    instance: str
    path: str
    size: int
    crc32c: int
    attributes: Attributes = _AS_IT_IS
    create_parents: bool = False
    parents_mode: int | None = None
    """The folders that are created get these permission bits, and the owner of the file. None means 0755."""
    in_place: bool = False
    """Write into the file that is there. Where none is, the file is put there as otherwise."""
    replace: bool = True
    when_stopped: WhenStopped = WhenStopped.DELIVER
    when_absent: WhenAbsent = WhenAbsent.FAIL
    read_back: bool = False
    mode_if_new: int = NEW_FILE_MODE


@dataclass(frozen=True, slots=True)
class Pushed:
    """The result of a push tells the content that the destination has now, and how it came there."""

    method: str
    content: Content
    left_temps: bool = False


class PushContext(Protocol):
    """A push needs these methods of its attempt."""

    def check(self) -> None:
        """Raise `AttemptStopped` if the attempt was told to end."""

    def progress(self, done: int, total: int) -> None:
        """Report the bytes that are done, of all."""

    def commit(self, temp: str, *, method: str, content: Content) -> None:
        """Return when the commit is granted; raise `GrantRefused` when it is not."""

    def open_payload(self) -> Source:
        """Open the payload from its beginning, once for each try."""


def complete(push: Push, found: FileStat | None, default_owner: tuple[int, int]) -> Attributes:
    """Mode and owner of the file: as asked; else as the replaced file's; else those of a new one."""
    if found is not None and found.kind is FileKind.DIRECTORY:
        raise PermanentError(
            Reason.IS_A_DIRECTORY,
            f"{push.path} is a folder in {push.instance}: push to {push.instance}{push.path}/ (with a slash) to keep "
            "the file's name, or name the file in it",
        )
    if found is not None and found.kind is FileKind.OTHER:
        raise PermanentError(Reason.NOT_A_FILE, f"{push.path} is a device, socket or pipe, and is not replaced")
    if found is None or found.kind is not FileKind.FILE:
        found = FileStat(FileKind.FILE, 0, push.mode_if_new, *default_owner)
    asked = push.attributes
    return Attributes(
        found.mode if asked.mode is None else asked.mode,
        found.uid if asked.uid is None else asked.uid,
        found.gid if asked.gid is None else asked.gid,
    )


def already_exists(path: str) -> PermanentError:
    """Make the error of a destination that is taken and must not be replaced."""
    return PermanentError(Reason.ALREADY_EXISTS, f"{path} exists, and the task is not to replace it")


def validated(push: Push) -> Push:
    """Return the push with its path in normal form. Raises PermanentError for what no target can do."""
    check_project(push.project)
    check_instance(push.instance)
    if push.attributes.mode is not None:
        check_mode(push.attributes.mode)
    check_mode(push.mode_if_new)
    if push.parents_mode is not None:
        check_mode(push.parents_mode)
    return replace(push, path=normalise(push.path))
