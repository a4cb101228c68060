"""The outbox collects what the worker has to say on the current connection, in as few messages as the stream takes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from longshore.v1 import task_pb2 as tp
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.attempts.attempt import Key, ref_of

_MESSAGE_BYTES: Final = 1024 * 1024
"""A message is closed at about this size: results have up to 64 KiB each, and gRPC takes 4 MiB."""
_MESSAGE_ITEMS: Final = 512


class Outbox:
    """The outbox keeps the newest values and is no queue: progress, credits and heartbeats replace what was not sent
    yet.

    The outbox belongs to the agent's loop. It is emptied when a connection ends; the agent fills it anew from what it
    keeps.
    """

    def __init__(self) -> None:
        self._reports: dict[Key, ws.Report] = {}
        self._begins: set[Key] = set()
        self._grants: dict[Key, ws.GrantRequest] = {}
        self._progress: dict[Key, tuple[int, int]] = {}
        self._ready: dict[tuple[str, str, str], bool] = {}
        self._debts: dict[str, bool] = {}
        self._conditions: dict[str, tp.TaskError | None] = {}
        self._credits: int | None = None
        self._heartbeat: int | None = None
        self._goodbye = False
        self._filled = asyncio.Event()

    def report(self, key: Key, report: ws.Report) -> None:
        """Report an attempt's end. Progress of it that was not sent yet is dropped."""
        self._progress.pop(key, None)
        self._reports[key] = report
        self._filled.set()

    def withdraw(self, key: Key) -> None:
        """Drop everything about an attempt that this worker does not hold any more."""
        self._reports.pop(key, None)
        self._begins.discard(key)
        self._grants.pop(key, None)
        self._progress.pop(key, None)

    def begin(self, key: Key) -> None:
        """Ask to start an attempt that runs alone."""
        self._begins.add(key)
        self._filled.set()

    def ask(self, key: Key, request: ws.GrantRequest) -> None:
        """Ask for the grant of a commit."""
        self._grants[key] = request
        self._filled.set()

    def progress(self, values: Mapping[Key, tuple[int, int]]) -> None:
        """Tell the newest progress of some attempts."""
        if values:
            self._progress.update(values)
            self._filled.set()

    def ready(self, target: str, project: str, instance: str, *, running: bool) -> None:
        """Tell of an instance that parked tasks wait for, and whether it runs."""
        self._ready[target, project, instance] = running
        self._filled.set()

    def debt(self, debt_id: str, *, paid: bool) -> None:
        """Tell whether a debt is paid."""
        self._debts[debt_id] = paid
        self._filled.set()

    def condition(self, target: str, problem: tp.TaskError | None) -> None:
        """Tell why a target cannot be used. None means that it can."""
        self._conditions[target] = problem
        self._filled.set()

    def credits(self, credits: int) -> None:
        """Tell how many attempts this worker is ready to hold at once."""
        self._credits = credits
        self._filled.set()

    def heartbeat(self, sequence: int) -> None:
        """Tell the server that this worker is alive."""
        self._heartbeat = sequence
        self._filled.set()

    def goodbye(self) -> None:
        """Say goodbye after everything that waits to be sent."""
        self._goodbye = True
        self._filled.set()

    def clear(self) -> None:
        """Forget everything: the connection is gone."""
        self._reports.clear()
        self._begins.clear()
        self._grants.clear()
        self._progress.clear()
        self._ready.clear()
        self._debts.clear()
        self._conditions.clear()
        self._credits = None
        self._heartbeat = None
        self._goodbye = False
        self._filled.clear()

    async def take(self) -> tuple[ws.WorkRequest, bool]:
        """Wait until there is something to say, and return the next message and whether it is the last one."""
        await self._filled.wait()
        # One turn of the loop, so that what ended meanwhile rides in the same message.
        await asyncio.sleep(0)
        message = ws.WorkRequest()
        if self._heartbeat is not None:
            message.heartbeat.sequence = self._heartbeat
            self._heartbeat = None
        if self._credits is not None:
            message.credits = self._credits
            self._credits = None
        for key in self._begins:
            message.begins.add(attempt=ref_of(key))
        self._begins.clear()
        # Grants before reports: a handler waits for each of them.
        for request in self._grants.values():
            message.grant_requests.append(request)
        self._grants.clear()
        full = self._take_reports(message)
        for key, (done, total) in self._progress.items():
            message.progress.add(attempt=ref_of(key), done=done, total=total)
        self._progress.clear()
        for (target, project, instance), running in self._ready.items():
            ref = ws.InstanceRef(target=target, project=project, instance=instance)
            message.ready.add(instance=ref, running=running)
        self._ready.clear()
        for debt_id, paid in self._debts.items():
            message.debts.add(debt_id=debt_id, paid=paid)
        self._debts.clear()
        for target, problem in self._conditions.items():
            message.targets.add(target=target, problem=problem)
        self._conditions.clear()
        last = self._goodbye and not full
        if last:
            message.goodbye.SetInParent()
        if not full:
            self._filled.clear()
        return message, last

    def _take_reports(self, message: ws.WorkRequest) -> bool:
        """Move reports into the message. Returns True when some had to stay."""
        room = _MESSAGE_BYTES
        for count, key in enumerate(list(self._reports)):
            if count == _MESSAGE_ITEMS or room <= 0:
                return True
            report = self._reports.pop(key)
            message.reports.append(report)
            if report.HasField("result"):
                room -= report.ByteSize()
        return False
