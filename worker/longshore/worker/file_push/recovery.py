"""This module looks after a push whose worker was lost: it settles the commit, and removes the temps that were left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from longshore.contract.temps import is_temp
from longshore.worker.errors import PermanentError, Reason
from longshore.worker.file_push.model import Push
from longshore.worker.targets.base import Attributes, Content, Settlement, Target, Written, no_check
from longshore.worker.targets.settle import holds, settle

FILES_API: Final = "FILES_API"
IN_PLACE: Final = "IN_PLACE"


def settle_push(
    push: Push, target: Target, *, temp: str, method: str, check: Callable[[], None] = no_check
) -> Settlement:
    """Find out what became of a granted commit of `push`. Raises `AttemptError` when that cannot be found out now.

    `push` describes what the granted attempt was to leave: attributes that are None are not compared.
    """
    content = Content(push.size, push.crc32c, push.attributes)
    advance = only_check(check)
    if method == FILES_API:
        in_place = target.open_in_place(push.project, push.instance, check=check)
        if in_place is None:
            raise PermanentError(Reason.NO_SFTP, "the files API is not allowed for this target any more")
        with in_place as delivery:
            if not delivery.exists(push.path):
                return Settlement.NEITHER
            back = delivery.read_back(push.path, advance=advance)
        return Settlement.LANDED if back == Written(push.size, push.crc32c) else Settlement.NEITHER
    try:
        _insist_temp(temp)
        with target.open(push.project, push.instance, check=check) as delivery:
            if method == IN_PLACE or (push.in_place and not method):
                # The temp tells nothing: it stays until all of it is written. Without it nobody begins any more.
                delivery.remove(temp)
                unlike = not holds(delivery, push.path, replace(content, attributes=Attributes()), advance=advance)
                return Settlement.NEITHER if unlike else Settlement.LANDED
            return settle(delivery, temp=temp, path=push.path, content=content, replace=push.replace, advance=advance)
    except PermanentError as error:
        if error.reason == Reason.INSTANCE_NOT_FOUND:
            return Settlement.NEITHER  # Temp, destination and daemon's view of both are gone with the instance.
        raise


def remove_temps(target: Target, *, project: str, instance: str, temps: tuple[str, ...]) -> int:
    """Remove the temps that a lost attempt may have left, and return how many there were. Raises `AttemptError` when it
    cannot be done now.

    A temp or an instance that does not exist counts as done. A name that is not a temp's is refused.
    """
    for temp in temps:
        _insist_temp(temp)
    try:
        with target.open(project, instance) as delivery:
            return sum(delivery.remove(temp) for temp in temps)
    except PermanentError as error:
        # Without SFTP nothing of ours was ever made there.
        if error.reason not in (Reason.INSTANCE_NOT_FOUND, Reason.NO_SFTP):
            raise
        return 0


def only_check(check: Callable[[], None]) -> Callable[[int], None]:
    """Make a progress callback, for reads that report none, that only calls `check`."""

    def advance(_: int) -> None:
        check()

    return advance


def _insist_temp(temp: str) -> None:
    if not is_temp(temp):
        raise PermanentError(
            Reason.INVALID_ARGUMENT, f"{temp!r} is not the name of a temp file of Longshore: not removed"
        )
