"""The floor of the row `watchers`: a grpc.aio server whose every WatchTask tells one task, and then waits for ever.

    python -m bench.watchers_floor ADDRESS

It knows no tasks, asks nobody who they are, and holds a coroutine for each stream. Prints `ready`.
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


async def serve(address: str) -> None:
    handler = grpc.unary_stream_rpc_method_handler(
        watch,
        request_deserializer=pb.WatchTaskRequest.FromString,
        response_serializer=pb.WatchTaskResponse.SerializeToString,
    )
    server = grpc.aio.server()
    service = grpc.method_handlers_generic_handler("longshore.v1.TaskService", {"WatchTask": handler})
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
