"""P14: nobody gets in without the token, at no RPC of any service; only health is open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from longshore.v1 import admin_service_pb2, task_service_pb2, worker_service_pb2
from tests.support.servers.processes import ServerProcess

METHODS: list[MethodDescriptor] = [
    method
    for module in (task_service_pb2, worker_service_pb2, admin_service_pb2, reflection_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]

WRONG: dict[str, tuple[tuple[str, str], ...]] = {
    "no token": (),
    "an empty one": (("authorization", "Bearer "),),
    "a wrong one": (("authorization", "Bearer " + "x" * 43),),
    "another scheme": (("authorization", "Basic TOKEN"),),
    "no scheme": (("authorization", "TOKEN"),),
    "cut": (("authorization", "Bearer CUT"),),
    "the wrong one first": (("authorization", "Bearer wrong"), ("authorization", "Bearer TOKEN")),
    "another header": (("x-token", "Bearer TOKEN"),),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("auth")) as process:
        yield process


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


def call(channel: grpc.Channel, method: MethodDescriptor, metadata: tuple[tuple[str, str], ...]) -> None:
    """Call it with one empty message, and read all of the answer."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    send = bytes
    options: dict[str, Any] = {"metadata": metadata, "timeout": 20.0}
    if method.client_streaming and method.server_streaming:
        list(channel.stream_stream(path, send)(iter([b""]), **options))
    elif method.client_streaming:
        channel.stream_unary(path, send)(iter([b""]), **options)
    elif method.server_streaming:
        list(channel.unary_stream(path, send)(b"", **options))
    else:
        channel.unary_unary(path, send)(b"", **options)


def test_the_contract_has_the_methods_that_are_tried() -> None:
    assert len(METHODS) == 14 + 2 + 6 + 1


@pytest.mark.parametrize("metadata", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_without_the_token_every_rpc_is_closed(
    channel: grpc.Channel, server: ServerProcess, method: MethodDescriptor, metadata: tuple[tuple[str, str], ...]
) -> None:
    shown = tuple(
        (key, value.replace("TOKEN", server.token).replace("CUT", server.token[:-1])) for key, value in metadata
    )
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, method, shown)
    error: Any = refused.value
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("UNAUTHENTICATED", "longshore")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_with_the_token_every_rpc_is_served(
    channel: grpc.Channel, server: ServerProcess, method: MethodDescriptor
) -> None:
    try:
        call(channel, method, (("authorization", f"Bearer {server.token}"),))
    except grpc.RpcError as refused:
        error: Any = refused
        # The empty message is wrong for most of them, which only a served one can find out.
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()


def test_an_unknown_method_needs_a_token_too(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/longshore.v1.TaskService/Nothing", bytes)(b"", timeout=20.0)
    error: Any = refused.value
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("service", ["", "longshore.v1.TaskService", "longshore.v1.WorkerService"])
def test_health_is_open(channel: grpc.Channel, service: str) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20.0)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_the_token_is_in_no_log_and_no_answer(server: ServerProcess) -> None:
    assert server.token not in server.log()


@pytest.mark.cluster("P14")
def test_a_new_token_file_invalidates_the_old_token(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        old = server.token
        server.terminate()
        server.token_file.unlink()
        server.start()
        assert server.token != old
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as refused:
            call(channel, METHODS[0], (("authorization", f"Bearer {old}"),))
        error: Any = refused.value
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
