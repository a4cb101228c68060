"""Every target offers these operations to a handler. They are synchronous, because handlers run in threads.

A delivery consists of small steps instead of one `put`, because the commit grant stands between the last check of the
temp file and its rename, and because each step has its own way to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final, Protocol

CHUNK: Final = 252 * 1024
"""Bytes read from a payload at a time: whole pages, and as many as fit into the longest packet that SFTP servers take
(256 KiB). Each packet costs the daemon and us the same whatever it holds: against 128 KiB 10 % less CPU."""


class Source(Protocol):
    """Where bytes come from; any binary file object is one."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; b"" at the end only."""


class InstanceState(StrEnum):
    """The state of an instance."""

    ABSENT = "ABSENT"
    STOPPED = "STOPPED"
    RUNNING = "RUNNING"
    FROZEN = "FROZEN"


@dataclass(frozen=True, slots=True)
class InstanceChange:
    """An instance is in this state now. `project` is the real name, never empty for a target that has projects."""

    project: str
    instance: str
    state: InstanceState


class FileKind(Enum):
    """The kind of file at a path."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class FileStat:
    """The attributes of a path: size in bytes, the nine permission bits, numeric owner inside the instance."""

    kind: FileKind
    size: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Attributes:
    """Permission bits and owner; None leaves one as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes that went through, and their CRC32C."""

    size: int
    crc32c: int


@dataclass(frozen=True, slots=True)
class Content:
    """The content that a delivery was to leave at its destination. Attributes that are None are not compared."""

    size: int
    crc32c: int
    attributes: Attributes


class Settlement(StrEnum):
    """The result of settling a commit whose answer was lost."""

    REMOVED = "REMOVED"
    """The temp was there and is gone: that commit never happened and never will."""
    LANDED = "LANDED"
    """The destination holds the content."""
    NEITHER = "NEITHER"
    """No temp, and the destination holds something else, or nothing."""


class CommitLost(Exception):
    """The commit was sent, or may have been, and no answer came. Settle it over a new delivery."""


def no_check() -> None:
    """Do nothing: the cancellation hook of an operation that must not be stopped half-way."""


class TempFile(Protocol):
    """A file under construction, visible only under its temp name.

    What its writes and attributes met is raised by `finish` at the latest.
    """

    @property
    def path(self) -> str:
        """Return the file's path inside the instance."""

    def write(self, source: Source, *, advance: Callable[[int], None]) -> Written:
        """Send all of `source`, and say what that was. `advance` gets the bytes sent so far, and may raise."""

    def finish(self) -> FileStat:
        """Close it and look at it: every write is acknowledged. The `directory` target syncs it to disk first."""


class Delivery(Protocol):
    """One connection to one instance, for one thread.

    Every method raises an `AttemptError` that is already classified. Cancellation: the check given to `Target.open` is
    called between chunks and while waiting for the target, except in `commit` and `remove`; what it raises passes
    through.
    """

    @property
    def method(self) -> str:
        """Return how bytes are written, as the contract spells it: SFTP or DIRECTORY."""

    @property
    def default_owner(self) -> tuple[int, int]:
        """User and group of a new file when nobody says otherwise."""

    def stat(self, path: str, *, follow: bool = True) -> FileStat | None:
        """Look at a path. None means that nothing is there. `follow` looks at a symlink's end inside the instance."""

    def make_parents(self, path: str, attributes: Attributes) -> None:
        """Create the missing folders above a path, with this mode and owner. Attributes that are None are 0755, and the
        default owner."""

    def create_temp(self, path: str, attributes: Attributes) -> TempFile:
        """Create a file that did not exist (O_EXCL), and give it owner and mode, before its first byte."""

    def read_back(self, path: str, *, advance: Callable[[int], None]) -> Written:
        """Read a whole file and return its size and CRC32C."""

    def commit(self, temp: str, path: str, *, replace: bool) -> None:
        """Put a temp in place in one step. Without `replace` an existing name is refused with ALREADY_EXISTS.

        An `AttemptError` means that it did not happen and will not; `CommitLost` that nobody knows. Without `replace`
        the temp may be left when the link succeeded: remove it.
        """

    def overwrite(self, temp: str, path: str, asked: Attributes) -> None:
        """Write a temp's content into an existing file, and give that the attributes that are not None.

        The temp must be of this delivery. An `AttemptError` that is not permanent means that the file is as it was;
        `CommitLost` that nobody knows how much of it was written. After a permanent one it may be torn.
        """

    def discard(self, temp: str) -> bool:
        """Remove a temp that this delivery has made, from the folder in which it was made.

        Returns True when nothing is left of the temp, also when it was never made. False means that it is not where it
        should be, because the temp or its folder was moved.
        """

    def remove(self, path: str) -> bool:
        """Remove a file by its path. Returns False when there is none."""

    def close(self) -> None:
        """Give the connection back."""


class InPlaceDelivery(Protocol):
    """An in-place delivery writes where a daemon has no SFTP. It is neither atomic nor fenced, and the operator must
    have allowed it."""

    @property
    def method(self) -> str:
        """FILES_API."""

    def exists(self, path: str) -> bool:
        """Return whether there is a file now. That may change at any moment."""

    def put(self, path: str, source: Source, *, size: int, attributes: Attributes) -> None:
        """Write over the file. A cut leaves it torn; a file that is there keeps its mode and owner."""

    def read_back(self, path: str, *, advance: Callable[[int], None]) -> Written:
        """Read a whole file and return its size and CRC32C."""

    def close(self) -> None:
        """Give the connection back."""


class Watch(Protocol):
    """A running watch."""

    def close(self) -> None:
        """Stop; no callback begins after this returns."""


class Target(Protocol):
    """A place to deliver to. Safe to use from many threads at once."""

    @property
    def name(self) -> str:
        """Return the target's name, the same throughout the fleet."""

    @property
    def default_project(self) -> str:
        """Return the project that an empty project means. Empty means that the target has no projects."""

    def identity(self) -> str:
        """Return the identity that the daemon gives: the same from every worker, and over restarts. The daemon is asked
        each time."""

    def probe(self, project: str, instance: str) -> InstanceState:
        """Return the instance's state now."""

    def instances(self, project: str) -> Sequence[str]:
        """Return the names of the instances, to tell a caller which one was perhaps meant."""

    def open(
        self, project: str, instance: str, *, check: Callable[[], None] = no_check, hurry: bool = False
    ) -> AbstractContextManager[Delivery]:
        """Connect to an instance, stopped or running. NO_SFTP when the daemon cannot; see `open_in_place`.

        With `hurry` the time-outs are short: for cleaning up after a failure.
        """

    def open_in_place(
        self, project: str, instance: str, *, check: Callable[[], None] = no_check
    ) -> AbstractContextManager[InPlaceDelivery] | None:
        """Open a delivery without SFTP. None means that the operator has not allowed it."""

    def watch(self, callback: Callable[[InstanceChange], None]) -> Watch:
        """Report instances as they change, from a thread of the target's own.

        At first, and after each gap, every instance is reported as it is. Nothing is missed for longer than the slow
        poll. A callback that raises ends the watch, so it should only hand over.
        """

    def close_idle(self) -> None:
        """Close connections that no delivery is using."""

    def close(self) -> None:
        """Close everything. Deliveries under way end with TARGET_UNREACHABLE."""


def chunks(source: Source) -> Iterator[bytes]:
    """Yield all of `source` in pieces of `CHUNK` bytes, the last one shorter. Streams that read short are joined."""
    while True:
        piece = source.read(CHUNK)
        if not piece:
            return
        if len(piece) < CHUNK:
            parts = [piece]
            missing = CHUNK - len(piece)
            while missing and (more := source.read(missing)):
                parts.append(more)
                missing -= len(more)
            piece = b"".join(parts)
        yield piece
