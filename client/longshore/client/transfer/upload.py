"""This module makes one upload, over as many connections as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import grpc

from longshore.client.errors import LongshoreError, NotFound, SourceError, Unavailable
from longshore.client.servers.connection import Connection
from longshore.client.servers.ending import CallEnding
from longshore.client.servers.endpoint import Endpoint
from longshore.client.servers.patience import Patience
from longshore.client.servers.servers import Tour
from longshore.client.transfer.frames import Batch, read_batch
from longshore.client.transfer.pieces import in_thread
from longshore.client.transfer.sources import Source, prefix_crc32c
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb

_T = TypeVar("_T")
_Call: TypeAlias = "grpc.aio.StreamUnaryCall[bytes, pb.UploadResponse]"

_OFFSET_KEY: Final = "longshore-offset"
_ADMISSION: Final = 30.0
"""Seconds for the server to take or refuse a header."""
_ADMISSION_ELSEWHERE: Final = 5.0
"""The same while there are other servers to ask."""
_STALL: Final = 60.0
"""Seconds for one chunk to be taken off our hands; then the connection is given up and resumed."""
_SEALING: Final = 300.0
"""Seconds from the finish to the answer: the server syncs the whole file in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadProgress:
    """The progress tells how far an upload is. After a cut `sent` goes back to the durable bytes, at another server
    perhaps to 0."""

    sent: int
    """The number of bytes that are on their way or have arrived."""
    size: int
    """Bytes in all."""
    problem: LongshoreError | None = None
    """The upload waits because of this error. None means that it moves."""
    pause: float = 0.0
    """Seconds until it tries again."""


OnProgress = Callable[[UploadProgress], None]
"""Called in the event loop after each few MiB and before each pause: it must return quickly."""


class Uploading:
    """Sends a source under one request id until its tasks exist, or patience ends.

    A cancellation ends the connection; what is durable by then stays for a resume under the same request id.
    """

    def __init__(
        self,
        *,
        tour: Tour,
        source: Source,
        request_id: str,
        spec: task_pb2.TaskSpec | None,
        sha256: bytes | None,
        patience: float,
        progress: OnProgress | None,
    ) -> None:
        self._tour: Final = tour
        self._source: Final = source
        self._request_id: Final = request_id
        self._spec: Final = spec
        self._sha256: Final = sha256
        self._progress: Final = progress
        self._patience: Final = Patience(limit=patience, route=tour, on_wait=self._waiting)
        self._sent = 0
        self._furthest_sent: dict[Endpoint, int] = {}
        """Bytes sent, by server: another server may have none of the bytes that the last one had."""
        self._furthest_durable: dict[Endpoint, int] = {}
        self._ours = False

    async def run(self) -> pb.UploadResponse:
        """Return the server's answer, which may name more tasks than it has. Raises LongshoreError."""
        return await self._patience.run(self._once)

    async def _once(self) -> pb.UploadResponse:
        """Upload over one connection: header, go-ahead, what the server lacks, finish."""
        connection = await self._tour.connection()
        with connection.used():
            return await self._over(connection)

    async def _over(self, connection: Connection) -> pb.UploadResponse:
        call = connection.upload(metadata=connection.metadata)
        ending = CallEnding(call)
        try:
            offset = await self._admitted(call)
            if offset is not None:
                self._tour.stay()
                if offset > self._furthest_durable.get(connection.endpoint, 0):
                    self._furthest_durable[connection.endpoint] = offset
                    self._patience.moved()
                self._moved_to(offset, at=connection.endpoint)
                crc32c = await self._prefix(connection, offset)
                await self._send(call, offset=offset, crc32c=crc32c, to=connection.endpoint)
            return await _within(_SEALING, call)
        except grpc.aio.AioRpcError as error:
            raise await connection.explained(await ending.told(error)) from error
        except asyncio.InvalidStateError as error:
            # A write after the server had ended the call.
            if (told := await ending.awaited()) is not None:
                raise await connection.explained(told) from error
            raise Unavailable("the server ended the upload before it was complete", reason="CUT") from error
        finally:
            call.cancel()

    async def _admitted(self, call: _Call) -> int | None:
        """Return the offset from which the server wants bytes. None means that it has ended the call without asking for
        any."""
        header = pb.UploadHeader(
            request_id=self._request_id,
            spec=self._spec,
            size=self._source.size,
            sha256=self._sha256,
            payload_only=self._spec is None,
            # A connection of ours that was cut may look alive to the server for a while. A stranger's is left alone.
            take_over=self._ours,
        )
        patience = min(_ADMISSION, _ADMISSION_ELSEWHERE) if self._tour.elsewhere else _ADMISSION
        await _within(patience, call.write(pb.UploadRequest(header=header).SerializeToString()))
        metadata = await _within(patience, call.initial_metadata())
        value = metadata.get(_OFFSET_KEY) if metadata else None
        if value is None:
            return None
        self._ours = True
        return int(value)

    async def _prefix(self, connection: Connection, offset: int) -> int:
        """Compute the CRC32C of the bytes that the server has from the content here. Raises SourceError when the two
        differ."""
        if offset == 0:
            return 0
        if offset > self._source.size:
            raise self._changed(offset)
        try:
            answer = await connection.call(
                connection.tasks.GetUpload, pb.GetUploadRequest(request_id=self._request_id), seconds=_ADMISSION
            )
        except NotFound:
            upload = pb.Upload()
        else:
            upload = answer.upload
        crc32c = await asyncio.to_thread(prefix_crc32c, self._source, offset)
        # Whether a complete upload was the same is for the server to say, which knows the whole of it.
        if upload.offset == offset and not upload.complete and upload.crc32c != crc32c:
            raise self._changed(offset)
        return crc32c

    def _changed(self, offset: int) -> SourceError:
        return SourceError(
            f"the content changed since request {self._request_id} began: its first {offset} bytes are not those the "
            "server has. Upload it under another request id",
            reason="SOURCE_CHANGED",
        )

    async def _send(self, call: _Call, *, offset: int, crc32c: int, to: Endpoint) -> None:
        """Send the chunks from `offset` to the end, and the finish. The next batch is read while one is sent."""
        reading = self._read(offset, crc32c)
        try:
            while True:
                batch = await asyncio.shield(reading)
                if not batch.frames:
                    break
                reading = self._read(batch.end, batch.crc32c)
                for frame in batch.frames:
                    await _within(_STALL, call.write(frame))
                self._moved_to(batch.end, at=to)
        finally:
            # A thread cannot be cancelled, and it reads from a descriptor that is about to be closed.
            await asyncio.wait({reading})
            reading.exception()
        # In a thread: it may read the content once more.
        await in_thread(self._source.check_unchanged, batch.crc32c)
        finish = pb.UploadFinish(size=batch.end, crc32c=batch.crc32c)
        await _within(_STALL, call.write(pb.UploadRequest(finish=finish).SerializeToString()))
        await _within(_STALL, call.done_writing())

    def _read(self, offset: int, crc32c: int) -> asyncio.Future[Batch]:
        return asyncio.ensure_future(asyncio.to_thread(read_batch, self._source, offset=offset, crc32c=crc32c))

    def _moved_to(self, offset: int, *, at: Endpoint) -> None:
        # Bytes that were sent may be lost again, so they count once at each server: one that keeps nothing is given up
        # in the end.
        self._sent = offset
        if offset > self._furthest_sent.get(at, 0):
            self._furthest_sent[at] = offset
            self._patience.moved()
        if self._progress is not None:
            self._progress(UploadProgress(sent=offset, size=self._source.size))

    def _waiting(self, problem: LongshoreError, pause: float) -> None:
        if self._progress is not None:
            self._progress(UploadProgress(sent=self._sent, size=self._source.size, problem=problem, pause=pause))


async def _within(seconds: float, step: Awaitable[_T]) -> _T:
    """Wait for the step's result. Raises Unavailable when it takes longer, because the server does not answer any
    more."""
    try:
        async with asyncio.timeout(seconds):
            return await step
    except TimeoutError:
        raise Unavailable(f"the server did not answer for {seconds:.0f} s", reason="STALLED") from None
