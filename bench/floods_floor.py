"""The floor of the row `floods`: a grpc.aio server with its default options, whose GetTask answers with an empty task.

    python -m bench.floods_floor ADDRESS

It asks nobody for a token. Prints `ready`.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
import grpc.aio
import uvloop

from longshore.v1 import task_service_pb2 as pb


async def get(_request: pb.GetTaskRequest, _context: Any) -> pb.GetTaskResponse:
    return pb.GetTaskResponse()


async def serve(address: str) -> None:
    handler = grpc.unary_unary_rpc_method_handler(
        get,
        request_deserializer=pb.GetTaskRequest.FromString,
        response_serializer=pb.GetTaskResponse.SerializeToString,
    )
    server = grpc.aio.server()
    service = grpc.method_handlers_generic_handler("longshore.v1.TaskService", {"GetTask": handler})
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
