"""A context gives a handler its task, its payload, and the ways to speak with the server.

`Context` is for plain functions, which run in threads and may block; `AsyncContext` has the same names for `async def`
handlers. Both are thin: what they know together is in `Attempt`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast

import tenacity
from google.protobuf import message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pool import Default as default_pool
from google.protobuf.message import DecodeError, Message

from longshore.client.errors import ConfigurationError
from longshore.client.values import job_values as values
from longshore.contract.paths import wrong_temp
from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.attempts import payloads
from longshore.worker.attempts.attempt import Attempt, ref_of
from longshore.worker.attempts.payloads import Downloads, PayloadFolder, PayloadStream
from longshore.worker.attempts.threads import Threads
from longshore.worker.errors import PermanentError, Reason, TransientError
from longshore.worker.targets.base import Target

M = TypeVar("M", bound=Message)
T = TypeVar("T")

_TRIES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptResources:
    """A worker lends these things to all of its attempts."""

    downloads: Downloads
    folder: PayloadFolder
    threads: Threads
    targets: Mapping[str, Target] = field(default_factory=dict)


class _Common:
    """Both contexts share these methods: they take no time, or are called from a thread."""

    def __init__(self, attempt: Attempt, resources: AttemptResources) -> None:
        self._attempt = attempt
        self._resources = resources
        self._cleanup = ExitStack()
        self._path: Path | None = None
        self._used = False

    @property
    def task(self) -> task_pb2.Task:
        """Return the task as it was claimed. Do not change it."""
        return self._attempt.task

    @property
    def attempt(self) -> int:
        """This attempt's number, which is never used twice for a task."""
        return self._attempt.number

    @property
    def arguments(self) -> Message:
        """Return the job's arguments, unpacked; their message type must have been imported by the handler's module.

        Raises PermanentError (INVALID_ARGUMENT) when it was not, or when they cannot be read.
        """
        packed = self.task.job.arguments
        name = packed.type_url.rpartition("/")[2]
        try:
            descriptor = default_pool().FindMessageTypeByName(name)
        except KeyError:
            raise PermanentError(
                Reason.INVALID_ARGUMENT, f"the arguments are a {name or 'nothing'!s}, which this worker does not know"
            ) from None
        return self.unpack(message_factory.GetMessageClass(descriptor))

    def unpack(self, kind: type[T]) -> T:
        """Return the job's arguments as the given message, or as a dict, a dataclass or a pydantic model.

        The latter are made of a `google.protobuf.Struct`, as `job_spec` and `longshore submit --json` send it; none at
        all count as empty. Raises PermanentError (INVALID_ARGUMENT) if the arguments are of another type or do not fit.
        """
        packed = self.task.job.arguments
        if values.is_plain_kind(kind):
            return self._built(kind, packed)
        return cast("T", self._unpacked(cast("type[Message]", kind), packed))

    @staticmethod
    def _built(kind: type[T], packed: AnyMessage) -> T:
        try:
            return values.built(kind, values.plain(packed) if packed.type_url else {})
        except (ConfigurationError, TypeError, ValueError) as error:
            raise PermanentError(
                Reason.INVALID_ARGUMENT, f"the arguments do not fit {kind.__name__}: {error}"
            ) from error

    @staticmethod
    def _unpacked(kind: type[M], packed: AnyMessage) -> M:
        message = kind()
        try:
            if packed.Unpack(message):
                return message
        except DecodeError:
            pass  # The same as a wrong type, below.
        raise PermanentError(
            Reason.INVALID_ARGUMENT,
            f"the arguments are a {packed.type_url.rpartition('/')[2] or 'nothing'}, not a {kind.DESCRIPTOR.full_name}",
        )

    def check(self) -> None:
        """Raise AttemptStopped once the attempt has been told to end. Cheap: call it in every loop."""
        self._attempt.check()

    def progress(self, done: int, total: int = 0) -> None:
        """Report the units done, and those in all (0 means not known). Cheap: the newest is sent now and then. Resets
        `stall_timeout`."""
        self._attempt.advance(done, total)

    def left_temps(self) -> None:
        """Say that something of this attempt is still at the target: a later worker will remove it."""
        self._attempt.left_temps = True

    def target(self, name: str = "") -> Target:
        """Return a target that this worker serves. An empty name means the task's target. Raises PermanentError
        (INVALID_ARGUMENT)."""
        name = name or self.task.job.target or self.task.file_push.destination.target or "default"
        try:
            return self._resources.targets[name]
        except KeyError:
            raise PermanentError(Reason.INVALID_ARGUMENT, f"this worker does not serve the target {name!r}") from None

    @property
    def holds_something(self) -> bool:
        """Return whether there is something for `close` to give back."""
        return self._used

    def close(self) -> None:
        """Give back what the attempt used. The worker calls it when the handler has ended. May block."""
        self._cleanup.close()

    def _request(
        self, temp: str, method: str, crc32c: int | None, mode: int | None, uid: int | None, gid: int | None
    ) -> ws.GrantRequest:
        # Refused here: the server would end the whole session, again and again.
        if temp and (wrong := wrong_temp(temp)):
            raise ValueError(f"temp is {temp[:80]!r}; {wrong}")
        return ws.GrantRequest(
            attempt=ref_of(self._attempt.key),
            temp=temp,
            delivery_method=_METHODS[method],
            crc32c=crc32c,
            mode=mode,
            uid=uid,
            gid=gid,
        )

    def _insist_payload(self) -> None:
        if self.task.HasField("job") and not self.task.HasField("payload"):
            raise PermanentError(Reason.INVALID_ARGUMENT, "the task has no payload: upload a file with it")

    def _payload_path(self) -> Path:
        if self._path is None:
            self._insist_payload()
            self._attempt.check()
            path = payloads.shared_file(self._attempt)
            if path is None:
                path = self._resources.folder.download(self._attempt, self._resources.downloads)
                self._used = True
                self._cleanup.callback(path.unlink, missing_ok=True)
            self._path = path
        return self._path

    def _open_payload(self, offset: int) -> PayloadStream:
        self._insist_payload()
        if not 0 <= offset <= self.task.payload.size:
            raise ValueError(f"offset {offset} is outside of a payload of {self.task.payload.size} bytes")
        pieces = payloads.pieces(self._attempt, self._resources.downloads, offset=offset)
        stream = PayloadStream(self._attempt, pieces, offset=offset)
        self._used = True
        self._cleanup.callback(stream.close)
        return stream


class Context(_Common):
    """An attempt, for a handler that is a plain function. It belongs to one thread."""

    def commit(
        self,
        temp: str = "",
        *,
        method: str = "",
        crc32c: int | None = None,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
    ) -> None:
        """Return when the server has durably granted the commit. Make the effect visible after this, never without it.

        Blocks through disconnects until there is an answer. Raises GrantRefused when the server says no, AttemptStopped
        when the attempt is told to end meanwhile; in both cases the commit must not and will not happen. `temp` (an
        absolute path, or ValueError) and the rest are what a settling worker needs: see `docs/handlers.md`.
        """
        self._attempt.commit(self._request(temp, method, crc32c, mode, uid, gid)).result()

    def payload_path(self) -> Path:
        """Return the payload as a local file, which must not be changed.

        Where this machine shares the spool's disk, the file is the spool's own, and only its size has been checked.
        Otherwise it is a checked download, which is removed at the attempt's end. Raises TransientError,
        PermanentError, AttemptStopped.
        """
        return self._payload_path()

    def open_payload(self, offset: int = 0) -> BinaryIO:
        """Open the payload as a stream from `offset` on; see `PayloadStream`. It is closed at the attempt's end."""
        return cast("BinaryIO", self._open_payload(offset))

    def sleep(self, seconds: float) -> None:
        """Wait; raises AttemptStopped as soon as the attempt is told to end."""
        self._attempt.wait(seconds)

    def retrying(
        self, *, tries: int = _TRIES, on: tuple[type[BaseException], ...] = (TransientError, ConnectionError)
    ) -> tenacity.Retrying:
        """Try several times within this attempt, with a tenth of a second to two seconds in between. A stop ends the
        tries, and the last error is raised.

        `for one in context.retrying():` and, in it, `with one: ...`; or `context.retrying()(function, argument)`.
        """
        return tenacity.Retrying(sleep=self.sleep, **_retry_options(tries, on))


class AsyncPayload:
    """`PayloadStream` for coroutines. Also an asynchronous iterator of pieces of up to 1 MiB."""

    def __init__(self, stream: PayloadStream, threads: Threads) -> None:
        self._stream = stream
        self._threads = threads

    async def read(self, size: int = -1) -> bytes:
        """Read as `PayloadStream.read` does. A cancellation loses the bytes being read: open the payload anew."""
        return await self._threads.call(partial(self._stream.read, size))

    def __aiter__(self) -> AsyncPayload:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.read(1024 * 1024)
        if not piece:
            raise StopAsyncIteration
        return piece


class AsyncContext(_Common):
    """An attempt, for an `async def` handler. When it is told to end, the handler's task is cancelled as well."""

    async def commit(
        self,
        temp: str = "",
        *,
        method: str = "",
        crc32c: int | None = None,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
    ) -> None:
        """See `Context.commit`. After the grant the handler is not cancelled any more, unless its time is over."""
        await asyncio.wrap_future(self._attempt.commit(self._request(temp, method, crc32c, mode, uid, gid)))

    async def payload_path(self) -> Path:
        """See `Context.payload_path`."""
        return await self._resources.threads.call(self._payload_path)

    async def open_payload(self, offset: int = 0) -> AsyncPayload:
        """See `Context.open_payload`."""
        return AsyncPayload(self._open_payload(offset), self._resources.threads)

    async def sleep(self, seconds: float) -> None:
        """Wait; cancelled as soon as the attempt is told to end."""
        await asyncio.sleep(seconds)
        self._attempt.check()

    def retrying(
        self, *, tries: int = _TRIES, on: tuple[type[BaseException], ...] = (TransientError, ConnectionError)
    ) -> tenacity.AsyncRetrying:
        """See `Context.retrying`; here it is `async for`."""
        return tenacity.AsyncRetrying(sleep=self.sleep, **_retry_options(tries, on))


def _retry_options(tries: int, on: tuple[type[BaseException], ...]) -> dict[str, Any]:
    return {
        "stop": tenacity.stop_after_attempt(tries),
        "wait": tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
        "retry": tenacity.retry_if_exception_type(on),
        "reraise": True,
    }


_METHODS: Final[Mapping[str, task_pb2.DeliveryMethod.ValueType]] = {
    "": task_pb2.DELIVERY_METHOD_UNSPECIFIED,
    "SFTP": task_pb2.DELIVERY_METHOD_SFTP,
    "DIRECTORY": task_pb2.DELIVERY_METHOD_DIRECTORY,
    "FILES_API": task_pb2.DELIVERY_METHOD_FILES_API,
    "IN_PLACE": task_pb2.DELIVERY_METHOD_IN_PLACE,
}
