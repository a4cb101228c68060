"""Asks what a batch will need, before anything is decided: in one round trip where the database is far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from longshore.server.model.task import concurrency_key_of
from longshore.server.store import commands
from longshore.server.store.commands import Command
from longshore.server.store.handlers import sessions, uploads
from longshore.server.store.handlers.requests import ask_requests, room_counters
from longshore.server.store.tables.ids import seq_of
from longshore.server.store.transaction.counters import KEY_RUNNING, SPOOL, Key
from longshore.server.store.transaction.unit import UnitOfWork


class _Names:
    """Everything that a batch names."""

    def __init__(self) -> None:
        self.tasks: set[int] = set()
        self.requests: list[tuple[str, str]] = []
        self.destination_keys: list[bytes] = []
        self.counters: set[Key] = set()
        self.sessions: set[str] = set()
        self.uploads: set[str] = set()
        self._rooms: set[tuple[str, str, bool]] = set()
        self.makes = False
        """Whether the batch makes tasks."""

    def task(self, task_id: str) -> None:
        seq = seq_of(task_id)
        if seq is not None:
            self.tasks.add(seq)

    def plans(self, plans: Iterable[commands.TaskPlan]) -> None:
        self.makes = True
        for plan in plans:
            if (of := plan.work.destination_key) is not None:
                self.destination_keys.append(of)
            if key := concurrency_key_of(plan.work):
                self.counters.add((KEY_RUNNING, key))

    def _room(self, bounds: commands.Bounds, queue: str, principal: str) -> None:
        """Note the counters of a submission, once for all submissions that read the same ones."""
        key = (queue, principal, bounds.caller_tasks is None)
        if key not in self._rooms:
            self._rooms.add(key)
            self.counters.update(room_counters(bounds, queue=queue, principal=principal))

    def see(self, command: Command[Any]) -> None:
        match command:
            case commands.SubmitTasks():
                self.requests.append((command.principal, command.request_id))
                self.plans(command.plans)
                for plan in command.plans:
                    self._room(command.bounds, plan.terms.queue, command.principal)
                if command.payload is not None and command.bounds.spool_bytes is not None:
                    self.counters.add(SPOOL)
            case commands.FileReports():
                self.sessions.add(command.session_id)
                for task_id, _ in command.reports:
                    self.task(task_id)
            case commands.BeginAttempts():
                self.sessions.add(command.session_id)
                for task_id, _ in command.attempts:
                    self.task(task_id)
            case commands.RequestGrants():
                self.sessions.add(command.session_id)
                for task_id, _ in command.requests:
                    self.task(task_id)
            case commands.ClaimTasks():
                self.sessions.update(offer.session_id for offer in command.offers)
            case commands.CancelTask() | commands.SettleTask():
                self.task(command.task_id)
            case commands.RetryTask():
                self.task(command.task_id)
                self.makes = True
                self.requests.append((command.principal, command.request_id))
            case commands.OpenUpload():
                self.requests.append((command.principal, command.request_id))
                self.counters.update(room_counters(command.bounds, queue=command.queue, principal=command.principal))
                self.counters.update(uploads.upload_counters(command.bounds, principal=command.principal))
            case commands.Checkpoint():
                self.uploads.add(command.upload_id)
            case commands.FinishUpload():
                self.uploads.add(command.upload_id)
                self.plans(command.plans)
            case _:
                pass


def prefetch(unit: UnitOfWork, batch: Sequence[Command[Any]]) -> None:
    """Ask for everything that the batch names, with one query for each kind. What is not foreseen is asked later."""
    names = _Names()
    for command in batch:
        names.see(command)
    taking: list[Callable[[], object]] = []
    if names.tasks:
        taking.append(unit.ask_tasks(names.tasks))
    if names.requests:
        taking.append(ask_requests(unit, names.requests))
    if names.destination_keys:
        taking.append(unit.ask_occupied(names.destination_keys))
    if names.counters:
        taking.append(unit.counters.ask(names.counters))
    unknown = [each for each in names.sessions if sessions.remembered_session(unit, each) is None]
    if unknown:
        taking.append(sessions.ask_sessions(unit, unknown))
    if names.uploads:
        taking.append(uploads.ask_uploads(unit, names.uploads))
    if names.makes:
        taking.append(unit.ask_last_seq())
    if names.makes or names.tasks:
        taking.append(unit.ask_paused())
    for take in taking:
        take()
