"""Remarks of workers about themselves, and what is remembered of workers that are gone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from longshore.server.model.task import Session
from longshore.server.model.values import SessionEnd


@dataclass(frozen=True, slots=True)
class Problem:
    """A worker cannot use a target. `reason` is for programs, `message` for people; `since` in wall-clock seconds."""

    reason: str
    message: str
    since: float


@dataclass(frozen=True, slots=True)
class Remark:
    """A remark of a session about itself. `credits` None means that it has not said; `problems` has the targets that it
    cannot use."""

    credits: int | None = None
    problems: Mapping[str, Problem] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EndedSession:
    """A session that is over: when, in wall-clock seconds, and how."""

    session: Session
    at: float
    end: SessionEnd


@dataclass(frozen=True, slots=True)
class Served:
    """The session that was the last to stop serving a target, and when. `named` says that live tasks name the
    target."""

    target: str
    session_id: str
    worker: str
    until: float
    named: bool = False
