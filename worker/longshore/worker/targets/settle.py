"""This module finds out what became of a granted commit whose answer was lost.

A commit may still be queued in a daemon when its worker is long dead, so looking at the destination proves nothing: it
may change in the next moment. Removing the temp does. Of a remove and a rename of one name exactly one succeeds (5,000
races, always), and temp names are never used twice.
"""

from __future__ import annotations

from collections.abc import Callable

from longshore.worker.targets.base import Content, Delivery, FileKind, Settlement


def settle(
    delivery: Delivery, *, temp: str, path: str, content: Content, replace: bool, advance: Callable[[int], None]
) -> Settlement:
    """Remove the temp; if it was gone already, compare the destination.

    Without `replace` the commit is a link, which leaves the temp: it being there proves nothing, but once it is removed
    nothing can change any more, and the destination tells. Idempotent, and safe to run by several workers at once.
    """
    removed = delivery.remove(temp)
    if removed and replace:
        return Settlement.REMOVED
    if holds(delivery, path, content, advance=advance):
        return Settlement.LANDED
    return Settlement.REMOVED if removed else Settlement.NEITHER


def holds(delivery: Delivery, path: str, content: Content, *, advance: Callable[[int], None]) -> bool:
    """Return whether the path holds a regular file with this size, mode, owner and content. Cheap comparisons come
    first."""
    found = delivery.stat(path, follow=False)
    if found is None or found.kind is not FileKind.FILE or found.size != content.size:
        return False
    wanted = content.attributes
    for want, have in ((wanted.mode, found.mode), (wanted.uid, found.uid), (wanted.gid, found.gid)):
        if want is not None and want != have:
            return False
    back = delivery.read_back(path, advance=advance)
    return back.size == content.size and back.crc32c == content.crc32c
