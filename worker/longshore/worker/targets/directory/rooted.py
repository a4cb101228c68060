"""This module walks a tree that other programs change meanwhile, without ever leaving it.

An instance's root is the instance's own business: its symlinks, its `..`, and what it renames while we walk. So a
path is walked component by component, each opened relative to the descriptor before it and never through a symlink;
symlinks are read and resolved here, as chroot would: an absolute one starts again at the root, and `..` at the root
stays there. Going up means going back to a descriptor that we came through, not asking the kernel for "..": a folder
that is moved away under our feet leads nowhere new.
"""

from __future__ import annotations

import errno
import os
import stat as stat_bits
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

_MAX_SYMLINKS: Final = 40
"""Linux follows as many symlinks."""
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class RootedTree:
    """Paths below one open folder. Raises OSError with the kernel's numbers."""

    def __init__(self, root: int) -> None:
        self._root = root

    @contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """Return the folder that holds the last name of `path`, as a descriptor for *at calls, and that name,
        unresolved."""
        head, _, name = path.rpartition("/")
        with _Walk(self._root) as walk:
            walk.enter(head)
            yield walk.folder(), name

    @contextmanager
    def resolved(self, path: str) -> Iterator[int]:
        """Return an O_PATH descriptor of what `path` leads to, with all symlinks resolved inside the tree."""
        with _Walk(self._root) as walk:
            walk.enter(path)
            yield walk.top()

    def make_parents(self, path: str, *, prepare: Callable[[int], None]) -> None:
        """Create the missing folders above `path`. Symlinks on the way are followed inside the tree.

        `prepare` gets a descriptor of each new folder, which is 0700, and gives it owner and mode.
        """
        with _Walk(self._root) as walk:
            walk.enter(path.rpartition("/")[0], prepare=prepare)
            walk.folder()


class _Walk:
    """A stack of descriptors from the root to where we are."""

    def __init__(self, root: int) -> None:
        self._stack = [os.dup(root)]
        self._links = 0

    def __enter__(self) -> _Walk:
        return self

    def __exit__(self, *_: object) -> None:
        while self._stack:
            os.close(self._stack.pop())

    def top(self) -> int:
        """Return a descriptor of the current place."""
        return self._stack[-1]

    def folder(self) -> int:
        """Return a descriptor of the current place, which must be a folder."""
        if not stat_bits.S_ISDIR(os.fstat(self.top()).st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return self.top()

    def enter(self, path: str, *, prepare: Callable[[int], None] | None = None) -> None:
        """Follow a path from here, or from the root when it is absolute.

        With `prepare`, missing folders are made, those that a link leads to too.
        """
        if path.startswith("/"):
            self._up_to_root()
        todo = [name for name in reversed(path.split("/")) if name not in ("", ".")]
        while todo:
            name = todo.pop()
            self.folder()
            if name == "..":
                if len(self._stack) > 1:
                    os.close(self._stack.pop())
                continue
            found = self._open(name, prepare)
            if not stat_bits.S_ISLNK(os.fstat(found).st_mode):
                self._stack.append(found)
                continue
            try:
                self._links += 1
                if self._links > _MAX_SYMLINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                leads_to = os.readlink("", dir_fd=found)  # of this very link, whatever has that name by now
            finally:
                os.close(found)
            if leads_to.startswith("/"):
                self._up_to_root()
            todo += [part for part in reversed(leads_to.split("/")) if part not in ("", ".")]

    def _open(self, name: str, prepare: Callable[[int], None] | None) -> int:
        try:
            return os.open(name, _LOOK, dir_fd=self.top())
        except FileNotFoundError:
            if prepare is None:
                raise
        try:
            os.mkdir(name, 0o700, dir_fd=self.top())
        except FileExistsError:
            # Somebody else was faster; whatever it is, it is looked at now.
            return os.open(name, _LOOK, dir_fd=self.top())
        try:
            made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.top())
            try:
                prepare(made)
                os.fsync(made)
            except BaseException:
                os.close(made)
                raise
        except BaseException:
            # The next push would find it there, and leave it as it is.
            with suppress(OSError):
                os.rmdir(name, dir_fd=self.top())
            raise
        sync_folder(self.top())
        return made

    def _up_to_root(self) -> None:
        while len(self._stack) > 1:
            os.close(self._stack.pop())


def sync_folder(folder: int) -> None:
    """Sync a folder's names to disk. Any descriptor of the folder will do; an O_PATH one is opened anew, as it cannot
    be synced itself."""
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
