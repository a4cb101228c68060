"""A bare grpc.aio server, the floor of the rows `watchers` and `floods`.

    python -m bench.floors.bare ADDRESS

It knows no tasks, and asks nobody for a token. Every WatchTask tells one task, then waits for ever, with a coroutine
for each stream. GetTask answers with an empty task. The server has its default options. Prints `ready`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop

from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb


async def watch(request: pb.WatchTaskRequest, _context: Any) -> AsyncIterator[pb.WatchTaskResponse]:
    yield pb.WatchTaskResponse(task=task_pb2.Task(id=request.task_id, revision=1))
    await asyncio.Event().wait()


async def get(_request: pb.GetTaskRequest, _context: Any) -> pb.GetTaskResponse:
    return pb.GetTaskResponse()


async def serve(address: str) -> None:
    watching = grpc.unary_stream_rpc_method_handler(
        watch,
        request_deserializer=pb.WatchTaskRequest.FromString,
        response_serializer=pb.WatchTaskResponse.SerializeToString,
    )
    getting = grpc.unary_unary_rpc_method_handler(
        get,
        request_deserializer=pb.GetTaskRequest.FromString,
        response_serializer=pb.GetTaskResponse.SerializeToString,
    )
    server = grpc.aio.server()
    methods: dict[str, Any] = {"WatchTask": watching, "GetTask": getting}
    service = grpc.method_handlers_generic_handler("longshore.v1.TaskService", methods)
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
