"""This module says why a live task does not run. It asks the conditions of a claim one after the other for a single
task.

The claim itself (`store/handlers/order/claims.py`) asks the same of many tasks at once, with statements. A test holds
the two together: a task that a claim takes is NEXT here, and one that no claim takes never is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from longshore.program.durations import format_span
from longshore.server.model.remarks import Served
from longshore.server.model.sharing import Shares
from longshore.server.model.task import BUILT_IN, Task, concurrency_key_of
from longshore.server.model.values import WAITING, State, WaitReason

DEFAULT: Final = "default"
"""The target of destinations that name none. Nobody mistakes this name for an instance, so no hint is given for it."""
_ROOTS: Final = frozenset(
    {
        "bin",
        "boot",
        "dev",
        "etc",
        "home",
        "lib",
        "lib64",
        "media",
        "mnt",
        "opt",
        "proc",
        "root",
        "run",
        "sbin",
        "snap",
        "srv",
        "sys",
        "tmp",
        "usr",
        "var",
    }
)
"""Folders at the root of an instance's files, which few instances are named after."""


class Hindrance(Enum):
    """The reason why a session takes nothing, however much room it has."""

    NONE = "none"
    AWAY = "away"
    """The session's connection is gone; its lease is not over."""
    LEAVING = "leaving"
    """The session drains, or says goodbye."""
    ALONE = "alone"
    """An attempt runs alone on the session's worker."""
    EMPTYING = "emptying"
    """The session finishes what it holds, so that a task can run alone on its worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """A crew is one living session, as claims see it. `kinds` maps a kind to "its handler can settle"; `kept_for` are
    targets of which the session holds nothing."""

    targets: frozenset[str]
    kinds: Mapping[str, bool]
    room: int
    """Attempts that the session could take now."""
    revision: int = 0
    """The revision of the contract that its worker knows."""
    kept_for: frozenset[str] = frozenset()
    held: int = 0
    hindrance: Hindrance = Hindrance.NONE

    @property
    def idle(self) -> bool:
        """Return whether the session holds nothing and could take something."""
        return not self.held and self.room > 0

    def has_room(self, target: str) -> bool:
        """Return whether the session could take an attempt of the target now."""
        return self.room > 0 and Shares(room=self.room, kept_for=self.kept_for).of(target) > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExclusiveTasks:
    """The exclusive tasks of an instance that keep others from running."""

    running: str = ""
    """The id of the exclusive task that runs, or whose outcome is not known. Empty means that there is none."""
    first: str = ""
    """The id of the earliest one that is offered. Empty means that none is."""
    first_seq: int = 0
    first_ready: bool = False
    """Whether nothing else of the instance comes before that one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The facts that decide about claims, at one moment. Limits are attempts at once; times are wall-clock seconds."""

    now: float
    crews: Sequence[Crew]
    paused: frozenset[str]
    """Queues that are paused."""
    on_target: Mapping[str, int]
    """Attempts that run on each target where one does."""
    instance_limit: int
    target_limit: int
    served: Mapping[str, Served]
    """Targets that a session has stopped to serve."""
    exclusive: Mapping[str, ExclusiveTasks] = field(default_factory=dict)
    """Instances with exclusive tasks, by concurrency key."""
    _serving: dict[tuple[str, str], tuple[bool, list[Crew]]] = field(default_factory=dict, repr=False, compare=False)

    def serving(self, target: str, kind: str) -> tuple[bool, list[Crew]]:
        """Say whether a session serves the target, and which sessions serve it and run the kind. The answer is found
        once and kept: a page has a thousand tasks, and a fleet hundreds of sessions."""
        found = self._serving.get((target, kind))
        if found is None:
            there = [crew for crew in self.crews if not target or target in crew.targets]
            found = bool(there), [crew for crew in there if kind in crew.kinds]
            self._serving[target, kind] = found
        return found


@dataclass(frozen=True, slots=True)
class Waiting:
    """The wait reason of a task: `reason` for programs, and `detail`, a sentence, for people."""

    reason: WaitReason
    detail: str


def why(task: Task, view: View, *, beside: int | None) -> Waiting | None:
    """Say why the task waits. None means that the task runs or is done.

    `beside` counts the attempts that run on its instance; None means that the count is not known, and is taken as 0.
    """
    status = task.status
    match status.state:
        case State.QUEUED:
            return _queued(task, view, beside or 0)
        case State.SETTLING:
            return _settling(task, view)
        case State.BLOCKED if status.unmet:
            tasks = "a task that is" if status.unmet == 1 else f"{status.unmet} tasks that are"
            return Waiting(WaitReason.AFTER, f"it comes after {tasks} not finished" + _also(task, view))
        case State.BLOCKED:
            what = "task for the same destination" if task.submission.destination else "job with the same key"
            said = f"an earlier {what} comes first"
            return Waiting(WaitReason.EARLIER_TASK, said + _also(task, view))
        case State.SCHEDULED:
            return Waiting(status.wait_reason, _scheduled(task, view) + _also(task, view))
        case _:
            assert status.state not in WAITING
            return None


def _queued(task: Task, view: View, beside: int) -> Waiting:
    target, kind, alone = task.submission.target, task.submission.kind, task.status.alone
    there, serving = view.serving(target, kind)
    if target and not there:
        return Waiting(WaitReason.NO_WORKER, _no_worker(task, view))
    if not serving:
        where = f" on target `{target}`" if target else ""
        return Waiting(WaitReason.NO_HANDLER, f"no worker runs `{kind}`{where}")
    serving = [crew for crew in serving if crew.revision >= task.submission.work.needs_revision]
    if not serving:
        return Waiting(
            WaitReason.OLD_WORKERS, "the workers that serve it are older than what it asks of them: upgrade one"
        )
    if task.submission.terms.queue in view.paused:
        return Waiting(WaitReason.QUEUE_PAUSED, f"queue {task.submission.terms.queue} is paused")
    if target and view.on_target.get(target, 0) >= view.target_limit:
        return Waiting(
            WaitReason.TARGET_LIMIT, f"{_tasks(view.target_limit)} on target `{target}`, and no more may at once"
        )
    barred = _barred(task, view)
    if barred:
        return Waiting(WaitReason.EXCLUSIVE, barred)
    if task.submission.work.instance and beside >= view.instance_limit:
        return Waiting(
            WaitReason.INSTANCE_LIMIT,
            f"{_tasks(view.instance_limit)} on instance {task.submission.work.instance}, and no more may at once",
        )
    if alone:
        if not any(crew.idle for crew in serving):
            return Waiting(
                WaitReason.NO_IDLE_WORKER,
                "an attempt lost its worker, so that the next one runs alone: no worker is idle yet",
            )
    elif not any(crew.has_room(target) for crew in serving):
        return Waiting(WaitReason.NO_CREDIT, _busy(serving))
    return Waiting(WaitReason.NEXT, "it is next")


def _barred(task: Task, view: View) -> str:
    """Say which exclusive task keeps the task from running, or what an exclusive task waits for. An empty text means
    that nothing does."""
    work = task.submission.work
    known = view.exclusive.get(concurrency_key_of(work)) if view.exclusive else None
    if known is None:
        return ""
    if known.running:
        return f"nothing of instance {work.instance} runs beside the exclusive task {known.running}"
    if known.first == task.id:
        waits = f"it runs alone on instance {work.instance}: tasks that run there, or were accepted earlier, come first"
        return "" if known.first_ready else waits
    if known.first and known.first_seq < task.submission.seq:
        return f"the exclusive task {known.first} of instance {work.instance} was accepted earlier"
    return ""


def _settling(task: Task, view: View) -> Waiting:
    status = task.status
    if status.session_id:
        return Waiting(WaitReason.SETTLING, f"{status.worker} finds out whether its lost attempt put the file in place")
    said = "its worker was lost at the last step: another one finds out whether that happened"
    target, kind = task.submission.target, task.submission.kind
    settles = any(kind in BUILT_IN or crew.kinds[kind] for crew in view.serving(target, kind)[1])
    if not settles:
        where = f"serves target `{target}`" if target else f"can settle `{kind}`"
        return Waiting(WaitReason.SETTLING, f"{said}; no worker {where}")
    if status.due_at is not None and status.due_at > view.now:
        return Waiting(WaitReason.SETTLING, f"{said}, in {format_span(status.due_at - view.now)}")
    return Waiting(WaitReason.SETTLING, said)


def _scheduled(task: Task, view: View) -> str:
    status, instance = task.status, task.submission.work.instance
    due = "" if status.due_at is None else f", in {format_span(max(status.due_at - view.now, 0.0))}"
    match status.wait_reason:
        case WaitReason.NOT_BEFORE:
            return f"its time has not come{due}"
        case WaitReason.INSTANCE_STOPPED:
            return f"instance {instance} does not run: the task goes on as soon as it does"
        case WaitReason.INSTANCE_ABSENT:
            return f"there is no instance {instance}: the task goes on as soon as there is"
        case _:
            return f"it is tried again{due}"


def _no_worker(task: Task, view: View) -> str:
    target, destination = task.submission.target, task.submission.destination
    said = f"no worker serves target `{target}`"
    last = view.served.get(target)
    if last is not None:
        return f"{said}: the last one ended {format_span(max(view.now - last.until, 0.0))} ago"
    # scp writes `web:etc/motd` for the destination `web/etc/motd`. Read as a destination, the instance is then named
    # like a folder. `nowhere:web/etc/motd` does mean a target. The name of a target that was served is right.
    if target != DEFAULT and destination is not None and destination.instance in _ROOTS:
        said += f"; did you mean {target}/{destination.instance}{destination.path}?"
    elif not view.crews:
        said += ": none is connected"
    return said


def _also(task: Task, view: View) -> str:
    """Add to the detail of a task that waits for something else that no worker serves its target either."""
    target = task.submission.target
    if not target or view.serving(target, task.submission.kind)[0]:
        return ""
    return f"; {_no_worker(task, view)}"


def _busy(serving: Sequence[Crew]) -> str:
    count, held = len(serving), sum(crew.held for crew in serving)
    hindrances = {crew.hindrance for crew in serving}
    workers = "the worker that serves it" if count == 1 else f"the {count} workers that serve it"
    are = "is" if count == 1 else "are"
    if hindrances == {Hindrance.AWAY}:
        return f"{workers} {'has' if count == 1 else 'have'} lost the connection to the servers"
    if hindrances == {Hindrance.LEAVING}:
        return f"{workers} {are} leaving"
    tasks = "1 task" if held == 1 else f"{held} tasks"
    return f"{workers} {are} busy with {tasks}" if held else f"{workers} {are} busy, away or leaving"


def _tasks(count: int) -> str:
    return "1 task runs" if count == 1 else f"{count} tasks run"
