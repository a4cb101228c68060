"""Bytes on the wire that are no message: the caller is known before one is parsed, and nobody can end the server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from longshore.server.edge.auth.roles import ROLES
from longshore.server.model.access import Role
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from tests.support.network.wire import WireConnection, message
from tests.support.servers.processes import ServerProcess, eventually
from tests.support.servers.tokens import token_of

GARBAGE = b"\xff\xff\xff\xff garbage"
METHODS = sorted(ROLES)
INVALID, EXHAUSTED, UNAUTHENTICATED = (
    code.value[0]
    for code in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
    )
)


def bearer(token: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + token.encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("wire")) as server:
        yield server
        assert "Traceback" not in server.log()
        assert not list(server.events("defect"))


@pytest.fixture
def wire(server: ServerProcess) -> Iterator[WireConnection]:
    with WireConnection(server.address) as connection:
        yield connection


@pytest.fixture
def key(server: ServerProcess) -> tuple[bytes, bytes]:
    return bearer(server.token)


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_message_are_refused_with_its_name(
    wire: WireConnection, key: tuple[bytes, bytes], method: str
) -> None:
    ended = wire.call(method.encode(), [key], message(GARBAGE))
    assert (ended.status, ended.reason) == (INVALID, "MALFORMED_MESSAGE")
    assert b"Request" in ended.headers[b"grpc-message"]


@pytest.mark.parametrize("method", METHODS)
def test_a_call_without_its_message_is_refused(wire: WireConnection, key: tuple[bytes, bytes], method: str) -> None:
    for data in (b"", message(b"abc", announced=4000)):
        ended = wire.call(method.encode(), [key], data)
        # A stream may end before it has begun.
        assert ended.status == 0 or ended.reason in {"MALFORMED_MESSAGE", "PROTOCOL_VIOLATION"}, ended


TOKENS = {
    "none": [],
    "empty": [(b"authorization", b"")],
    "only the scheme": [(b"authorization", b"Bearer")],
    "basic": [(b"authorization", b"Basic dXNlcjpwYXNz")],
    "wrong": [bearer("x" * 43)],
    "unknown": [bearer(f"ls_{'0' * 16}_{'g' * 43}")],
    "long": [bearer("x" * 6000)],
    "not UTF-8": [(b"authorization", b"Bearer \xff\xfe")],
}


@pytest.mark.parametrize("shown", TOKENS.values(), ids=TOKENS)
def test_the_caller_is_refused_before_a_byte_is_parsed(wire: WireConnection, shown: list[tuple[bytes, bytes]]) -> None:
    for method in METHODS:
        ended = wire.call(method.encode(), shown, message(GARBAGE))
        assert (ended.status, ended.reason) == (UNAUTHENTICATED, "UNAUTHENTICATED"), method


def test_two_tokens_are_refused_even_if_one_is_right(wire: WireConnection, key: tuple[bytes, bytes]) -> None:
    for shown in ([key, key], [bearer("x"), key], [key, bearer("x")]):
        ended = wire.call(METHODS[0].encode(), shown, message(b""))
        assert (ended.status, ended.reason) == (UNAUTHENTICATED, "UNAUTHENTICATED")


@pytest.mark.parametrize("method", METHODS)
def test_a_refusal_does_not_wait_for_the_message(wire: WireConnection, method: str) -> None:
    ended = wire.end_of(wire.begin(method.encode(), [], message(b"", announced=4000)))
    assert ended.reason == "UNAUTHENTICATED"


def test_a_missing_role_is_reported_before_the_message_is_read(server: ServerProcess, wire: WireConnection) -> None:
    shown = bearer(token_of(server, "worker", Role.WORK))
    for method in METHODS:
        if Role.WORK not in ROLES[method]:
            ended = wire.end_of(wire.begin(method.encode(), [shown], message(b"", announced=4000)))
            assert ended.reason == "FORBIDDEN"


@pytest.mark.parametrize(
    "path", [b"/longshore.v1.TaskService/\xff\xfe", b"\xff", b"/", b"//", b"/longshore.v1.TaskService/Nothing"]
)
def test_a_path_that_is_none_ends_its_call_and_nothing_else(
    server: ServerProcess, wire: WireConnection, key: tuple[bytes, bytes], path: bytes
) -> None:
    unimplemented = grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert wire.call(path, [], message(b"")).status in {UNAUTHENTICATED, unimplemented}
    assert wire.call(path, [key], message(b"")).status == unimplemented
    assert wire.call(b"/longshore.v1.AdminService/GetStats", [key], message(b"")).status == 0
    assert server.serving()


def test_binary_metadata_is_ignored(wire: WireConnection, key: tuple[bytes, bytes]) -> None:
    ended = wire.call(b"/longshore.v1.AdminService/GetStats", [key, (b"x-any", b"\xff\xfe")], message(b""))
    assert ended.status == 0


def test_a_message_that_is_a_little_too_large_says_so(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call: Any = channel.unary_unary("/longshore.v1.TaskService/SubmitTask")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"\x0a" * ((4 << 20) + 1), metadata=(("authorization", f"Bearer {server.token}"),), timeout=20)
    error: Any = refused.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ("longshore-reason", "MESSAGE_TOO_LARGE") in error.trailing_metadata()
    assert "4194304" in error.details()


def test_a_message_far_too_large_is_refused_by_the_core(wire: WireConnection, key: tuple[bytes, bytes]) -> None:
    stream = wire.begin(b"/longshore.v1.TaskService/SubmitTask", [key], message(b"", announced=64 << 20))
    ended = wire.end_of(stream)
    assert (ended.status, ended.reason) == (EXHAUSTED, "")


@pytest.mark.parametrize("method", [f"/grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch")])
def test_health_is_open_and_guarded(wire: WireConnection, method: str) -> None:
    ended = wire.call(method.encode(), [], message(GARBAGE))
    assert (ended.status, ended.reason) == (INVALID, "MALFORMED_MESSAGE")


async def test_health_of_all_services_is_listed_without_a_token(server: ServerProcess) -> None:
    # The generated code has the method, and raised NotImplementedError: a defect in the log for each call by nobody.
    async with grpc.aio.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        messages: Any = health_pb2  # whose published types do not know the list yet
        listed = await health.List(messages.HealthListRequest(), timeout=30)
        assert {"", "liveness", "longshore.v1.TaskService", "longshore.v1.WorkerService"} <= set(listed.statuses)
        assert {each.status for each in listed.statuses.values()} == {health_pb2.HealthCheckResponse.SERVING}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health.Check(health_pb2.HealthCheckRequest(service="x" * 1_000_000), timeout=30)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(refused.value.details() or "") < 200


FLOODS = {
    "wrong token": (False, message(b"")),
    "garbage": (True, message(GARBAGE)),
    "no message": (True, b""),
    "half a message": (True, message(b"x" * 100, announced=4_000_000)),
}


@pytest.mark.parametrize("method", [b"/longshore.v1.TaskService/CreateUpload", b"/longshore.v1.TaskService/Upload"])
@pytest.mark.parametrize(("known", "data"), FLOODS.values(), ids=FLOODS)
def test_a_flood_of_refusals_is_a_line_for_a_caller_and_a_second(
    tmp_path: Path, known: bool, data: bytes, method: bytes
) -> None:
    sent = 400
    with ServerProcess(tmp_path) as server:
        before, began = len(server.log().splitlines()), time.monotonic()
        token = bearer(server.token if known else "wrong")
        with WireConnection(server.address) as wire:
            streams = [wire.begin(method, [token], data, end=True) for _ in range(sent)]
            assert all(wire.end_of(stream).status for stream in streams)
        # A caller that leaves in the middle is no reason for more.
        for _ in range(sent // 20):
            with WireConnection(server.address) as wire:
                for _ in range(20):
                    wire.begin(method, [token], data)
                assert wire.call(b"/grpc.health.v1.Health/Check", [], message(b"")).status == 0
        expected = sent if method.endswith(b"/CreateUpload") or not known else 0
        eventually(lambda: sum(line.get("count", 1) for line in server.events("calls_refused")) >= expected)
        seconds = time.monotonic() - began
        server.terminate()
        lines = server.log().splitlines()[before:]
        assert len(lines) <= seconds + 10, lines
        assert not [line for line in lines if "Traceback" in line or "never retrieved" in line]


def opening(number: int) -> bytes:
    spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="nobodys"))
    header = pb.UploadHeader(request_id=f"cut-{number}", spec=spec)
    return message(pb.UploadRequest(header=header).SerializeToString())


def test_uploads_that_are_cut_are_a_line_for_a_caller_and_a_second(tmp_path: Path) -> None:
    cuts = 300
    with ServerProcess(tmp_path, "--upload-limit", "1000") as server:
        before, began = len(server.log().splitlines()), time.monotonic()
        for first in range(0, cuts, 20):
            with WireConnection(server.address) as wire:
                streams = []
                for number in range(first, first + 20):
                    data = opening(number) + message(b"x" * 2000, announced=4 << 20)
                    streams.append(wire.begin(b"/longshore.v1.TaskService/Upload", [bearer(server.token)], data))
                assert all(b"longshore-offset" in wire.started(stream) for stream in streams)
        eventually(lambda: sum(one.get("count", 1) for one in server.events("upload_detached")) == cuts)
        seconds = time.monotonic() - began
        server.terminate()
        lines = server.log().splitlines()[before:]
        assert len(lines) <= seconds + 10, lines


def test_an_upload_that_ends_as_its_first_metadata_is_sent_makes_no_noise(tmp_path: Path) -> None:
    upload = b"/longshore.v1.TaskService/Upload"
    with ServerProcess(tmp_path, "--upload-limit", "1000") as server:
        key = bearer(server.token)
        for first in range(0, 400, 20):
            # Somewhere among twenty that begin at once the connection breaks: some are not read by then, some have sent
            # their metadata, and some are about to.
            with WireConnection(server.address) as wire:
                streams = [wire.begin(upload, [key], opening(number)) for number in range(first, first + 20)]
                assert wire.started(streams[first // 20])
        with WireConnection(server.address) as wire:
            assert wire.call(b"/longshore.v1.AdminService/GetStats", [key], message(b"")).status == 0
        server.terminate()
        assert "never retrieved" not in server.log()
        assert "Traceback" not in server.log()
