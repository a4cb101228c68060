"""Messages for the fuzz campaign: valid ones, structured ones with odd values in every field, and bytes that are none.

All of it follows from a `random.Random`, so that a seed makes the same messages again. What servers answered (ids of
tasks, attempts that a session holds) comes in through `KnownIds`; it leads beyond the first check.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import google_crc32c
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from longshore.v1 import admin_service_pb2 as admin
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import worker_service_pb2 as work

TEXTS: Final = (
    "",
    "a",
    "default",
    "x" * 63,
    "x" * 64,
    "x" * 256,
    "x" * 5000,
    "a\0b",
    "..",
    ".",
    "/",
    "/a/../b",
    "//a/./b",
    "/" + "d/" * 3000,
    "/" + "n" * 300,
    "ü" * 255,
    "\U0001f600" * 130,
    "\u202e\u2066",
    "\x1b[2J\x07",
    "\ufeff\ufffe",
    "\n{}\r",
    "%s%n{0}",
    "' OR 1=1 --",
    "-1",
    "NaN",
    "9" * 400,
    " ",
    "A_B",
)
NUMBERS: Final = (0, 1, 2, 100, 0o777, 0o1000, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
SECONDS: Final = (0, 1, 60, -1, 10**9, 253_402_300_799, 253_402_300_800, -62_135_596_801, 2**63 - 1, -(2**63))
NANOS: Final = (0, 1, -1, 999_999_999, 1_000_000_000, -1_000_000_000, 2**31 - 1, -(2**31))

_MOST_OF_A_MESSAGE: Final = 3 << 20
"""Bytes; what is larger is made on purpose, elsewhere."""


@dataclass
class KnownIds:
    """The object keeps the newest ids that the server has told."""

    tasks: deque[str] = field(default_factory=lambda: deque(["none"], maxlen=200))
    requests: deque[str] = field(default_factory=lambda: deque(["none"], maxlen=50))
    payloads: deque[str] = field(default_factory=lambda: deque(["none"], maxlen=50))
    sessions: deque[str] = field(default_factory=lambda: deque(["s" * 32], maxlen=50))
    pages: deque[str] = field(default_factory=lambda: deque([""], maxlen=20))


def message_class(descriptor: Descriptor) -> type[Message]:
    return message_factory.GetMessageClass(descriptor)


def method_of(path: str) -> Any:
    """The descriptor of an RPC, from its path."""
    service, _, name = path.strip("/").rpartition("/")
    found: Any = descriptor_pool.Default().FindServiceByName(service)
    return found.methods_by_name[name]


class Maker:
    """Makes messages of one campaign."""

    def __init__(self, random: Random, known: KnownIds) -> None:
        self.random = random
        self.known = known

    # Odd values -------------------------------------------------------------------------------------------------------

    def text(self) -> str:
        pick = self.random.random()
        if pick < 0.2:
            return self._id()
        if pick < 0.9:
            return self.random.choice(TEXTS)
        return "".join(chr(self.random.choice((0, 9, 10, 32, 65, 127, 233, 0x2028, 0x1F600))) for _ in range(9))

    def _id(self) -> str:
        known = self.known
        return self.random.choice(
            self.random.choice((known.tasks, known.requests, known.payloads, known.sessions, known.pages))
        )

    def _number(self, least: int, most: int) -> int:
        if self.random.random() < 0.1:
            return self.random.randint(least, most)
        picked = self.random.choice(NUMBERS) * self.random.choice((1, 1, -1))
        return min(max(picked, least), most)

    def _scalar(self, kind: FieldDescriptor) -> Any:
        random = self.random
        match kind.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                if kind.type == FieldDescriptor.TYPE_BYTES:
                    return random.randbytes(random.choice((0, 1, 31, 32, 33, 1000, 70_000)))
                return self.text()
            case FieldDescriptor.CPPTYPE_INT32:
                if "nanos" in kind.name:
                    return random.choice(NANOS)
                return self._number(-(2**31), 2**31 - 1)
            case FieldDescriptor.CPPTYPE_INT64:
                if "seconds" in kind.name:
                    return random.choice(SECONDS)
                return self._number(-(2**63), 2**63 - 1)
            case FieldDescriptor.CPPTYPE_UINT32:
                return self._number(0, 2**32 - 1)
            case FieldDescriptor.CPPTYPE_UINT64:
                return self._number(0, 2**64 - 1)
            case FieldDescriptor.CPPTYPE_BOOL:
                return random.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                return random.choice((*range(12), 99, -1, 2**31 - 1, -(2**31)))
            case _:
                return random.choice((0.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e308))

    def fill(self, message: Message, *, share: float = 0.5, depth: int = 6) -> None:
        """Odd values in about this share of the fields."""
        one: Any
        for one in message.DESCRIPTOR.fields:
            if depth and self.random.random() < share:
                self._set(message, one, depth=depth, share=share)

    def _set(self, message: Message, one: FieldDescriptor, *, depth: int = 4, share: float = 0.5) -> None:
        if one.is_repeated:
            self._repeat(message, one, depth=depth, share=share)
        elif one.message_type is not None:
            inner = getattr(message, one.name)
            inner.SetInParent()
            self.fill(inner, share=share, depth=depth - 1)
        else:
            setattr(message, one.name, self._scalar(one))

    def _repeat(self, message: Message, one: FieldDescriptor, *, depth: int, share: float) -> None:
        values = getattr(message, one.name)
        count = self.random.choice((1, 1, 2, 3, 33, 101, 1001, 10_000) if self.random.random() < 0.1 else (1, 2))
        inner = one.message_type
        if inner is not None and inner.GetOptions().map_entry:
            for number in range(count):
                values[f"k{number}" if count > 3 else self.text()] = self.text()[:300]
        elif inner is not None:
            for _ in range(min(count, 1001)):
                self.fill(values.add(), share=share, depth=depth - 1)
                if count > 3:
                    depth = 1
        else:
            values.extend(self._scalar(one) for _ in range(count))

    def spoil(self, message: Message, times: int) -> None:
        """Give odd values to single fields somewhere in a message that was valid."""
        for _ in range(times):
            at: Any = message
            while True:
                fields = at.DESCRIPTOR.fields
                if not fields:
                    break
                one = self.random.choice(fields)
                inside = self.random.random() < 0.75
                if one.message_type is not None and inside and not one.message_type.GetOptions().map_entry:
                    if one.is_repeated:
                        values = getattr(at, one.name)
                        if not values:
                            values.add()
                        at = self.random.choice(values)
                    else:
                        at = getattr(at, one.name)
                        at.SetInParent()
                    continue
                self._set(at, one)
                break

    # Bytes ------------------------------------------------------------------------------------------------------------

    def garble(self, raw: bytes) -> bytes:
        """Bytes that were a message."""
        random, data = self.random, bytearray(raw)
        for _ in range(random.choice((1, 1, 2, 8))):
            at = random.randrange(len(data) + 1)
            match random.randrange(8):
                case 0:
                    del data[at:]
                case 1:
                    data[at:at] = random.randbytes(random.choice((1, 4, 50)))
                case 2 if data:
                    data[at % len(data)] ^= 1 << random.randrange(8)
                case 3:
                    data[at:at] = b"\xff\xfe\xc0\x80"
                case 4:
                    data += data[:at]
                case 5:
                    data[at:at] = b"\x0a" * random.choice((3, 200, 5000))
                case 6:
                    data[at:at] = struct.pack("<Q", random.getrandbits(64))
                case 7:
                    data = bytearray(random.randbytes(random.choice((0, 1, 20, 300))))
        return bytes(data)

    def not_utf8(self, message: Message) -> bytes:
        """The message with bytes in one of its strings that are no text."""
        mark = "QXZ7"
        self._mark(message, mark)
        return message.SerializeToString().replace(mark.encode(), b"\xff\xfe\xfd\xfc")

    def _mark(self, message: Message, mark: str) -> None:
        at: Any = message
        for _ in range(8):
            texts = [one for one in at.DESCRIPTOR.fields if one.type == FieldDescriptor.TYPE_STRING]
            inner = [one for one in at.DESCRIPTOR.fields if one.message_type and not one.is_repeated]
            if texts and (not inner or self.random.random() < 0.5):
                one = self.random.choice(texts)
                if one.is_repeated:
                    getattr(at, one.name).append(mark)
                else:
                    setattr(at, one.name, mark)
                return
            if not inner:
                return
            at = getattr(at, self.random.choice(inner).name)
            at.SetInParent()

    def bytes_for(self, path: str) -> bytes:
        """One message of an RPC: as it should be, odd, or none at all."""
        descriptor = method_of(path).input_type
        pick = self.random.random()
        if pick < 0.25:
            made = message_class(descriptor)()
            self.fill(made, share=self.random.choice((0.2, 0.6, 1.0)))
        else:
            made = self.valid(path)
            if pick >= 0.4:
                self.spoil(made, self.random.choice((1, 1, 2, 5)))
        if pick >= 0.92:
            raw = self.not_utf8(made)
        else:
            raw = made.SerializeToString()
            if pick >= 0.75:
                raw = self.garble(raw)
        return raw[:_MOST_OF_A_MESSAGE]

    # Valid ones -------------------------------------------------------------------------------------------------------

    def valid(self, path: str) -> Message:
        """A message that the server takes, as far as it names what is there."""
        name = path.rpartition("/")[2]
        make = _VALID.get(name)
        return message_class(method_of(path).input_type)() if make is None else make(self)

    def request_id(self) -> str:
        return f"fuzz-{self.random.getrandbits(64):x}"

    def spec(self) -> task_pb2.TaskSpec:
        random = self.random
        spec = task_pb2.TaskSpec(labels={"fuzz": "yes"}, queue=random.choice(("", "default", "fuzz")))
        if random.random() < 0.5:
            spec.job.kind = random.choice(("fuzzed", "nobodys"))
            spec.job.arguments.type_url, spec.job.arguments.value = "type.googleapis.com/x.Y", random.randbytes(9)
            return spec
        for number in range(random.choice((1, 1, 3))):
            destination = task_pb2.Destination(
                target=random.choice(("fuzz", "")), instance=f"c{random.randrange(50)}", path=f"/srv/f{number}"
            )
            spec.file_push.pushes.add(destination=destination, mode=0o644)
        return spec

    def upload(self, content: bytes) -> list[pb.UploadRequest]:
        """A whole upload."""
        crc = int(google_crc32c.value(content))
        header = pb.UploadHeader(request_id=self.request_id(), spec=self.spec())
        self.known.requests.append(header.request_id)
        return [
            pb.UploadRequest(header=header),
            pb.UploadRequest(chunk=pb.UploadChunk(offset=0, crc32c=crc, data=content)),
            pb.UploadRequest(finish=pb.UploadFinish(size=len(content), crc32c=crc)),
        ]

    def hello(self) -> work.WorkRequest:
        session = f"{self.random.getrandbits(128):032x}"
        self.known.sessions.append(session)
        hello = work.Hello(
            protocol_version=1,
            session_id=session,
            worker="fuzz",
            targets=[work.ServedTarget(name="fuzz", identity="")],
            kinds=[work.ServedKind(name="fuzzed"), work.ServedKind(name="file_push", settles=True)],
            epoch=1,
            begins=self.random.random() < 0.5,
        )
        return work.WorkRequest(hello=hello, credits=self.random.choice((0, 2)))

    def said_by_worker(self, held: Sequence[tuple[str, int]]) -> work.WorkRequest:
        """Make a message that a worker with these attempts may send."""
        random = self.random
        said = work.WorkRequest(heartbeat=work.Heartbeat(sequence=random.randrange(100)))
        for task_id, number in held:
            ref = work.AttemptRef(task_id=task_id, attempt=number)
            match random.randrange(5):
                case 0:
                    said.begins.add(attempt=ref)
                case 1:
                    said.progress.add(attempt=ref, done=1, total=2)
                case 2:
                    said.grant_requests.add(attempt=ref, temp="/srv/.longshore-x", mode=0o644)
                case _:
                    error = task_pb2.TaskError(reason="IO_ERROR", message="fuzzed")
                    said.reports.add(attempt=ref, outcome=random.randrange(1, 11), error=error)
        return said


def _submit(maker: Maker) -> pb.SubmitTaskRequest:
    request = pb.SubmitTaskRequest(request_id=maker.request_id(), spec=maker.spec())
    if request.spec.HasField("file_push"):
        request.content = maker.random.randbytes(100)
    return request


def _filter(maker: Maker) -> pb.TaskFilter:
    return pb.TaskFilter(states=[task_pb2.TaskState.ValueType(maker.random.randrange(1, 11))], labels={"fuzz": "yes"})


def _pick(values: deque[str], maker: Maker) -> str:
    return maker.random.choice(values)


_VALID: Final[dict[str, Callable[[Maker], Message]]] = {
    "Upload": lambda m: m.upload(b"fuzzed")[0],
    "CreateUpload": lambda m: pb.CreateUploadRequest(header=m.upload(b"")[0].header),
    "Check": lambda m: health_pb2.HealthCheckRequest(service=m.random.choice(("", "liveness"))),
    "ServerReflectionInfo": lambda m: reflection_pb2.ServerReflectionRequest(
        file_containing_symbol=m.random.choice(("longshore.v1.TaskService", "longshore.v1.Task", "no.Such"))
    ),
    "GetUpload": lambda m: pb.GetUploadRequest(request_id=_pick(m.known.requests, m)),
    "SubmitTask": _submit,
    "SubmitTasks": lambda m: pb.SubmitTasksRequest(
        submissions=[pb.Submission(number=number, request=_submit(m)) for number in range(m.random.choice((1, 3)))]
    ),
    "GetTask": lambda m: pb.GetTaskRequest(task_id=_pick(m.known.tasks, m)),
    "ListTasks": lambda m: pb.ListTasksRequest(filter=_filter(m), page_size=5, page_token=_pick(m.known.pages, m)),
    "ListAttempts": lambda m: pb.ListAttemptsRequest(task_id=_pick(m.known.tasks, m)),
    "WatchTask": lambda m: pb.WatchTaskRequest(task_id=_pick(m.known.tasks, m)),
    "CancelTask": lambda m: pb.CancelTaskRequest(task_id=_pick(m.known.tasks, m), reason="fuzz"),
    "RetryTask": lambda m: pb.RetryTaskRequest(task_id=_pick(m.known.tasks, m), request_id=m.request_id()),
    "Work": lambda m: m.hello(),
    "DownloadPayload": lambda m: work.DownloadPayloadRequest(
        session_id=_pick(m.known.sessions, m), attempt=work.AttemptRef(task_id=_pick(m.known.tasks, m), attempt=1)
    ),
    "DrainWorker": lambda m: admin.DrainWorkerRequest(session_id=_pick(m.known.sessions, m)),
    "PauseQueue": lambda m: admin.PauseQueueRequest(queue="fuzz"),
    "ResumeQueue": lambda m: admin.ResumeQueueRequest(queue="fuzz"),
    "SettleTask": lambda m: admin.SettleTaskRequest(
        task_id=_pick(m.known.tasks, m), settlement=admin.Settlement.ValueType(m.random.randrange(4))
    ),
}
