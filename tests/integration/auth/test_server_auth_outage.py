"""Tokens of several servers on one database, which goes away: known ones go on, and nobody is told a lie."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from longshore.server.model.access import Role
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc as pb_grpc
from tests.support.servers.processes import ServerProcess, eventually
from tests.support.servers.rawgrpc import header_of, whole
from tests.support.servers.tokens import make_token, metadata, token_admin
from tests.support.stores.postgres import Cluster

OK, UNAVAILABLE, UNAUTHENTICATED = (
    grpc.StatusCode.OK,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED,
)


def ask(stub: Any, token: str) -> grpc.StatusCode:
    try:
        stub.ListTasks(pb.ListTasksRequest(), metadata=metadata(token), timeout=20)
    except grpc.RpcError as refused:
        error: Any = refused
        return grpc.StatusCode(error.code())
    return OK


def answers(stub: Any, token: str, code: grpc.StatusCode) -> Callable[[], bool]:
    return lambda: ask(stub, token) is code


def test_two_servers_know_the_same_tokens_through_an_outage(tmp_path: Path, own_postgres: Cluster) -> None:
    with own_postgres.database() as url:
        database, data = ("--database", url), tmp_path / "desk"
        with (
            ServerProcess(tmp_path / "1", *database, name="one") as one,
            ServerProcess(tmp_path / "2", *database, name="two") as two,
            grpc.insecure_channel(one.address) as first,
            grpc.insecure_channel(two.address) as second,
        ):
            opened: tuple[Any, Any] = (first, second)  # stubs are typed for grpc.aio
            stubs: list[Any] = [pb_grpc.TaskServiceStub(channel) for channel in opened]
            known, doomed, unknown = (make_token(data, "ci", Role.SUBMIT, database=url) for _ in range(3))
            answer = stubs[0].Upload(whole(header_of(), b"x"), metadata=metadata(known))
            for stub in stubs:
                assert (ask(stub, known), ask(stub, doomed)) == (OK, OK)

            # Revoked with nobody's help, it is refused everywhere.
            token_admin(data, database=url).revoke(doomed.split("_")[1])
            began = time.monotonic()
            for stub in stubs:
                eventually(answers(stub, doomed, UNAUTHENTICATED), within=10)
            assert time.monotonic() - began < 5

            watch = stubs[1].WatchTask(pb.WatchTaskRequest(task_id=answer.tasks[0].id), metadata=metadata(known))
            assert next(watch).HasField("task")
            own_postgres.stop(immediate=True)
            for stub in stubs:
                assert ask(stub, unknown) is UNAVAILABLE
                assert ask(stub, known) is UNAVAILABLE
                assert ask(stub, doomed) is UNAUTHENTICATED
                assert ask(stub, "wrong") is UNAUTHENTICATED
            own_postgres.start()
            for stub in stubs:
                eventually(answers(stub, unknown, OK), within=20)
                assert ask(stub, known) is OK
            # The watch was let in before, and has never ended.
            stubs[0].CancelTask(pb.CancelTaskRequest(task_id=answer.tasks[0].id), metadata=metadata(known))
            assert [message for message in watch if message.HasField("task")]
