"""This module delivers by the files API, for daemons without SFTP, where the operator allowed it.

The API writes into the file itself: a cut leaves the file torn, and only the grant comes between the last check and the
first byte. On a full disk the daemon answers 200 and has lost the end of the file, or all of it: so the file is always
read back.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import google_crc32c

from longshore.worker.errors import PermanentError, Reason, TransientError
from longshore.worker.targets.base import Attributes, Source, Written, chunks
from longshore.worker.targets.lxd.client import LxdClient
from longshore.worker.targets.paths import check_mode


class _SizedBody:
    """A payload as a request body: its length is announced, so that a short one is an error for the daemon too."""

    def __init__(self, source: Source, size: int, check: Callable[[], None]) -> None:
        self._source = source
        self._size = size
        self._check = check

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> _SizedBody:
        return self

    def __next__(self) -> bytes:
        piece = self.read()
        if not piece:
            raise StopIteration
        return piece

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""
        self._check()
        try:
            return next(chunks(self._source), b"") if size < 0 else self._source.read(size)
        except (OSError, EOFError) as error:
            raise TransientError(Reason.PAYLOAD_UNAVAILABLE, f"reading the payload failed: {error}") from error


class FilesApiDelivery:
    """Writes one file in place. A context manager, for one thread."""

    method: Final = "FILES_API"

    def __init__(self, client: LxdClient, project: str, instance: str, *, check: Callable[[], None]) -> None:
        self._client = client
        self._project = project
        self._instance = instance
        self._check = check

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def exists(self, path: str) -> bool:
        try:
            for _ in self._client.read_file(self._project, self._instance, path):
                break
        except PermanentError as error:
            if error.reason == Reason.INSTANCE_NOT_FOUND:
                return False
            raise
        return True

    def put(self, path: str, source: Source, *, size: int, attributes: Attributes) -> None:
        if attributes.mode is not None:
            check_mode(attributes.mode)
        body = _SizedBody(source, size, self._check)
        try:
            self._client.put_file(self._project, self._instance, path, body, attributes)
        except PermanentError as error:
            # "Not Found", and no word about what: the instance was looked at before, so it is the folder.
            if error.reason != Reason.INSTANCE_NOT_FOUND:
                raise
            raise PermanentError(
                Reason.PARENT_MISSING,
                f"writing {path}: its folder is missing, and the files API is not asked to create it",
            ) from error

    def read_back(self, path: str, *, advance: Callable[[int], None]) -> Written:
        size = crc = 0
        for piece in self._client.read_file(self._project, self._instance, path):
            self._check()
            crc = google_crc32c.extend(crc, piece)
            size += len(piece)
            advance(size)
        return Written(size, crc)

    def close(self) -> None:
        """Do nothing: no connection is kept open."""
