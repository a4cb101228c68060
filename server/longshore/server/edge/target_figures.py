"""Figures of targets say which workers serve them, which tasks wait there, and what is wrong with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from longshore.server.edge.messages import translate
from longshore.server.engine.target_attempts import Recent, TargetAttempts
from longshore.server.model.remarks import Problem, Served
from longshore.server.model.task import Session
from longshore.server.store.protocol import Figures, TargetFigures
from longshore.v1 import admin_service_pb2 as pb

REMEMBERED: Final = 3600.0
"""Seconds for which a target or a worker that is gone is shown in any case."""

_PHRASES: Final = {
    "TARGET_BUSY": "is busy",
    "TARGET_FORBIDDEN": "lets nobody in",
    "TARGET_PROTOCOL": "breaks the protocol",
    "TARGET_TIMEOUT": "times out",
    "TARGET_UNREACHABLE": "cannot be reached",
}


def target_stats(
    figures: Figures,
    sessions: Sequence[Session],
    *,
    problems: Mapping[str, Mapping[str, Problem]],
    served: Sequence[Served],
    attempts: TargetAttempts,
    now: float,
) -> list[pb.TargetStats]:
    """Make the figures of targets with tasks, debts, workers or failures, and of those that were served and are not
    forgotten yet. `problems` is by session and target."""
    rows = {one.target: one for one in figures.targets if one.target}
    serving: dict[str, list[Session]] = defaultdict(list)
    for session in sessions:
        for name in session.targets:
            serving[name].append(session)
    gone = {one.target: one for one in served if one.target not in serving}
    kept = [one.target for one in gone.values() if one.named or one.until >= now - REMEMBERED]
    for name in (*serving, *kept, *attempts.targets()):
        rows.setdefault(name, TargetFigures(name, 0, 0, 0, 0))
    return [
        _row(one, serving.get(name, ()), gone.get(name), attempts.of(name), problems)
        for name, one in sorted(rows.items())
    ]


def _row(
    figures: TargetFigures,
    serving: Sequence[Session],
    last: Served | None,
    recent: Recent,
    problems: Mapping[str, Mapping[str, Problem]],
) -> pb.TargetStats:
    said, since = _problem(figures.target, serving, last, recent, problems)
    row = pb.TargetStats(
        target=figures.target,
        workers=len(serving),
        queued=figures.queued,
        running=figures.running,
        parked=figures.parked,
        debts=figures.debts,
        problem=said,
        recent_failures=recent.failures,
        recent_attempts=recent.attempts,
    )
    if since is not None:
        row.problem_since.CopyFrom(translate.timestamp(since))
    if last is not None:
        row.last_worker = last.worker
        row.last_served.CopyFrom(translate.timestamp(last.until))
    return row


def _problem(
    target: str,
    serving: Sequence[Session],
    last: Served | None,
    recent: Recent,
    problems: Mapping[str, Mapping[str, Problem]],
) -> tuple[str, float | None]:
    """Say what is wrong with a target, and since when. The worst comes first: nobody serves it, attempts on it fail,
    workers cannot use it."""
    if not serving:
        return "no worker serves this target", None if last is None else last.until
    if recent.reason:
        what = _PHRASES.get(recent.reason, "fails")
        count = (
            f"{recent.failures} of the last {recent.attempts} attempts" if recent.attempts > 1 else "the last attempt"
        )
        return f"{what}: {count} ({recent.reason})", recent.since
    known = [
        (problem.since, session.worker, problem)
        for session in serving
        if (problem := problems.get(session.id, {}).get(target)) is not None
    ]
    if not known:
        return "", None
    since, worker, problem = min(known, key=lambda one: one[:2])
    who = worker if len(serving) == 1 else f"{len(known)} of {len(serving)} workers ({worker})"
    return f"{who} cannot use it: {problem.message.rstrip('.')} ({problem.reason})", since
