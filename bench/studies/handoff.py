"""This study measures what it costs to hand a task to another process: whether several server processes would pay.

    python -m bench.studies.handoff [--seconds S]

A front that took the calls would hand each submission to the one process that writes, and get back the task that was
made; the assignment and the report of the task would cross the same border. Here two processes pass such values over a
socket pair, so many at a time: pickled, which is the quickest way that Python has for them. Prints µs of CPU a task on
each side, for the submission with its answer and for the claimed task with its report.
"""

from __future__ import annotations

import argparse
import os
import pickle
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from longshore.contract.request_ids import new_request_id
from longshore.server.model.events import Reported
from longshore.server.model.task import AnyValue, Job, Status, Submission, Task, Terms
from longshore.server.model.values import Outcome, State
from longshore.server.store.commands import Bounds, SubmitTasks, TaskPlan

SIZES: Final = (1, 8, 40)
"""Values in one message."""
_HEAD: Final = struct.Struct("!I")


def _submission(number: int) -> SubmitTasks:
    arguments = AnyValue("type.googleapis.com/google.protobuf.StringValue", f"{number} {'x' * 200}".encode())
    return SubmitTasks(
        principal="alice",
        request_id=new_request_id(),
        fingerprint="v1:" + "5d41402abc4b2a76" * 4,
        plans=(TaskPlan(Job("noop", arguments), Terms()),),
        bounds=Bounds(),
    )


def _task(command: SubmitTasks) -> Task:
    plan = command.plans[0]
    submission = Submission(
        1, "0" * 26, command.principal, command.request_id, plan.work, plan.terms, None, time.time(), time.time()
    )
    return Task(submission, Status(revision=2, state=State.RUNNING, head=True, session_id="worker-1", attempt=1))


def _send(connection: socket.socket, values: Sequence[Any]) -> None:
    said = pickle.dumps(values, pickle.HIGHEST_PROTOCOL)
    connection.sendall(_HEAD.pack(len(said)) + said)


def _receive(connection: socket.socket) -> Any:
    head = connection.recv(_HEAD.size, socket.MSG_WAITALL)
    return pickle.loads(connection.recv(_HEAD.unpack(head)[0], socket.MSG_WAITALL)) if head else None


def _answer(connection: socket.socket, answers: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
    """Answer until the other side closes, and then tell the CPU seconds of this one."""
    began = time.process_time()
    while values := _receive(connection):
        _send(connection, answers(values))
    _send(connection, (time.process_time() - began,))


def measure(values: Sequence[Any], answers: Sequence[Any], seconds: float) -> tuple[float, float]:
    """Pass `values` there and `answers` back for a while. Returns µs of CPU a value of this side and of the other."""
    here, there = socket.socketpair()
    child = os.fork()
    if not child:
        here.close()
        _answer(there, lambda _values: answers)
        os._exit(0)
    there.close()
    began, end, count = time.process_time(), time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        _send(here, values)
        count += len(_receive(here))
    mine = time.process_time() - began
    here.shutdown(socket.SHUT_WR)
    (other,) = _receive(here)
    os.waitpid(child, 0)
    return 1e6 * mine / count, 1e6 * other / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0)
    seconds = parser.parse_args().seconds
    for size in SIZES:
        commands = [_submission(number) for number in range(size)]
        tasks = [_task(command) for command in commands]
        reports = [(task.id, Reported("worker-1", 1, Outcome.OK)) for task in tasks]
        for what, values, answers in (("submission and answer", commands, tasks), ("claim and report", reports, tasks)):
            front, writer = measure(values, answers, seconds)
            print(f"{size:2} at once, {what}: front {front:.1f}, writer {writer:.1f} µs of CPU a task", flush=True)


if __name__ == "__main__":
    main()
