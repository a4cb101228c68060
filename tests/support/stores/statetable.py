"""The state table of DESIGN §5, transcribed once more and read by nothing but tests.

Rows are events, columns are states. `x` refused, `-` no change, `quiet` known but no revision, `noted` that the task
has followers, `count` one dependency less, both without a revision, `flag` the same state with the cancel noted, `same`
the same answer as before; `†` CANCELLED instead where a cancel was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from longshore.server.model.values import State

_TEXT: Final = """
event       | BLOCKED   | SCHEDULED      | QUEUED    | RUNNING     | COMMITTING  | CANCELLING  | SETTLING       | ended
head        | QUEUED/-  | quiet/-        | -         | -           | -           | -           | -              | -
followed    | noted     | noted          | noted     | noted       | noted       | noted       | noted          | -
met         | count     | count          | -         | -           | -           | -           | -              | -
failed      | CANCELLED | CANCELLED      | -         | -           | -           | -           | -              | -
due         | -         | QUEUED/BLOCKED | -         | -           | -           | -           | -              | -
claim       | x         | x              | RUNNING   | x           | x           | x           | SETTLING       | x
begin       | x         | x              | x         | RUNNING/-   | same        | x           | x              | x
grant       | x         | x              | x         | COMMITTING  | same        | x           | x              | x
ok          | x         | x              | x         | SUCCEEDED/x | SUCCEEDED   | SUCCEEDED/x | SUCCEEDED      | again
transient   | x         | x              | x         | SCHEDULED   | SCHEDULED † | CANCELLED   | SCHEDULED †    | x
permanent   | x         | x              | x         | FAILED      | FAILED †    | CANCELLED   | FAILED †       | x
not_ready   | x         | x              | x         | SCHEDULED   | SCHEDULED † | CANCELLED   | SCHEDULED †    | x
handed_back | x         | x              | x         | QUEUED      | QUEUED †    | CANCELLED   | QUEUED †       | x
lost        | -         | -              | -         | QUEUED      | SETTLING    | CANCELLED   | SETTLING       | -
timed_out   | -         | -              | -         | SCHEDULED   | SETTLING    | CANCELLED   | SETTLING       | -
cancel      | CANCELLED | CANCELLED      | CANCELLED | CANCELLING  | flag        | -           | flag           | -
superseded  | CANCELLED | CANCELLED      | CANCELLED | CANCELLING  | flag        | -           | flag           | -
expiry      | EXPIRED   | EXPIRED        | EXPIRED   | -           | -           | -           | -              | -
removed     | x         | x              | x         | x           | x           | x           | QUEUED †       | x
landed      | x         | x              | x         | x           | x           | x           | SUCCEEDED      | x
neither     | x         | x              | x         | x           | x           | x           | QUEUED/UNKNOWN | x
"""

Event = Literal[
    "head", "followed", "met", "failed", "due", "claim", "begin", "grant", "ok", "transient", "permanent", "not_ready",
    "handed_back", "lost",
    "timed_out", "cancel", "superseded", "expiry", "removed", "landed", "neither",
]  # fmt: skip
Nothing = Literal["x", "-", "quiet", "noted", "count", "flag", "same"]


def _read(text: str) -> dict[str, dict[str, str]]:
    head, *rows = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


TABLE: Final = _read(_TEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A cell of the table depends on these facts besides state and event.

    `last_try`: this transient error is one too many; `last_crash`: as is this crash; `overdue`: `expires_at` is over;
    `begun`: the attempt does not run alone, or is on record as begun.
    """

    state: State
    head: bool = True
    must_commit: bool = True
    cancelled: bool = False
    last_try: bool = False
    last_crash: bool = False
    overdue: bool = False
    begun: bool = True
    unmet: int = 0
    """Dependencies that have not ended."""
    won: bool = False
    """Terminal, and the very attempt that reports now had succeeded."""


def expected(event: Event, facts: Facts) -> State | Nothing:
    """Look a cell up: the table has the state afterwards, or says that nothing changes and why."""
    cell = TABLE[event]["ended" if facts.state.terminal else facts.state.name]
    match cell:
        case "QUEUED/-" | "quiet/-" if facts.unmet:
            return "-"
        case "quiet/-":
            return "quiet"
        case "x" | "-" | "noted" | "same":
            return cell
        case "count":
            return "count" if facts.unmet else "-"
        case "CANCELLED" if event == "failed" and not facts.unmet:
            return "-"
        case "flag":
            return "-" if facts.cancelled else "flag"
        case "again":
            return "-" if facts.won else "x"
        case "RUNNING/-":
            return "-" if facts.begun else State.RUNNING
        case "SUCCEEDED/x":
            return "x" if facts.must_commit else State.SUCCEEDED
        case "QUEUED/BLOCKED":
            return State.QUEUED if facts.head else State.BLOCKED
        case "QUEUED/UNKNOWN":
            if facts.cancelled:
                return State.FAILED
    state = State[cell.split("/", maxsplit=1)[0].removesuffix(" †")]
    if event in ("transient", "timed_out") and state is State.SCHEDULED and facts.last_try:
        state = State.FAILED
    if event == "lost" and state is State.QUEUED and facts.last_crash:
        state = State.FAILED
    if event in ("removed", "neither") and state is State.QUEUED and facts.last_crash:
        state = State.FAILED
    if facts.cancelled and ("†" in cell or facts.state is State.RUNNING):
        return State.CANCELLED
    falls_back = facts.state in (State.RUNNING, State.COMMITTING, State.SETTLING)
    if falls_back and state in (State.QUEUED, State.SCHEDULED) and facts.overdue:
        return State.EXPIRED
    return state
