"""A healthy client beside a campaign, in a process of its own: prints when each call began, and how long it took."""

from __future__ import annotations

import select
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb
from longshore.v1 import task_service_pb2_grpc as pb_grpc

PAUSE = 0.01


def main() -> None:
    """ADDRESS TOKEN-FILE; ends with its standard input."""
    address, token_file = sys.argv[1:]
    metadata = (("authorization", f"Bearer {Path(token_file).read_text().strip()}"),)
    spec = task_pb2.TaskSpec(queue="healthy", job=task_pb2.JobSpec(kind="nobodys-healthy"))
    channel: Any = grpc.insecure_channel(address)
    stub: Any = pb_grpc.TaskServiceStub(channel)

    def timed(call: Any, request: Any) -> Any:
        began = time.monotonic()
        answer = call(request, metadata=metadata, timeout=30.0)
        sys.stdout.write(f"{began:.6f} {time.monotonic() - began:.6f} call\n")
        return answer

    def goes_on() -> bool:
        """After a pause; how much later than asked it is over tells how long the machine lets a process wait."""
        began = time.monotonic()
        ended = bool(select.select([sys.stdin], [], [], PAUSE)[0])
        sys.stdout.write(f"{began:.6f} {max(0.0, time.monotonic() - began - PAUSE):.6f} late\n")
        return not ended

    while goes_on():
        task = timed(stub.SubmitTask, pb.SubmitTaskRequest(spec=spec)).tasks[0]
        timed(stub.GetTask, pb.GetTaskRequest(task_id=task.id))
        timed(stub.CancelTask, pb.CancelTaskRequest(task_id=task.id))


if __name__ == "__main__":
    main()
