"""Tasks, attempts, figures and the fleet as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group, RenderableType
from rich.markup import escape

from longshore.client.cli.input.grammar import format_size
from longshore.client.cli.output.jsonform import in_one_line
from longshore.client.cli.output.rows import Rows
from longshore.client.values.specs import ALL_STATES, STATE_NAMES
from longshore.program.durations import format_duration
from longshore.v1 import admin_service_pb2, task_pb2, task_service_pb2

_COLOURS: Final = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "expired": "magenta",
    "running": "cyan",
    "committing": "cyan",
    "cancelling": "yellow",
    "settling": "yellow",
    "blocked": "dim",
    "scheduled": "dim",
}
_WAITS: Final = {
    task_pb2.WAIT_REASON_NOT_BEFORE: "until its time",
    task_pb2.WAIT_REASON_BACK_OFF: "to try again",
    task_pb2.WAIT_REASON_INSTANCE_STOPPED: "until the instance runs",
    task_pb2.WAIT_REASON_INSTANCE_ABSENT: "until the instance exists",
    task_pb2.WAIT_REASON_EARLIER_TASK: "for an earlier task there",
    task_pb2.WAIT_REASON_AFTER: "for a task that it comes after",
    task_pb2.WAIT_REASON_SETTLING: "to find out what a lost worker did",
}
_ENDS: Final = {
    admin_service_pb2.SESSION_END_LEFT: "left",
    admin_service_pb2.SESSION_END_LOST: "lost",
    admin_service_pb2.SESSION_END_REPLACED: "replaced",
}
_NUMBERS: Final = ("SIZE", "AGE", "ATTEMPTS")
_METHODS: Final = {
    task_pb2.DELIVERY_METHOD_SFTP: "SFTP: verified, put in place in one step",
    task_pb2.DELIVERY_METHOD_DIRECTORY: "directory: verified, synced, put in place in one step",
    task_pb2.DELIVERY_METHOD_FILES_API: "files API: verified by size only, neither atomic nor fenced",
    task_pb2.DELIVERY_METHOD_IN_PLACE: "in place: verified, written into the file that was there, not atomic",
}


_STATES_IN_ORDER: Final = tuple(task_pb2.TaskState.Name(value).removeprefix("TASK_STATE_") for value in ALL_STATES)
_CANCELS: Final = frozenset({"DEPENDENCY_FAILED", "SUPERSEDED"})
"""Reasons of errors that say why a task was cancelled."""


def state_name(task: task_pb2.Task) -> str:
    """Return the state's short name."""
    return STATE_NAMES.get(task.state, "unknown")


def state(task: task_pb2.Task) -> str:
    """Return the state's name with its colour."""
    name = state_name(task)
    colour = _COLOURS.get(name)
    return f"[{colour}]{name}[/]" if colour else name


def where(task: task_pb2.Task) -> str:
    """Return the destination of a push, as one would type it, or the kind of a job and where it runs."""
    if task.HasField("file_push"):
        return destination(task.file_push.destination)
    on = ":".join(part for part in (task.job.target, task.job.instance) if part)
    project = f" (project {task.job.project})" if task.job.project else ""
    return f"{task.kind} on {on}{project}" if on else task.kind


def destination(to: task_pb2.Destination) -> str:
    """`[TARGET:]INSTANCE/PATH`."""
    target = f"{to.target}:" if to.target not in {"", "default"} else ""
    project = f" (project {to.project})" if to.project else ""
    return f"{target}{to.instance}{to.path}{project}"


def why(task: task_pb2.Task, *, now: datetime | None = None) -> str:
    """Explain a task's state: the condition that it waits for, or the error that it met."""
    said: list[str] = []
    if waiting := waits(task, now=now):
        said.append(waiting)
    if task.blocked_by:
        said.append(f"behind {task.blocked_by}")
    if task.cancel_requested and not task.done:
        said.append("a cancel is asked for")
    if task.state == task_pb2.TASK_STATE_CANCELLED:
        # An earlier attempt's error is no reason for this end: `get` shows it in a row of its own.
        said += [task.cancel_reason] if task.cancel_reason else []
        said += [error(task)] if task.error.reason in _CANCELS else []
    elif task.error.reason and task.state != task_pb2.TASK_STATE_SUCCEEDED and not _says_the_same(task):
        said.append(error(task))
    return "; ".join(said)


def _says_the_same(task: task_pb2.Task) -> bool:
    """Return whether the error only repeats the wait: a task that is parked for its instance has met just that, and the
    server says it in `wait_detail`."""
    parked = {task_pb2.WAIT_REASON_INSTANCE_ABSENT, task_pb2.WAIT_REASON_INSTANCE_STOPPED}
    return not task.done and task.wait_reason in parked and bool(task.wait_detail)


def error(task: task_pb2.Task) -> str:
    """Return the error of the newest failed attempt, with its reason."""
    return f"{task.error.message.rstrip('.')} ({task.error.reason})"


def waits(task: task_pb2.Task, *, now: datetime | None = None) -> str:
    """Say why a task waits: in the server's words, or by the reason alone where the server is older.

    An empty text means that the task does not wait, or that no reason is known.
    """
    if task.done or task.wait_detail:
        return "" if task.done else task.wait_detail
    if task.wait_reason not in _WAITS:
        return ""
    due = ""
    if task.HasField("due_time"):
        left = _seconds_until(task.due_time, now=now)
        due = f", in {format_duration(left)}" if left > 0 else ""
    return f"waits {_WAITS[task.wait_reason]}{due}"


def line(task: task_pb2.Task, *, detail: bool = True) -> str:
    """Write a task in one line."""
    # That it is next was true for a moment.
    detail = detail and task.wait_reason != task_pb2.WAIT_REASON_NEXT
    more = escape(why(task)) if detail else ""
    return f"{task.id}  {state(task)}  {escape(where(task))}" + (f"  {more}" if more else "")


STOPPED: Final = frozenset({task_pb2.TASK_STATE_CANCELLED, task_pb2.TASK_STATE_CANCELLING})
"""The states in which a cancel has succeeded, or is sure to."""


def cancelled_line(task: task_pb2.Task) -> str:
    """Write a task in one line after a cancel, with a note where the cancel changed nothing."""
    if task.state in STOPPED:
        return line(task)
    told = "had already finished, nothing was cancelled" if task.done else "too late to stop it for sure; `watch` tells"
    return f"{line(task)}  [yellow]{told}[/]"


def revision(task: task_pb2.Task) -> str:
    """Write a step of a watch in one line."""
    attempt = f"attempt {task.attempt}" if task.attempt else ""
    worker = f"on {escape(task.worker)}" if task.attempt and task.worker else ""
    parts = [_clock(task), state(task), attempt, worker, escape(why(task))]
    return "  ".join(part for part in parts if part)


def _clock(task: task_pb2.Task) -> str:
    """Return the time of a revision, with the date if that is not today; now if a server before 0.2 gives none."""
    now = datetime.now().astimezone()
    made = task.update_time.ToDatetime(tzinfo=UTC).astimezone() if task.HasField("update_time") else now
    return f"{made:%H:%M:%S}" if made.date() == now.date() else f"{made:%Y-%m-%d %H:%M:%S}"


def task_list(tasks: Sequence[task_pb2.Task], *, header: bool = True) -> Rows:
    """Make a table of tasks, one in a row."""
    made = Rows("ID", "STATE", "WHERE", "SIZE", "AGE", "ATTEMPTS", "WHY", right=_NUMBERS, fold=("WHERE", "WHY"))
    made.show_header = header
    now = datetime.now(UTC)
    for task in tasks:
        made.add_row(
            task.id,
            state(task),
            escape(where(task)),
            format_size(task.payload.size) if task.HasField("payload") else "",
            _ago(task.create_time, now=now) if task.HasField("create_time") else "",
            str(task.attempt),
            escape(why(task, now=now)),
        )
    return made


def task_detail(task: task_pb2.Task, *, progress: task_pb2.Progress | None = None) -> RenderableType:
    """Make a table of all that a task has, one field in a row; unset fields are left out.

    `progress` is the progress of the running attempt. None means that it is not known.
    """
    from rich.table import Table

    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")

    def add(name: str, value: object) -> None:
        if value not in ("", None, 0):
            made.add_row(name, escape(str(value)))

    add("id", task.id)
    made.add_row("state", f"{state(task)} (revision {task.revision})")
    add("why", why(task))
    if task.state == task_pb2.TASK_STATE_CANCELLED and task.error.reason not in {"", *_CANCELS}:
        add("met before", error(task))
    add("progress", "" if progress is None else progress_line(progress, task))
    add("description", task.description)
    add("where", where(task))
    add("kind", task.kind)
    add("key", task.job.key)
    add("on pending", "takes the place of earlier ones" if task.job.on_pending == task_pb2.ON_PENDING_SUPERSEDE else "")
    add("access", "exclusive" if task.job.access == task_pb2.ACCESS_EXCLUSIVE else "")
    if task.HasField("job") and task.job.HasField("arguments"):
        add("arguments", in_one_line(task.job.arguments))
    if task.HasField("result"):
        add("result", in_one_line(task.result))
    if task.HasField("payload"):
        add("payload", f"{format_size(task.payload.size)}, id {task.payload.id}, CRC32C {task.payload.crc32c:08x}")
        add("sha256", task.payload.sha256.hex())
    if task.HasField("file_push"):
        add("attributes", _attributes(task.file_push))
    add("delivered by", _METHODS.get(task.delivery_method, ""))
    add("queue", f"{task.queue}, priority {task.priority}")
    add("labels", " ".join(f"{key}={value}" for key, value in sorted(task.labels.items())))
    add("creator", task.creator)
    add("request id", task.request_id)
    add("after", " ".join(task.after) + (" (any end)" if task.after_any_end else ""))
    add("superseded by", task.superseded_by)
    add("retry of", task.retry_of)
    add("retried by", task.retried_by)
    add("attempts", _attempts(task))
    add("worker", task.worker)
    for name, moment in (
        ("accepted", task.create_time),
        ("due", task.due_time),
        ("started", task.start_time),
        ("finished", task.finish_time),
        ("expires", task.expire_time),
        ("retryable until", task.retryable_until),
    ):
        add(name, _local(moment) if moment.seconds else "")
    for name, limit in (("run time-out", task.run_timeout), ("stall time-out", task.stall_timeout)):
        add(name, format_duration(seconds(limit)) if seconds(limit) else "")
    return made


def batch(found: task_service_pb2.Batch) -> Group:
    """Write what became of the tasks of a request: the verdict, how many are in which state, and the first failures."""
    verdict = task_service_pb2.BatchVerdict.Name(found.verdict).removeprefix("BATCH_VERDICT_").lower()
    counts = ", ".join(f"{found.states[name]} {name.lower()}" for name in _STATES_IN_ORDER if found.states.get(name))
    tasks = "1 task" if found.total == 1 else f"{found.total} tasks"
    return Group(f"{verdict}: {tasks}: {counts}", *(f"  {line(task)}" for task in found.failures))


def progress_line(progress: task_pb2.Progress, task: task_pb2.Task) -> str:
    """`12 of 40 (30 %)`; of a payload in bytes."""

    def amount(number: int) -> str:
        return format_size(number) if task.HasField("file_push") else str(number)

    if not progress.total:
        return amount(progress.done)
    return f"{amount(progress.done)} of {amount(progress.total)} ({progress.done * 100 // progress.total} %)"


def _attempts(task: task_pb2.Task) -> str:
    """Say how many attempts a task had, and how many tries: an error that may pass costs a try, a lost worker none."""
    if not task.attempt:
        return ""
    told = [f"{task.tries} of {task.attempt_limit} tries used"] if task.tries else []
    if task.crashes:
        told.append(f"{task.crashes} lost {'its' if task.crashes == 1 else 'their'} worker and cost no try")
    return f"{task.attempt} ({', '.join(told)})" if told else str(task.attempt)


def _attributes(push: task_pb2.FilePush) -> str:
    said = []
    if push.HasField("mode"):
        said.append(f"mode {push.mode:04o}")
    elif push.HasField("mode_if_new"):
        said.append(f"mode {push.mode_if_new:04o} if new")
    if push.HasField("uid"):
        said.append(f"uid {push.uid}")
    if push.HasField("gid"):
        said.append(f"gid {push.gid}")
    said += ["creates parents"] if push.create_parents else []
    if push.HasField("parents_mode"):
        said.append(f"parents {push.parents_mode:04o}")
    said += ["in place"] if push.in_place else []
    said += ["read back"] if push.read_back else []
    said += ["takes the place of earlier ones"] if push.on_pending == task_pb2.ON_PENDING_SUPERSEDE else []
    said += ["must not exist"] if push.if_exists == task_pb2.IF_EXISTS_FAIL else []
    return ", ".join(said)


def attempt_list(attempts: Sequence[task_pb2.Attempt]) -> Rows:
    """Make a table of attempts, one in a row."""
    made = Rows(
        "NO", "OUTCOME", "WORKER", "STARTED", "TOOK", "WHAT IT MET", right=("NO", "TOOK"), fold=("WHAT IT MET",)
    )
    for each in attempts:
        ended = each.HasField("end_time")
        took = _instant(each.end_time) - _instant(each.start_time) if ended else 0.0
        notes = ["settling"] if each.settling else []
        notes += ["alone"] if each.alone else []
        if each.error.reason:
            notes.append(f"{each.error.message.rstrip('.')} ({each.error.reason})")
        made.add_row(
            str(each.number),
            each.outcome.lower() or "running",
            escape(each.worker),
            _local(each.start_time) if each.HasField("start_time") else "",
            format_duration(took) if ended else "",
            escape("; ".join(notes)),
        )
    return made


def worker_list(workers: Sequence[admin_service_pb2.Worker]) -> Rows:
    """Make a table of the workers, one process in a row."""
    columns = ("SESSION", "NAME", "STATE", "HOLDS", "TARGETS", "KINDS", "UP", "VERSION")
    made = Rows(*columns, right=("HOLDS", "UP"), fold=("TARGETS", "KINDS"))
    now = datetime.now(UTC)
    for each in workers:
        up_to = now
        standing = "[green]connected[/]" if each.connected else "[yellow]away[/]"
        if each.HasField("end_time"):
            how = _ENDS.get(each.end, "ended")
            standing = f"[red]{how}[/] {_ago(each.end_time, now=now)} ago"
            up_to = each.end_time.ToDatetime(tzinfo=UTC)
        elif each.problems:
            standing += f", cannot use {escape(', '.join(one.target for one in each.problems))}"
        made.add_row(
            escape(each.session_id),
            escape(each.name),
            f"{standing}, draining" if each.draining else standing,
            f"{each.held} of {each.credits}",
            escape(", ".join(each.targets)),
            escape(", ".join(each.kinds)),
            _ago(each.start_time, now=up_to),
            escape(each.version),
        )
    return made


def stats(figures: admin_service_pb2.GetStatsResponse) -> Iterable[RenderableType]:
    """Write queues, targets, spool, and what is wrong."""
    if figures.HasField("restored"):
        yield _restored(figures.restored)
        yield ""
    names = [STATE_NAMES[value] for value in sorted(STATE_NAMES) if value < task_pb2.TASK_STATE_SUCCEEDED]
    counts = [name.upper() for name in names]
    queues = Rows("QUEUE", *counts, "OLDEST", "LIMIT", right=[*counts, "OLDEST", "LIMIT"], fold=("QUEUE",))
    for queue in figures.queues:
        live = {key.removeprefix("TASK_STATE_").lower(): count for key, count in queue.live.items()}
        oldest = format_duration(seconds(queue.oldest_queued)) if queue.HasField("oldest_queued") else "-"
        title = f"{escape(queue.queue)} [yellow](paused)[/]" if queue.paused else escape(queue.queue)
        queues.add_row(title, *(str(live.get(name, 0)) for name in names), oldest, str(queue.limit or "-"))
    yield queues if figures.queues else "no queue holds a task"
    if figures.targets:
        yield ""
        numbers = ("WORKERS", "QUEUED", "RUNNING", "PARKED", "DEBTS")
        targets = Rows("TARGET", *numbers, "PROBLEM", right=numbers, fold=("PROBLEM",))
        for each in figures.targets:
            figures_of = (each.workers, each.queued, each.running, each.parked, each.debts)
            targets.add_row(escape(each.target), *map(str, figures_of), f"[red]{escape(_problem(each))}[/]")
        yield targets
        if any(each.parked or each.debts for each in figures.targets):
            yield (
                "[dim]PARKED: tasks that wait until their instance is there or runs. DEBTS: temporary files of lost "
                "attempts; the next worker that reaches their instance removes them."
            )
    yield ""
    limit = f" of {format_size(figures.spool_limit)}" if figures.spool_limit else " (bounded by the disk)"
    most = f" of {figures.upload_limit}" if figures.upload_limit else ""
    finished = {key.removeprefix("TASK_STATE_").lower(): count for key, count in sorted(figures.finished.items())}
    done = ", ".join(f"{count} {name}" for name, count in finished.items() if count) or "none"
    spool, uploads = f"{format_size(figures.spool_bytes)}{limit}", f"{figures.uploads}{most}"
    yield f"spool {spool} · {uploads} uploads · {figures.watches} watches"
    yield f"finished since the server started: {done}"
    if figures.omitted:
        yield f"[yellow]{figures.omitted} more rows are left out: the answer would be too large[/]"
    if figures.unserved_kinds:
        yield f"[red]no worker runs: {escape(', '.join(figures.unserved_kinds))}[/]"
    yield f"server {escape(figures.version)}"
    if figures.servers:
        yield ""
        servers = Rows("SERVER", "VERSION", "SEEN", "SPOOL", "FILES", "PROBLEM", right=("FILES",), fold=("PROBLEM",))
        for server in figures.servers:
            seen = f"{format_duration(seconds(server.unseen))} ago" if server.HasField("unseen") else "-"
            seen = seen if server.alive else f"[red]{seen}[/]"
            name, problem = escape(server.address or "-"), f"[red]{escape(server.problem)}[/]"
            servers.add_row(name, escape(server.version), seen, server.spool[:8], str(server.files), problem)
        yield servers


def _restored(restored: admin_service_pb2.Restored) -> str:
    lost = f"what was accepted after {_local(restored.data_time)} is lost; " if restored.HasField("data_time") else ""
    tasks = "1 live task" if restored.live_tasks == 1 else f"{restored.live_tasks} live tasks"
    noticed = _local(restored.notice_time)
    return f"[bold red]restored, as noticed {noticed}: {lost}{tasks} would run again[/]\n{escape(restored.advice)}"


def _problem(target: admin_service_pb2.TargetStats) -> str:
    """Say which problem a target has, since when, and which worker served it last."""
    said = target.problem
    if target.HasField("last_served"):
        ago = _ago(target.last_served, now=datetime.now(UTC))
        return f"{said}: last seen {target.last_worker}, {ago} ago"
    if said and target.HasField("problem_since"):
        # The reason stands last, in brackets.
        text, bracket, reason = said.rpartition(" (")
        since = f", since {_time(target.problem_since)}"
        said = f"{text}{since}{bracket}{reason}" if bracket and said.endswith(")") else said + since
    return said


def _time(value: Timestamp) -> str:
    """Write the time of day, with the date unless that is today."""
    moment = value.ToDatetime(tzinfo=UTC).astimezone()
    today = moment.date() == datetime.now().astimezone().date()
    return f"{moment:%H:%M:%S}" if today else f"{moment:%Y-%m-%d %H:%M:%S}"


def seconds(value: Duration) -> float:
    """Return a duration in seconds."""
    return value.seconds + value.nanos / 1e9


def _instant(value: Timestamp) -> float:
    return value.seconds + value.nanos / 1e9


def _local(value: Timestamp) -> str:
    return f"{value.ToDatetime(tzinfo=UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def _ago(value: Timestamp, *, now: datetime) -> str:
    return format_duration(max((now - value.ToDatetime(tzinfo=UTC)).total_seconds(), 0.0))


def _seconds_until(value: Timestamp, *, now: datetime | None) -> float:
    return (value.ToDatetime(tzinfo=UTC) - (now or datetime.now(UTC))).total_seconds()
