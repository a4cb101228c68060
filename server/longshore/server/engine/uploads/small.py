"""A small upload stays in memory until its finish. Then one command makes its payload and its tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Protocol

import google_crc32c
import structlog

from longshore.server.engine.submissions import UploadRequest, upload_fingerprint
from longshore.server.engine.uploads.connection import ConnectionOwner, UploadConnection
from longshore.server.engine.uploads.ledger import UploadLedger, check_sha256
from longshore.server.engine.uploads.stream import UploadStream
from longshore.server.engine.uploads.submitting import Submitter
from longshore.server.logs import sparing
from longshore.server.model.errors import (
    LongshoreError,
    RequestIdReused,
    UploadInProgress,
    UploadInvalid,
)
from longshore.server.model.task import Payload, Task, Upload
from longshore.server.model.values import UploadState

_log = structlog.get_logger("longshore.uploads")


class SmallOwner(ConnectionOwner, Protocol):
    """Gives a small upload what it needs of its server."""

    submitter: Submitter


class SmallUpload(UploadConnection):
    """An upload of a declared size that is kept in the database, and the connection that sends it.

    The store hears nothing of it before the finish. So a cut leaves nothing behind: nothing is durable, and nothing is
    acknowledged. If the store has the upload already because another connection has opened it, `opened` opens it for
    this one, and the finish goes on there. `released` is called once, when the next connection may have the upload.
    """

    def __init__(
        self,
        *,
        principal: str,
        request: UploadRequest,
        size: int,
        upload_id: str,
        owner: SmallOwner,
        opened: Callable[[], Awaitable[UploadStream]],
        released: Callable[[], None],
    ) -> None:
        super().__init__(clock=owner.clock, idle=owner.limits.idle)
        self._principal = principal
        self._request = request
        self._size = size
        self._id = upload_id
        self._owner = owner
        self._opened = opened
        self._released = released
        self._ledger = self._ledger_of(None)
        self._pieces: list[bytes] = []
        self._crc32c = 0
        """CRC32C of the last piece."""
        self._has_room = owner.room.take(size)
        self._before: Upload | None = None
        """The upload as another connection has finished it. None means that nothing is known of one."""
        self._committing = False

    @property
    def upload(self) -> Upload:
        """Return the upload as it would be if it were open."""
        request = self._request
        return self._before or Upload(
            id=self._id,
            principal=self._principal,
            request_id=request.request_id,
            fingerprint=upload_fingerprint(request),
            state=UploadState.OPEN,
            offset=0,
            crc32c=0,
            size=self._size,
            sha256=request.sha256,
            reserved=self._size,
            connection=1,
            touched_at=self._clock.now(),
        )

    @property
    def offset(self) -> int:
        """Return the byte from which this connection must send on. For a complete upload this is its size."""
        return self.upload.offset

    @property
    def complete(self) -> bool:
        """Tell whether the upload is known to have been complete before."""
        return self._before is not None

    @property
    def busy(self) -> bool:
        return self._committing

    def end(self, reason: LongshoreError) -> bool:
        """Ask the connection to end with `reason`. Returns False during the finish, which is not broken off."""
        return not self._committing and super().end(reason)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            self._released()

    async def look(self) -> None:
        """Find out what the store knows of the upload, for a client that waits for the go-ahead, and take room for it.

        Raises RequestIdReused, SpoolFull, StoreUnavailable.
        """
        known = await self._owner.store.upload(self._principal, self._request.request_id)
        if known is not None and known.fingerprint != upload_fingerprint(self._request):
            raise RequestIdReused(
                f"The request id {known.request_id!r} came before with a different request: choose another id.",
                request_id=known.request_id,
            )
        if known is not None and known.state is UploadState.COMPLETE:
            self._before = known
            self._ledger = self._ledger_of(known.payload)
        elif not self._has_room:
            await self._owner.submitter.make_room(self._size)
            self._has_room = True

    async def chunk(self, offset: int, crc32c: int, data: bytes, start: int = 0) -> None:
        """Take a chunk, which is `data` from `start` on. Raises UploadInvalid, InvalidField, RequestIdReused."""
        new = self._ledger.take(offset, crc32c, data, start)
        size = len(data) - start
        self._owner.received(size)
        self._heard()
        if new == start:
            self._pieces.append(data[start:])
            self._crc32c = crc32c

    async def finish(self, size: int, crc32c: int) -> Sequence[Task]:
        """Check and commit the upload. A command that is cancelled while it waits is carried out all the same, and the
        store keeps it apart from that of the next connection.

        Raises SizeMismatch, CrcMismatch, Sha256Mismatch, RequestIdReused, QueueFull, CallerShare, SpoolFull,
        StoreOverloaded, StoreUnavailable, UploadInProgress if another server is being sent it, and NotFound,
        DependencyFailed, OldServers for tasks that the new ones come after.
        """
        self._resting_since = None
        before = self._before
        if before is not None and before.payload is not None:
            kept = before.payload
            self._ledger.check_finish(size, crc32c, arrived=kept.size, arrived_crc=kept.crc32c)
            return before.tasks
        content = b"".join(self._pieces)
        try:
            self._check(content, size, crc32c)
        except UploadInvalid as error:
            sparing.say(
                _log.warning,
                "upload_rejected",
                caller=self._principal,
                upload_id=self._id,
                principal=self._principal,
                reason=error.reason,
            )
            raise
        self._committing = True
        payload = Payload(self._id, size, crc32c, self._request.sha256)
        try:
            tasks = await self._owner.submitter.upload(
                self._principal, self._request, payload, content, has_room=self._has_room
            )
        except UploadInProgress:
            pass  # The store knows it: it was opened by another connection, or by CreateUpload.
        else:
            self._owner.complete(self._id, self._principal, size, tasks)
            return tasks
        async with await self._opened() as stream:
            if content:
                await stream.chunk(0, crc32c, content)
            return (await stream.finish(size, crc32c)).tasks

    def _check(self, content: bytes, size: int, crc32c: int) -> None:
        arrived_crc = self._crc32c if len(self._pieces) <= 1 else int(google_crc32c.value(content))
        self._ledger.check_finish(size, crc32c, arrived=len(content), arrived_crc=arrived_crc)
        if self._request.sha256:
            check_sha256(self._request.sha256, hashlib.sha256(content).digest())

    def _ledger_of(self, kept: Payload | None) -> UploadLedger:
        return UploadLedger(
            held=0 if kept is None else kept.size,
            held_crc=0 if kept is None else kept.crc32c,
            size=self._size,
            final=kept is not None,
            chunk_bytes=self._owner.limits.chunk_bytes,
        )
