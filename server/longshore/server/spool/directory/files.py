"""This module makes folders and files durable."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def made_once(path: Path, content: bytes) -> bytes:
    """Read a small file, which is made with `content` when it is not there. If several callers make it at the same
    time, one of them does, and all read the same whole file."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    fresh = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, content)
        os.fsync(fd)
        with contextlib.suppress(FileExistsError):
            link(fresh, path)
        sync_folder(path.parent)
    finally:
        os.close(fd)
        fresh.unlink(missing_ok=True)
    return path.read_bytes()


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or move it where the file system knows no second names (exFAT, some network shares).

    A link refuses a name that exists (FileExistsError), where a rename replaces it.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        source.rename(target)
