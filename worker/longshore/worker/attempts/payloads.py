"""This module gives a handler the payload's bytes: from the server's spool where this machine shares it, else by a
download.

Downloads use a synchronous channel of their own and are read by the handler's thread: neither the agent's loop nor its
stream ever waits for them, and one message is in memory at a time, however large the payload.
"""

from __future__ import annotations

import io
import os
import random
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import google_crc32c
import grpc
import grpc.experimental

from longshore.client.errors import ConfigurationError, LongshoreError, from_rpc_error
from longshore.client.servers.access import ServerAccess
from longshore.client.servers.endpoint import CHANNEL_OPTIONS, Endpoint
from longshore.client.servers.tls import Stamp
from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.attempts.attempt import Attempt, ref_of
from longshore.worker.errors import AttemptStopped, PermanentError, Reason, StopReason, TransientError
from longshore.worker.targets.base import CHUNK

PAYLOAD_DAMAGED: Final = "PAYLOAD_DAMAGED"
"""The bytes that were read are not those that were uploaded."""

_DOWNLOAD: Final = "/longshore.v1.WorkerService/DownloadPayload"
_OPTIONS: Final = [*CHANNEL_OPTIONS, (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)]
"""The thread that reads a download polls by itself; without this option gRPC starts a thread for each call."""
_COPY: Final = 1024 * 1024
_RESUMES: Final = 8
"""Cuts in a row, without a byte between them, after which a download is given up."""
_HOPS: Final = 8
"""Servers may send us on to another one so often in a row, without a byte."""
_FIRST_UNREACHABLE: Final = 3.0
_LONGEST_UNREACHABLE: Final = 300.0
"""Seconds until another try at a payload whose server is gone: four times as long from attempt to attempt."""
_LOST: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    }
)


class Downloads(Protocol):
    """This protocol downloads payloads."""

    def open(self, attempt: Attempt, offset: int) -> Generator[bytes]:
        """Download the payload's bytes from `offset` on. Resumes by itself; raises AttemptStopped and AttemptError."""


class GrpcDownloads:
    """`DownloadPayload`, resumed at the next byte after a cut, from whichever server has the payload: `here`, the one
    that the session is connected to, sends us on. Safe to use from many threads."""

    def __init__(self, access: ServerAccess, here: Callable[[], Endpoint], session_id: str) -> None:
        self._access = access
        self._here = here
        self._session_id = session_id
        self._lock = threading.Lock()
        self._channels: dict[Endpoint, tuple[grpc.Channel, Stamp]] = {}
        self._closed = False

    def open(self, attempt: Attempt, offset: int) -> Generator[bytes]:
        """See `Downloads`."""
        size = attempt.task.payload.size
        failures = sent_on = 0
        endpoint: Endpoint | None = None
        while offset < size:
            attempt.check()
            try:
                for piece in self._call(attempt, offset, endpoint or self._here()):
                    failures = sent_on = 0
                    offset += len(piece)
                    attempt.touch()
                    yield piece
                    attempt.check()
                if offset >= size:
                    return
                # A server that ends early without an error has the wrong idea of the size.
                raise _Cut(f"the server ended after {offset} of {size} bytes")
            except _Elsewhere as elsewhere:
                sent_on += 1
                if sent_on > _HOPS:
                    raise _unreachable(attempt, f"{elsewhere}, and so on") from elsewhere
                endpoint = elsewhere.endpoint
                if endpoint.is_local and not self._here().is_local:
                    # Its own machine, not ours: a process that listens there on ours would see our token, in the clear.
                    raise _unreachable(
                        attempt,
                        f"{elsewhere}, which is an address of that server's own machine: give it --advertise HOST:PORT",
                    ) from elsewhere
            except _Cut as cut:
                failures += 1
                if failures > _RESUMES:
                    if endpoint is not None:
                        raise _unreachable(attempt, str(cut)) from cut
                    raise TransientError(
                        Reason.PAYLOAD_UNAVAILABLE, f"the payload cannot be downloaded: {cut}"
                    ) from cut
                # The server that has it may be gone: ours knows which other one may have it.
                endpoint = None
                attempt.wait(_pause(failures))

    def close(self) -> None:
        """Cut every download, for good."""
        with self._lock:
            self._closed = True
            channels, self._channels = self._channels, {}
        for channel, _ in channels.values():
            channel.close()

    def _channel(self, endpoint: Endpoint) -> grpc.Channel:
        """Return a channel to this server, with the certificates as they are now."""
        with self._lock:
            if self._closed:
                raise AttemptStopped(StopReason.DRAIN)
            stamp = self._access.stamp(endpoint)
            known = self._channels.get(endpoint)
            if known is not None and (known[1] == stamp or not self._access.usable(endpoint)):
                return known[0]
            try:
                channel = self._access.open_blocking(endpoint, _OPTIONS)
            except LongshoreError as error:
                raise TransientError(Reason.PAYLOAD_UNAVAILABLE, str(error)) from error
            self._channels[endpoint] = channel, stamp
        if known is not None:
            # A download that still reads from it resumes on the new one.
            known[0].close()
        return channel

    def _call(self, attempt: Attempt, offset: int, endpoint: Endpoint) -> Generator[bytes]:
        # The generated stub's types are those of grpc.aio.
        download = self._channel(endpoint).unary_stream(
            _DOWNLOAD,
            request_serializer=ws.DownloadPayloadRequest.SerializeToString,
            response_deserializer=ws.DownloadPayloadResponse.FromString,
        )
        request = ws.DownloadPayloadRequest(session_id=self._session_id, attempt=ref_of(attempt.key), offset=offset)
        try:
            call: Any = download(request, metadata=self._access.metadata(endpoint))
        except ValueError as error:
            raise _Cut("the channel was closed: its certificates were replaced, or the worker ends") from error
        forget = attempt.on_stop(call.cancel)
        try:
            for response in call:
                if response.offset != offset:
                    raise _Cut(f"the server sent byte {response.offset} where {offset} was due")
                offset += len(response.data)
                yield response.data
        except grpc.RpcError as error:
            attempt.check()
            raise _classified(attempt, error) from error
        finally:
            forget()
            call.cancel()


class _Cut(Exception):
    """The download ended before its end; it may be resumed."""


class _Elsewhere(Exception):
    """Another server has the payload."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(f"one server says that another has it, at {endpoint}")
        self.endpoint: Final = endpoint


def _unreachable(attempt: Attempt, why: str) -> TransientError:
    """Make the error for a payload whose server, with a spool of its own, is gone. That lasts minutes rather than
    seconds: five tries take four minutes."""
    _, number = attempt.key
    pause = min(_LONGEST_UNREACHABLE, _FIRST_UNREACHABLE * 4.0 ** min(number - 1, 10)) * random.uniform(1.0, 1.25)
    message = f"the payload cannot be downloaded: {why}"
    return TransientError(Reason.PAYLOAD_UNAVAILABLE, message, retry_after=pause)


def _classified(attempt: Attempt, error: grpc.RpcError) -> Exception:
    # The error that a call raises is the call itself; the base class knows nothing of that.
    call: Any = error
    code, said = call.code(), call.details()
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return AttemptStopped(StopReason.REVOKED, "the server says that this attempt is not ours any more")
    if code is grpc.StatusCode.DATA_LOSS:
        return PermanentError(PAYLOAD_DAMAGED, f"the server's spool lost the payload: {said}. Upload it again")
    reason = from_rpc_error(call)
    if reason.reason == "PAYLOAD_ELSEWHERE":
        try:
            return _Elsewhere(Endpoint.parse(reason.metadata.get("server", "")))
        except ConfigurationError as wrong:
            return TransientError(
                Reason.PAYLOAD_UNAVAILABLE, f"the server that has the payload is at no address: {wrong}"
            )
    if reason.reason == "PAYLOAD_UNREACHABLE":
        return _unreachable(attempt, said)
    if code in _LOST:
        return _Cut(f"{code.name}: {said}")
    return TransientError(Reason.PAYLOAD_UNAVAILABLE, f"the payload cannot be downloaded: {code.name}: {said}")


def _pause(failures: int) -> float:
    return random.uniform(0, min(2.0, 0.05 * 2**failures))


def damaged(attempt: Attempt, what: str) -> TransientError | PermanentError:
    """Make the error for wrong bytes. The first time they may have been damaged on their way, so the error is
    transient. The second time the spool is to blame, and the error is permanent."""
    if was_damaged(attempt.task):
        return PermanentError(PAYLOAD_DAMAGED, f"{what}, a second time: upload the file again")
    return TransientError(PAYLOAD_DAMAGED, what)


def was_damaged(task: task_pb2.Task) -> bool:
    """Return whether the last try met a damaged payload already."""
    return task.error.reason == PAYLOAD_DAMAGED


class PayloadStream(io.RawIOBase):
    """A payload as a binary file to be read once, from front to back.

    Read from byte 0 to the end, it checks its CRC32C there and raises TransientError, or PermanentError when that has
    happened before (PAYLOAD_DAMAGED). `read` raises AttemptStopped when the attempt is told to end. One read at a time;
    `close` from another thread waits for it.
    """

    def __init__(self, attempt: Attempt, pieces: Generator[bytes], *, offset: int) -> None:
        super().__init__()
        self._attempt = attempt
        self._pieces = pieces
        self._rest = memoryview(b"")
        self._position = offset
        self._crc: int | None = 0 if offset == 0 else None
        self._checked = False
        self._lock = threading.Lock()

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, b"" only at the end; everything that is left for -1 or None."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_COPY), b""))
        if size == 0:
            return b""
        with self._lock:
            return self._read(size)

    def _read(self, size: int) -> bytes:
        self._attempt.check()
        if not self._rest:
            piece = next(self._pieces, b"")
            if not piece:
                self._check_whole()
                return b""
            if self._crc is not None:
                self._crc = google_crc32c.extend(self._crc, piece)
            if len(piece) <= size:
                self._position += len(piece)
                return piece
            self._rest = memoryview(piece)
        taken, self._rest = bytes(self._rest[:size]), self._rest[size:]
        self._position += len(taken)
        return taken

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        with self._lock:
            if not self.closed:
                self._rest = memoryview(b"")
                self._pieces.close()
        super().close()

    def _check_whole(self) -> None:
        if self._checked:
            return
        self._checked = True
        payload = self._attempt.task.payload
        if self._position != payload.size:
            raise damaged(self._attempt, f"the payload came as {self._position} bytes, not as {payload.size}")
        if self._crc is not None and self._crc != payload.crc32c:
            raise damaged(self._attempt, f"the payload came with CRC32C {self._crc:08x}, not {payload.crc32c:08x}")


def shared_file(attempt: Attempt) -> Path | None:
    """Return the spool's own file. None means that this machine cannot read it, or that its size is wrong.

    Another machine's path may name another file here: the size is a first guard, the CRC32C at the end the last one.
    After a damaged payload the other way is taken.
    """
    path = attempt.assignment.payload_path
    if not path or was_damaged(attempt.task):
        return None
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - no Path yet: most assignments never get here twice
            if os.fstat(file.fileno()).st_size != attempt.task.payload.size:
                return None
    except OSError:
        return None
    return Path(path)


def pieces(attempt: Attempt, downloads: Downloads, *, offset: int) -> Generator[bytes]:
    """Yield the payload's bytes from `offset` on, the short way if there is one."""
    content = attempt.assignment.payload
    # After a damaged payload the other way is taken.
    if content and len(content) == attempt.task.payload.size and not was_damaged(attempt.task):
        if offset < len(content):
            yield content[offset:]
        return
    path = shared_file(attempt)
    if path is None:
        yield from downloads.open(attempt, offset)
        return
    try:
        file: BinaryIO = path.open("rb", buffering=0)
    except OSError:
        yield from downloads.open(attempt, offset)
        return
    with file:
        file.seek(offset)
        # As much as targets take at a time: what is read in other pieces is copied once more to be cut.
        while piece := file.read(CHUNK):
            attempt.touch()
            yield piece


class PayloadFolder:
    """Downloaded payloads of one worker process: a folder named after its session, made when first needed.

    A process that is killed leaves it behind; the next worker that knows the session to be dead removes it.
    """

    def __init__(self, parent: Path, session_id: str) -> None:
        self._parent = parent
        self._folder = _folder(parent, session_id)

    def download(self, attempt: Attempt, downloads: Downloads) -> Path:
        """Download the whole payload into a file of its own, and check it. The caller removes the file."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._folder, prefix="payload-")
            with ExitStack() as undo:
                undo.callback(Path(name).unlink, missing_ok=True)
                with (
                    os.fdopen(handle, "wb", buffering=0) as file,
                    PayloadStream(attempt, pieces(attempt, downloads, offset=0), offset=0) as stream,
                ):
                    while piece := stream.read(_COPY):
                        _write_all(file, piece)
                undo.pop_all()
        except OSError as error:
            raise TransientError(
                Reason.PAYLOAD_UNAVAILABLE, f"the payload cannot be kept in {self._folder}: {error.strerror}"
            ) from error
        return Path(name)

    def close(self) -> None:
        """Remove the folder and what is left in it."""
        remove_folder(self._folder)

    def sweep(self, dead_sessions: tuple[str, ...]) -> None:
        """Remove the folders of processes that are known to be dead."""
        for session_id in dead_sessions:
            remove_folder(_folder(self._parent, session_id))


def _write_all(file: io.FileIO, piece: bytes) -> None:
    """Write all of the bytes. An unbuffered write may be short: on a full disk it tells first what fitted, and the
    error at the next write."""
    rest = memoryview(piece)
    while rest:
        rest = rest[file.write(rest) :]


def _folder(parent: Path, session_id: str) -> Path:
    return parent / f"longshore-worker-{session_id}"


def remove_folder(folder: Path) -> None:
    """Remove a folder of plain files. What cannot be removed stays: it is space, and somebody else's to look at."""
    try:
        for entry in folder.iterdir():
            entry.unlink(missing_ok=True)
        folder.rmdir()
    except OSError:
        return
