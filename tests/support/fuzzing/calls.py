"""Single calls of the fuzz campaign, over a real wire: good and wrong callers, whole and half messages, streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from longshore.server.edge.auth.roles import ROLES
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import worker_service_pb2 as work
from tests.support.fuzzing.messages import KnownIds, Maker, method_of
from tests.support.network.wire import Pairs, WireConnection, message

HEALTH: Final = tuple(f"/grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch"))
METHODS: Final = (*sorted(ROLES), *HEALTH)
PATIENCE: Final = 15.0
"""Seconds in which a call with one answer must have it."""
WATCH: Final = 0.3
"""Seconds for which a stream without an end of its own is listened to."""
HEADERS: Final = "headers"
"""Kind of the calls whose header fields are wrong: gRPC's core refuses those, as INTERNAL."""

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class CallResult:
    """The value tells how a call ended."""

    number: int
    kind: str
    method: str
    code: grpc.StatusCode
    reason: str = ""
    message: str = ""
    late: bool = False
    """The call had no answer within PATIENCE."""
    sent: bytes = b""

    @property
    def wrong(self) -> bool:
        """No caller may ever see this."""
        if self.kind == HEADERS:
            return False
        return self.late or self.code in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}


class Fuzzer:
    """Makes calls by number. Each follows from the seed and its number, and from what the server has told before."""

    def __init__(self, *, address: str, seed: int, tokens: Mapping[str, str]) -> None:
        """`tokens` by role; the role `all` opens everything."""
        self._address = address
        self._seed = seed
        self._tokens = tokens
        self._known = KnownIds()
        self._channel: Any = grpc.aio.insecure_channel(
            address, options=[("grpc.enable_retries", 0), ("grpc.max_receive_message_length", 8 << 20)]
        )

    async def close(self) -> None:
        await self._channel.close()

    async def call(self, number: int) -> CallResult:
        """One call, and how it ended."""
        random = Random(f"{self._seed}:{number}")
        maker = Maker(random, self._known)
        method = random.choice(METHODS)
        name = method.rpartition("/")[2]
        if random.random() < 0.12:
            return await asyncio.to_thread(self._by_hand, number, random, maker, method)
        metadata = self._metadata(random, method)
        match name:
            case "Upload":
                return await self._streamed(number, method, metadata, self._upload(maker))
            case "SubmitTasks" | "ServerReflectionInfo":
                flow = [maker.bytes_for(method) for _ in range(random.choice((1, 2, 5)))]
                return await self._streamed(number, method, metadata, flow)
            case "Work":
                return await self._work(number, method, metadata, maker)
            case "WatchTask" | "Watch" | "DownloadPayload":
                return await self._listened(number, method, metadata, maker.bytes_for(method))
            case _:
                return await self._unary(number, method, metadata, maker.bytes_for(method))

    # Who calls --------------------------------------------------------------------------------------------------------

    def _metadata(self, random: Random, method: str) -> Metadata:
        pick = random.random()
        if pick < 0.7:
            wanted = [role.value for role in ROLES.get(method, ())]
            role = random.choice(sorted({*wanted, "all"}))
            return (("authorization", f"Bearer {self._tokens[role]}"),)
        if pick < 0.8:
            return (("authorization", f"Bearer {self._tokens[random.choice(sorted(self._tokens))]}"),)
        good = self._tokens["all"]
        return random.choice(
            (
                (),
                (("authorization", ""),),
                (("authorization", "Bearer"),),
                (("authorization", f"Basic {good}"),),
                (("authorization", f"Bearer {good}x"),),
                (("authorization", f"Bearer {'x' * 6000}"),),
                (("authorization", f"Bearer ls_{random.getrandbits(64):016x}_{'g' * 43}"),),
                (("authorization", f"Bearer {good}"), ("authorization", f"Bearer {good}")),
                (("authorization", "Bearer wrong"), ("authorization", f"Bearer {good}")),
            )
        )

    # Calls ------------------------------------------------------------------------------------------------------------

    async def _unary(self, number: int, method: str, metadata: Metadata, raw: bytes) -> CallResult:
        try:
            answer = await self._channel.unary_unary(method)(raw, metadata=metadata, timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            return _ended(number, "unary", method, error, raw, hurried=True)
        self._learn(method, answer)
        return CallResult(number, "unary", method, grpc.StatusCode.OK)

    async def _listened(self, number: int, method: str, metadata: Metadata, raw: bytes) -> CallResult:
        call = self._channel.unary_stream(method)(raw, metadata=metadata, timeout=PATIENCE)
        return await self._heard(number, method, call, raw)

    async def _streamed(self, number: int, method: str, metadata: Metadata, flow: Sequence[bytes]) -> CallResult:
        async def messages() -> AsyncIterator[bytes]:
            for one in flow:
                yield one

        sent = b"|".join(flow)
        if method_of(method).server_streaming:
            call = self._channel.stream_stream(method)(messages(), metadata=metadata, timeout=PATIENCE)
            return await self._heard(number, method, call, sent)
        try:
            answer = await self._channel.stream_unary(method)(messages(), metadata=metadata, timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            return _ended(number, "stream", method, error, sent, hurried=True)
        self._learn(method, answer)
        return CallResult(number, "stream", method, grpc.StatusCode.OK)

    async def _heard(self, number: int, method: str, call: Any, sent: bytes) -> CallResult:
        """Listen for a little while; a stream that goes on is left."""
        try:
            async with asyncio.timeout(WATCH):
                async for answer in call:
                    self._learn(method, answer)
        except TimeoutError:
            call.cancel()
            return CallResult(number, "left", method, grpc.StatusCode.OK)
        except grpc.aio.AioRpcError as error:
            return _ended(number, "stream", method, error, sent)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return CallResult(number, "stream", method, grpc.StatusCode.CANCELLED)
        return CallResult(number, "stream", method, grpc.StatusCode.OK)

    def _upload(self, maker: Maker) -> list[bytes]:
        random = maker.random
        flow = [one.SerializeToString() for one in maker.upload(random.randbytes(random.choice((0, 10, 70_000))))]
        match random.randrange(6):
            case 0:
                return flow
            case 1:
                at = random.randrange(len(flow))
                flow[at] = maker.garble(flow[at])
            case 2:
                del flow[random.randrange(len(flow)) :]
            case 3:
                flow.insert(random.randrange(len(flow) + 1), maker.bytes_for("/longshore.v1.TaskService/Upload"))
            case 4:
                random.shuffle(flow)
            case 5:
                flow[0] = maker.bytes_for("/longshore.v1.TaskService/Upload")
        return flow

    async def _work(self, number: int, method: str, metadata: Metadata, maker: Maker) -> CallResult:
        random = maker.random
        call = self._channel.stream_stream(method)(metadata=metadata, timeout=PATIENCE)
        held: deque[tuple[str, int]] = deque(maxlen=5)
        sent = b""
        try:
            first = maker.hello()
            if random.random() < 0.4:
                maker.spoil(first, random.choice((1, 2)))
            sent = first.SerializeToString()
            if random.random() < 0.1:
                sent = maker.garble(sent)
            await call.write(sent)
            for _ in range(random.choice((1, 3, 6))):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        # A read that is cancelled cancels its call, so it is shielded, and ended by the call's own end.
                        answer = await asyncio.shield(_quiet(asyncio.ensure_future(call.read())))
                        if answer is grpc.aio.EOF:
                            break
                        held.extend(_assigned(answer, self._known))
                said: Message = maker.said_by_worker(held)
                if random.random() < 0.6:
                    maker.spoil(said, random.choice((1, 3)))
                sent = said.SerializeToString()
                if random.random() < 0.15:
                    sent = maker.garble(sent)
                await call.write(sent)
            if random.random() < 0.5:
                await call.done_writing()
            async with asyncio.timeout(WATCH):
                code = await call.code()
        except TimeoutError:
            call.cancel()
            return CallResult(number, "left", method, grpc.StatusCode.OK)
        except grpc.aio.AioRpcError as error:
            return _ended(number, "stream", method, error, sent)
        except (asyncio.InvalidStateError, grpc.aio.UsageError):
            # The call was over before the write.
            code = await call.code()
        if code is grpc.StatusCode.OK:
            return CallResult(number, "stream", method, code)
        return CallResult(
            number, "stream", method, code, _reason(await call.trailing_metadata()), await call.details(), sent=sent
        )

    # By hand ----------------------------------------------------------------------------------------------------------

    def _by_hand(self, number: int, random: Random, maker: Maker, method: str) -> CallResult:
        """Make a call, in a thread, that no library would send."""
        shown: Pairs = [(key.encode(), value.encode()) for key, value in self._metadata(random, method)]
        path, kind, raw = method.encode(), "by hand", message(maker.bytes_for(method))
        leaves = False
        match random.randrange(9):
            case 0:
                raw = message(b"x" * random.choice((0, 100)), announced=random.choice((101, 4_000_000)))
            case 1:
                raw, leaves = message(b"x" * 16_000, announced=4_000_000), True
            case 2:
                raw = b""
            case 3:
                path = random.choice((b"/\xff\xfe", b"/", b"x", path + b"\xff", path + b"x", b"/" + b"y" * 2000))
            case 4:
                shown = [*shown, (b"x-any", random.randbytes(20).replace(b"\0", b"").replace(b"\n", b""))]
                kind = HEADERS
            case 5:
                shown, kind = [*shown, (b"grpc-timeout", random.choice((b"1n", b"x", b"99999999H", b"-1S")))], HEADERS
            case 6:
                raw, kind = message(raw, compressed=random.choice((1, 2, 255))), HEADERS
            case 7:
                leaves = True
            case 8:
                raw = message(b"", announced=random.choice((6 << 20, 2**32 - 1)))
        with WireConnection(self._address, timeout=PATIENCE) as wire:
            try:
                stream = wire.begin(path, shown, raw, end=not leaves)
                if leaves:
                    if random.random() < 0.5:
                        wire.reset(stream)
                    return CallResult(number, "left", method, grpc.StatusCode.OK)
                if method.endswith(("Watch", "WatchTask")):
                    wire.set_timeout(WATCH)
                ended = wire.end_of(stream)
            except TimeoutError:
                late = not method.endswith(("Watch", "WatchTask"))
                return CallResult(number, kind, method, grpc.StatusCode.OK, late=late, sent=raw)
            except (EOFError, OSError) as error:
                return CallResult(number, kind, method, grpc.StatusCode.UNAVAILABLE, message=str(error))
        code = _CODES.get(ended.status if ended.status is not None else -1, grpc.StatusCode.CANCELLED)
        words = ended.headers.get(b"grpc-message", b"").decode(errors="replace")
        return CallResult(number, kind, method, code, ended.reason, words, sent=raw)

    def _learn(self, method: str, answer: bytes) -> None:
        """Ids that lead further next time."""
        known = self._known
        match method.rpartition("/")[2]:
            case "SubmitTask":
                known.tasks.extend(task.id for task in pb.SubmitTaskResponse.FromString(answer).tasks)
            case "Upload":
                done = pb.UploadResponse.FromString(answer)
                known.tasks.extend(task.id for task in done.tasks)
                known.payloads.append(done.payload.id)
            case "ListTasks":
                known.pages.append(pb.ListTasksResponse.FromString(answer).next_page_token)


_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_RACE: Final = "Internal error from Core"
"""grpc.aio says this on the client's side when the answer came while it was still sending. No server said it."""


def _ended(
    number: int, kind: str, method: str, error: grpc.aio.AioRpcError, sent: bytes, *, hurried: bool = False
) -> CallResult:
    code = error.code()
    if error.details() == _RACE:
        code = grpc.StatusCode.CANCELLED
    late = hurried and code is grpc.StatusCode.DEADLINE_EXCEEDED
    return CallResult(number, kind, method, code, _reason(error.trailing_metadata()), error.details() or "", late, sent)


def _reason(metadata: Any) -> str:
    return next((str(value) for key, value in metadata or () if key == "longshore-reason"), "")


def _assigned(answer: bytes, known: KnownIds) -> list[tuple[str, int]]:
    with contextlib.suppress(DecodeError):
        said = work.WorkResponse.FromString(answer)
        known.tasks.extend(one.task.id for one in said.assignments)
        return [(one.task.id, one.attempt) for one in said.assignments]
    return []


def _quiet(reading: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """Look at the end of a future, even if nobody waits for it."""
    reading.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    return reading
