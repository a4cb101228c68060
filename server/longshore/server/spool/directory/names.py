"""This module names the files of a directory spool.

A directory that one server holds has `uploads/ID.part` and `payloads/XX/ID` (XX: the id's first two characters).
A shared one has `uploads/ID.CONNECTION.part` and `payloads/XX/ID.SIZE.CRC32C`. There a file belongs to the
one connection in its name, and two different contents never have the same final name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

ID: Final = re.compile(r"[0-9a-f]{2}[A-Za-z0-9-]{6,62}")
_PART: Final = re.compile(rf"({ID.pattern})(?:\.(\d+))?\.part")
_FINAL: Final = re.compile(rf"({ID.pattern})(?:\.\d+\.[0-9a-f]{{8}})?")


def checked(one: str) -> str:
    """Return the id if it is safe as a file name. Ids come from the server itself, so any other id is a defect.

    Raises ValueError.
    """
    if not ID.fullmatch(one):
        raise ValueError(f"{one!r} is no id of the spool")
    return one


def connection_of(part: Path) -> int:
    """Return the number of the connection that the file belongs to. 0 means that the name does not say."""
    match = _PART.fullmatch(part.name)
    return int(match[2] or 0) if match else 0


class Names(Protocol):
    """The paths of the files of an id."""

    shared: bool

    def part(self, upload_id: str, connection: int) -> Path: ...

    def final(self, payload_id: str, size: int, crc32c: int) -> Path: ...

    def of(self, one: str) -> list[Path]:
        """Return all files of an upload or payload that may be there."""
        ...


class OwnNames:
    """Names the files of a directory that one server holds."""

    shared = False

    def __init__(self, root: Path) -> None:
        self.uploads, self.payloads = root / "uploads", root / "payloads"

    def part(self, upload_id: str, connection: int) -> Path:
        del connection
        return self.uploads / f"{checked(upload_id)}.part"

    def final(self, payload_id: str, size: int, crc32c: int) -> Path:
        del size, crc32c
        return self.payloads / checked(payload_id)[:2] / payload_id

    def of(self, one: str) -> list[Path]:
        return [self.part(one, 0), self.final(one, 0, 0)]


class SharedNames:
    """Names the files of a directory that several servers share."""

    shared = True

    def __init__(self, root: Path) -> None:
        self.uploads, self.payloads = root / "uploads", root / "payloads"

    def part(self, upload_id: str, connection: int) -> Path:
        return self.uploads / f"{checked(upload_id)}.{connection}.part"

    def final(self, payload_id: str, size: int, crc32c: int) -> Path:
        return self.payloads / checked(payload_id)[:2] / f"{payload_id}.{size}.{crc32c:08x}"

    def of(self, one: str) -> list[Path]:
        """Return the files, those of the newest connections first and sealed ones last."""
        parts = _matching(self.uploads, _PART, checked(one))
        return sorted(parts, key=connection_of, reverse=True) + _matching(self.payloads / one[:2], _FINAL, one)


def files(uploads: Path, payloads: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the id and the entry of every file that looks like a spool's."""
    with os.scandir(uploads) as entries:
        for entry in entries:
            if match := _PART.fullmatch(entry.name):
                yield match[1], entry
    with os.scandir(payloads) as folders:
        for folder in folders:
            with os.scandir(folder.path) as entries:
                for entry in entries:
                    if match := _FINAL.fullmatch(entry.name):
                        yield match[1], entry


def _matching(folder: Path, pattern: re.Pattern[str], one: str) -> list[Path]:
    with os.scandir(folder) as entries:
        # The start is compared first: a folder of payloads may hold thousands.
        names = [entry.name for entry in entries if entry.name.startswith(one)]
    return [folder / name for name in names if (match := pattern.fullmatch(name)) and match[1] == one]
