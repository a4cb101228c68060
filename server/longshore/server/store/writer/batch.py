"""Carries out one group of commands in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from longshore.server.model.errors import LongshoreError
from longshore.server.store import commands
from longshore.server.store.commands import Command
from longshore.server.store.handlers import (
    claims,
    clock_steps,
    identity,
    janitor,
    restores,
    server_commands,
    servers,
    sessions,
    tasks,
    upload_homes,
    uploads,
)
from longshore.server.store.transaction.ready import update_heads_and_ready
from longshore.server.store.transaction.unit import UnitOfWork
from longshore.server.store.writer.prefetch import prefetch

Answer = Callable[[], object]
"""Gives the answer of a command; called when the whole batch is decided."""

_HANDLERS: Final[Mapping[type[Command[Any]], Callable[[UnitOfWork, Any], Answer]]] = {
    commands.IdentifyDatabase: identity.identify_database,
    commands.OpenUpload: uploads.open_upload,
    commands.Checkpoint: uploads.checkpoint,
    commands.FinishUpload: uploads.finish_upload,
    commands.RejectUpload: uploads.reject_upload,
    commands.AbandonIdleUploads: uploads.abandon_idle_uploads,
    commands.ForgetUploads: uploads.forget_uploads,
    commands.SubmitTasks: tasks.submit_tasks,
    commands.RetryTask: tasks.retry_task,
    commands.CancelTask: tasks.cancel_task,
    commands.SettleTask: tasks.settle_task,
    commands.PauseQueue: tasks.pause_queue,
    commands.ClaimTasks: claims.claim_tasks,
    commands.BeginAttempts: sessions.begin_attempts,
    commands.RequestGrants: sessions.request_grants,
    commands.FileReports: sessions.file_reports,
    commands.OpenSession: sessions.open_session,
    commands.RenewLeases: sessions.renew_leases,
    commands.Disconnect: sessions.disconnect,
    commands.DrainSession: sessions.drain_session,
    commands.NoteRemark: sessions.note_remark,
    commands.WakeParked: sessions.wake_parked,
    commands.PayDebt: sessions.pay_debt,
    commands.Tick: janitor.tick,
    commands.ReapSessions: janitor.reap_sessions,
    commands.ExtendLeases: janitor.extend_leases,
    commands.DoomPayloads: janitor.doom_payloads,
    commands.ForgetPayloads: janitor.forget_payloads,
    commands.PurgeTasks: janitor.purge_tasks,
    server_commands.MeetDatabase: restores.meet_database,
    server_commands.MarkRestored: restores.mark_restored,
    server_commands.NoteClock: clock_steps.note_clock,
    server_commands.AnnounceServer: servers.announce_server,
    server_commands.RetireServer: servers.retire_server,
    server_commands.RecordHome: upload_homes.record_home,
    server_commands.HearUploads: upload_homes.hear_uploads,
}


@dataclass(frozen=True, slots=True)
class Done:
    """A command that was carried out."""

    result: object


@dataclass(frozen=True, slots=True)
class Refused:
    """A command that was refused, and changed nothing."""

    error: LongshoreError


CommandOutcome = Done | Refused


def execute(unit: UnitOfWork, batch: Sequence[Command[Any]]) -> list[CommandOutcome]:
    """Decide and write all of `batch`; the caller commits. Answers in the order of `batch`.

    Claims come last, so that what the batch made or freed can be claimed in the same transaction.
    """
    prefetch(unit, batch)
    answers: dict[int, Answer | LongshoreError] = {}
    for index, command in enumerate(batch):
        if not isinstance(command, commands.ClaimTasks):
            answers[index] = _decide(unit, command)
    unit.flush_stored()
    update_heads_and_ready(unit)
    for index, command in enumerate(batch):
        if isinstance(command, commands.ClaimTasks):
            answers[index] = _decide(unit, command)
    unit.flush()
    outcomes: list[CommandOutcome] = []
    for index in range(len(batch)):
        answer = answers[index]
        outcomes.append(Refused(answer) if isinstance(answer, LongshoreError) else Done(answer()))
    unit.finish()
    return outcomes


def _decide(unit: UnitOfWork, command: Command[Any]) -> Answer | LongshoreError:
    writes = unit.writes
    try:
        return _HANDLERS[type(command)](unit, command)
    except LongshoreError as error:
        if unit.writes != writes:
            raise AssertionError(f"{type(command).__name__} changed something and then refused") from error
        return error
