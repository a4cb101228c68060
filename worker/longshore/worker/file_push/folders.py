"""A push creates folders and a temp above and beside its destination. If it cannot, this module finds the cause that a
person can do something about."""

from __future__ import annotations

from typing import Final

from longshore.worker.errors import PermanentError, Reason
from longshore.worker.file_push.model import Push
from longshore.worker.targets.base import Attributes, Delivery, FileKind, TempFile
from longshore.worker.targets.classify import no_new_files
from longshore.worker.targets.paths import folder_of, parents

_UNCLEAR: Final = frozenset({Reason.PARENT_MISSING, Reason.NOT_A_DIRECTORY, Reason.ALREADY_EXISTS})
"""A target gives these reasons when the folders above a path are wrong: they do not tell which one, nor always how."""


def make_parents(delivery: Delivery, push: Push, attributes: Attributes) -> None:
    """Create the missing folders above the destination; their owner is the file's. Raises `AttemptError`."""
    wanted = Attributes(push.parents_mode, attributes.uid, attributes.gid)
    try:
        delivery.make_parents(push.path, wanted)
    except PermanentError as error:
        if error.reason not in _UNCLEAR:
            raise
        better = _explained(delivery, push)
        if better is not None:
            raise better from error
        delivery.make_parents(push.path, wanted)  # somebody has put right what was wrong


def create_temp(delivery: Delivery, push: Push, temp: str, attributes: Attributes) -> TempFile:
    """Create a temp beside the destination. Raises `AttemptError`: ALREADY_EXISTS where its name is taken."""
    try:
        return delivery.create_temp(temp, attributes)
    except PermanentError as error:
        if error.reason not in (Reason.PARENT_MISSING, Reason.NOT_A_DIRECTORY):
            raise
        better = _explained(delivery, push)
        if better is not None:
            raise better from error
    # All folders are there now: somebody has made or moved one in this moment.
    return delivery.create_temp(temp, attributes)


def _explained(delivery: Delivery, push: Push) -> PermanentError | None:
    """Find out which folder above a destination kept a file or a folder from being created.

    None means that all of them are there now, and are folders. Raises `AttemptError` where that cannot be found out.
    """
    where = push.instance
    for folder in parents(push.path):
        found = delivery.stat(folder)
        if found is None:
            entry = delivery.stat(folder, follow=False)
            if entry is not None and entry.kind is FileKind.SYMLINK:
                return PermanentError(
                    Reason.LINK_BROKEN if push.create_parents else Reason.PARENT_MISSING,
                    f"{folder} is a link in {where} to something that does not exist: mend the link, or create what it "
                    "leads to",
                )
            if push.create_parents:
                return no_new_files(folder_of(folder))
            return PermanentError(
                Reason.PARENT_MISSING,
                f"{folder} does not exist in {where}: create it, or push with --create-dirs (-p)",
            )
        if found.kind is not FileKind.DIRECTORY:
            return PermanentError(
                Reason.NOT_A_DIRECTORY, f"{folder} is a file in {where}, so nothing can be put below it"
            )
    return None
