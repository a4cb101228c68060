"""P3: callers share a server fairly without a setting, as its users see it."""

from __future__ import annotations

from pathlib import Path

import grpc.aio
import pytest

from longshore.client import AsyncClient, Client, push_spec
from longshore.client.errors import InvalidArgument
from longshore.server.model.access import Role
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc as pb_grpc
from tests.support.servers.processes import ServerProcess
from tests.support.servers.rawgrpc import refused
from tests.support.servers.tokens import metadata, token_of

MIB = 1 << 20


async def test_uploads_without_a_byte_take_no_slot_from_others(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--upload-limit", "4") as server:
        greedy, other = token_of(server, "greedy", Role.SUBMIT), token_of(server, "other", Role.SUBMIT)
        spec = push_spec("web/etc/motd")
        async with grpc.aio.insecure_channel(server.address) as channel:
            create = pb_grpc.TaskServiceStub(channel).CreateUpload
            for number in range(4):
                header = pb.UploadHeader(request_id=f"r{number}", spec=spec, size=100_000)
                await create(pb.CreateUploadRequest(header=header), metadata=metadata(greedy), timeout=20)
            one_more = pb.CreateUploadRequest(header=pb.UploadHeader(request_id="r4", spec=spec))
            refusal = await refused(create(one_more, metadata=metadata(greedy), timeout=20))
            assert refusal.reason == "TOO_MANY_UPLOADS"
        async with AsyncClient(server=server.address, token=other, patience=0.0) as client:
            (task,) = await client.upload(b"x" * 100_000, spec=spec)
            assert task.creator == "other"
        async with AsyncClient(server=server.address, token=greedy, patience=0.0) as client:
            # The upload that it asked for is still there.
            assert await client.upload(b"x" * 100_000, spec=spec, request_id="r0")


@pytest.mark.embedded("the spool's limit is one process's setting")
def test_a_file_larger_than_the_spool_is_refused_at_once_and_for_good(tmp_path: Path) -> None:
    with (
        ServerProcess(tmp_path, "--spool-limit", "1MiB") as server,
        Client(server=server.address, token_file=server.token_file, patience=600.0) as client,
    ):
        with pytest.raises(InvalidArgument, match="--spool-limit") as refused:
            client.upload(bytes(2 * MIB), spec=push_spec("web/etc/motd"))
        assert refused.value.reason == "PAYLOAD_TOO_LARGE"
        assert client.upload(bytes(MIB), spec=push_spec("web/etc/motd"))
