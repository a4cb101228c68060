"""A stream takes the part of an upload that one connection sends: chunks, checkpoints on the way, and the finish."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, TypeVar

import structlog

from longshore.server.engine.sessions.small_payloads import SmallPayloads
from longshore.server.engine.uploads.connection import ConnectionOwner, UploadConnection
from longshore.server.engine.uploads.content import UploadContent
from longshore.server.engine.uploads.ledger import UploadLedger, check_sha256
from longshore.server.logs import sparing
from longshore.server.model.errors import (
    LongshoreError,
    SpoolDamaged,
    StoreOverloaded,
    UploadInvalid,
)
from longshore.server.model.servers import HEARD_EVERY, Here
from longshore.server.model.task import Payload, Upload
from longshore.server.model.values import UploadState
from longshore.server.store.commands import Checkpoint, Command, FinishUpload, RejectUpload, TaskPlan
from longshore.server.store.commands.servers import Heard

R = TypeVar("R")

_log = structlog.get_logger("longshore.uploads")


class StreamOwner(ConnectionOwner, Protocol):
    """Gives an upload stream what it needs of its server."""

    here: Here | None
    small_payloads: SmallPayloads
    expect_tasks: Callable[[], None]
    """A stream calls this once the command that makes its tasks is in the writer's line."""

    def own(self, work: Coroutine[Any, Any, R], name: str) -> asyncio.Task[R]:
        """Run `work` to its end, even if the caller is cancelled."""
        ...


class UploadStream(UploadConnection):
    """An open upload and the connection that sends it.

    At the end of the block, however it ends, an upload that is not finished is checkpointed and let go of. Cancelling
    the block is safe at any point: what is under way on disk and in the store is completed behind it, and the
    upload's next connection waits for that.
    """

    def __init__(
        self,
        *,
        upload: Upload,
        content: UploadContent | None,
        ledger: UploadLedger,
        plans: tuple[TaskPlan, ...],
        owner: StreamOwner,
        released: Callable[[], None],
    ) -> None:
        super().__init__(clock=owner.clock, idle=owner.limits.idle)
        self._upload = upload
        self._content = content
        self._ledger = ledger
        self._plans = plans
        self._owner = owner
        self._released = released
        self._limits = owner.limits
        self._busy = False
        self._opened_at = self._heard_at
        self._sent_heartbeat = False
        """Tells whether other servers know that the upload is sent here."""
        self._done = content is None
        """Tells whether everything is durable, and nothing is under way."""
        self._rejected = False
        self._reserved = upload.reserved
        self._offset = content.offset if content is not None else (upload.payload.size if upload.payload else 0)
        self._durable = upload.offset, upload.crc32c
        """The offset that the store knows to be on disk, and the CRC32C up to it."""
        self._marked = self._offset
        self._marked_at = self._heard_at
        self._checkpointing: asyncio.Task[None] | None = None
        self._finishing: asyncio.Task[Upload] | None = None
        self._detaching: asyncio.Task[None] | None = None
        self._promise()

    @property
    def upload(self) -> Upload:
        """Return the upload as it was when this connection opened it."""
        return self._upload

    @property
    def offset(self) -> int:
        """Return the byte from which this connection must send on. For a complete upload this is its size."""
        return self._offset

    @property
    def complete(self) -> bool:
        """Tell whether the upload was complete before. Chunks and finish are then only compared with the payload."""
        return self._upload.state is UploadState.COMPLETE

    @property
    def closing(self) -> bool:
        return self._detaching is not None

    @property
    def busy(self) -> bool:
        return self._busy or self._finishing is not None or self._detaching is not None

    def heartbeat(self) -> Heard | None:
        content = self._content
        if content is None or self._done or self._detaching is not None:
            return None
        if self._owner.clock.ticks() - self._opened_at < HEARD_EVERY or (
            self._finishing is not None and not content.spooled  # its last command does without
        ):
            return None
        self._sent_heartbeat = True
        return Heard(self._upload.id, self._upload.connection, self.silent)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            if self._done:
                self._leave()
            else:
                await self.detach()

    def end(self, reason: LongshoreError) -> bool:
        """Ask the connection to end with `reason`. Returns False during the finish, which is not broken off."""
        return self._finishing is None and super().end(reason)

    async def chunk(self, offset: int, crc32c: int, data: bytes, start: int = 0) -> None:
        """Take a chunk, which is `data` from `start` on. Waits while disk or store are behind, which slows the
        sender down.

        Raises UploadInvalid, InvalidField, RequestIdReused for a wrong chunk, and SpoolFull, SpoolDamaged,
        StoreUnavailable, UploadTakenOver for trouble on the way. After any of them the durable bytes stay for a
        resume.
        """
        self._busy = True
        self._resting_since = None
        try:
            new = self._ledger.take(offset, crc32c, data, start)
            self._owner.received(len(data) - start)
            if new < len(data) and self._content is not None:
                await self._make_room(self._content, self._content.offset + len(data) - new)
                await self._content.append(memoryview(data)[new:], crc32c if new == start else None)
                await self._perhaps_checkpoint(self._content)
        finally:
            self._busy = False
            self._heard()

    async def finish(self, size: int, crc32c: int) -> Upload:
        """Check, seal and commit the upload, whose bytes have all arrived. The work runs to its end even when the
        caller is cancelled.

        Raises SizeMismatch, CrcMismatch, Sha256Mismatch: the upload is given up, and its request id may start anew;
        RequestIdReused: it was complete before, with other bytes. After any other error it can be finished again.
        """
        self._resting_since = None
        self._finishing = self._owner.own(self._finish(size, crc32c), f"finish upload {self._upload.id}")
        return await asyncio.shield(self._finishing)

    async def detach(self) -> None:
        """Make the arrived bytes durable, and let go. Waits for at most `limits.detach` seconds; the rest goes on."""
        if self._detaching is None:
            self._detaching = self._owner.own(self._detach(), f"detach upload {self._upload.id}")
        await asyncio.wait({self._detaching}, timeout=self._limits.detach)

    def _leave(self) -> None:
        """Close the file, the only work that is left. No caller needs to wait for it."""
        if self._content is not None and self._content.spooled:
            _ = self._owner.own(self._content.close(), f"close upload {self._upload.id}")
        self._owner.room.promise(self._upload.id, 0)
        self._released()

    # Room and checkpoints -----------------------------------------------------------------------------------------

    def _promise(self) -> None:
        if self._content is not None:
            self._owner.room.promise(self._upload.id, self._reserved - self._content.offset)

    async def _make_room(self, content: UploadContent, end: int) -> None:
        """Reserve more room before bytes beyond the reservation are written, for an upload of undeclared size."""
        if end <= self._reserved:
            return
        step = self._limits.reserve_step
        wanted = -(-end // step) * step
        await self._owner.room.require(wanted - content.offset, of=self._upload.id)
        await self._checkpointed()  # or its mark could be taken back
        await asyncio.shield(self._owner.own(self._mark(self._durable, reserve=wanted), f"reserve {self._upload.id}"))
        self._promise()

    async def _perhaps_checkpoint(self, content: UploadContent) -> None:
        """Start a checkpoint when one is due. It runs beside the next chunks. Raises the error of the last one."""
        running = self._checkpointing
        if running is not None and running.done():
            self._checkpointing = None
            running.result()
        now = self._owner.clock.ticks()
        fresh = content.offset - self._marked < self._limits.checkpoint_bytes
        if fresh and now - self._marked_at < self._limits.checkpoint_seconds:
            return
        await self._owner.room.require(0, of=self._upload.id)
        await self._checkpointed()
        self._marked, self._marked_at = content.offset, now
        self._checkpointing = self._owner.own(self._checkpoint(content), f"checkpoint upload {self._upload.id}")

    async def _checkpointed(self) -> None:
        """Wait for the checkpoint under way, and raise its error."""
        running = self._checkpointing
        if running is not None:
            await asyncio.wait({running})
            self._checkpointing = None
            running.result()

    async def _checkpoint(self, content: UploadContent) -> None:
        await self._mark(await content.sync() or self._durable, reserve=self._reserved)
        self._promise()

    async def _mark(self, durable: tuple[int, int], *, reserve: int, release: bool = False) -> None:
        """Commit the offset that is on disk, and raise the reservation. The commit is a sign of life too."""
        begun = await self._begun(
            Checkpoint(
                upload_id=self._upload.id,
                connection=self._upload.connection,
                offset=durable[0],
                crc32c=durable[1],
                reserve=reserve,
                bounds=self._limits.bounds,
                release=release,
            )
        )
        upload = await begun
        self._durable = durable
        self._reserved = max(self._reserved, upload.reserved)

    async def _begun(self, command: Command[R]) -> asyncio.Future[R]:
        """Begin a command of an upload that was admitted, and wait for an overloaded store instead of failing."""
        clock = self._owner.clock
        until = clock.ticks() + self._limits.overload
        while True:
            try:
                return self._owner.store.begin(command)
            except StoreOverloaded as error:
                pause = error.retry_after * (0.5 + clock.jitter())
                if clock.ticks() + pause > until:
                    raise
                await asyncio.sleep(pause)

    # The end ------------------------------------------------------------------------------------------------------

    async def _finish(self, size: int, crc32c: int) -> Upload:
        content, payload = self._content, self._upload.payload
        if content is None:
            if payload is None:
                raise LongshoreError("A complete upload without a payload.")
            self._ledger.check_finish(size, crc32c, arrived=payload.size, arrived_crc=payload.crc32c)
            return self._upload
        try:
            return await self._complete(content, size, crc32c)
        except (UploadInvalid, SpoolDamaged) as error:
            await self._reject(content, error)
            raise

    async def _complete(self, content: UploadContent, size: int, crc32c: int) -> Upload:
        await self._checkpointed()
        await content.drain()
        self._ledger.check_finish(size, crc32c, arrived=content.offset, arrived_crc=content.crc32c)
        # A sealed one was compared before it was sealed.
        if self._upload.sha256 and not content.sealed:
            check_sha256(self._upload.sha256, await content.sha256())
        await content.seal()
        if content.inline is not None:
            self._owner.small_payloads.put(self._upload.id, content.inline)
        begun = await self._begun(
            FinishUpload(
                upload_id=self._upload.id,
                connection=self._upload.connection,
                payload=Payload(self._upload.id, size, crc32c, self._upload.sha256),
                plans=self._plans,
                inline=content.inline,
                homed=self._sent_heartbeat and content.inline is not None,
            )
        )
        if self._plans:
            self._owner.expect_tasks()
        done = await begun
        self._done = True
        self._owner.complete(done.id, done.principal, size, done.tasks)
        return done

    async def _reject(self, content: UploadContent, error: LongshoreError) -> None:
        """Give up an upload whose bytes are wrong, so that the same request id can start anew."""
        self._rejected = True
        self._say(_log.warning, "upload_rejected", reason=error.reason)
        # No bytes of the upload may be on their way to the spool any more when the janitor removes what is there.
        with contextlib.suppress(LongshoreError):
            await content.drain()
        await content.close()
        try:
            await self._owner.store.run(RejectUpload(upload_id=self._upload.id, connection=self._upload.connection))
        except LongshoreError as trouble:
            # The upload stays open with its last checkpoint, and its next finish is compared again.
            self._say(_log.warning, "upload_reject_failed", error=trouble.message)

    async def _detach(self) -> None:
        try:
            if self._finishing is not None:
                await asyncio.wait({self._finishing})
            if self._content is not None:
                await self._let_go(self._content)
        finally:
            self._owner.room.promise(self._upload.id, 0)
            self._released()

    async def _let_go(self, content: UploadContent) -> None:
        try:
            # All of it, whatever one step meets: nothing may touch the file any more when the next connection opens it.
            for step in (self._checkpointed, content.drain):
                try:
                    await step()
                except LongshoreError as error:
                    self._say(_log.info, "upload_detach", error=error.message)
            if not self._done and not self._rejected and not content.sealed:
                await self._last_checkpoint(content)
        finally:
            await content.close()

    async def _last_checkpoint(self, content: UploadContent) -> None:
        try:
            durable = await content.sync() or self._durable
            # Cancelling the wait does not take the command back; should it be committed later, it is true all the same.
            async with asyncio.timeout(self._limits.detach):
                await self._mark(durable, reserve=self._reserved, release=self._owner.here is not None)
        except (LongshoreError, TimeoutError) as error:
            self._say(_log.info, "upload_not_checkpointed", error=str(error))
        else:
            self._say(_log.info, "upload_detached", offset=durable[0])

    def _say(self, write: Callable[..., object], event: str, **fields: object) -> None:
        """Log an event that a caller can cause at will, at most one line a second."""
        upload = self._upload
        sparing.say(write, event, caller=upload.principal, upload_id=upload.id, principal=upload.principal, **fields)
