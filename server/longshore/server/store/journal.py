"""What a transaction writes beside the tasks: events, attempts, debts, and what ends mean for requests and payloads.

Collected while commands are decided, written with one statement for each kind of row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from longshore.server.model.events import Claimed, Decision, Event, GrantAsked
from longshore.server.model.task import FilePush, Status, Submission
from longshore.server.model.values import State
from longshore.server.store import codec
from longshore.server.store.link import Link, changing, inserting
from longshore.server.store.schema import attempts, debts, events, payloads, requests

_INSERT_EVENT: Final = inserting(events)
_INSERT_ATTEMPT: Final = inserting(attempts, "seq", "number", "worker", "session_id", "started_at", "settling", "alone")
_ATTEMPT: Final = {"task": sa.BigInteger, "number": sa.Integer, "at": sa.Double}
_GRANT_ATTEMPT: Final = changing(
    lambda given: (
        attempts.update()
        .where(attempts.c.seq == given["task"], attempts.c.number == given["number"])
        .values(granted_at=given["at"])
    ),
    _ATTEMPT,
)
_END_ATTEMPT: Final = changing(
    lambda given: (
        attempts.update()
        .where(attempts.c.seq == given["task"], attempts.c.number == given["number"])
        .values(ended_at=given["at"], ending=given["how"], error=given["why"])
    ),
    {**_ATTEMPT, "how": sa.Text, "why": sa.Text},
)
_INSERT_DEBT: Final = inserting(debts, missing=True)
_REQUEST_ENDED: Final = changing(
    lambda given: (
        requests.update()
        .where(requests.c.request_id == given["of_request"], requests.c.principal == given["by"])
        .values(live=requests.c.live - given["ended"], ended_at=given["at"])
    ),
    {"of_request": sa.Text, "by": sa.Text, "ended": sa.Integer, "at": sa.Double},
)
_PAYLOAD_USE: Final = changing(
    lambda given: (
        payloads.update()
        .where(payloads.c.id == given["of_id"])
        .values(
            live=payloads.c.live + given["more"],
            keep_until=sa.case((payloads.c.keep_until < given["until"], given["until"]), else_=payloads.c.keep_until),
        )
    ),
    {"of_id": sa.Text, "more": sa.Integer, "until": sa.Double},
)


class Journal:
    """The collected rows of one transaction."""

    def __init__(self, *, link: Link, now: Callable[[], float]) -> None:
        self._link = link
        self._now = now
        self._events: list[dict[str, Any]] = []
        self._attempts: list[dict[str, Any]] = []
        self._grants: list[dict[str, Any]] = []
        self._endings: dict[tuple[int, int], dict[str, Any]] = {}
        """By task and number: who was given up may be heard of in the same transaction, and the last word counts."""
        self._debts: list[dict[str, Any]] = []
        self._requests_ended: dict[tuple[str, str], int] = {}
        self._payload_uses: dict[str, tuple[int, float]] = {}
        self.owes = False
        """A debt was made."""

    def record(self, order: Submission, status: Status) -> None:
        """A new revision."""
        self._events.append({"seq": order.seq, "revision": status.revision, "status": codec.encode_status(status)})

    def decided(self, order: Submission, event: Event, decision: Decision) -> None:
        """What a decision means for the task's attempts and for its target."""
        after = decision.status
        if isinstance(event, Claimed):
            self._attempts.append(
                {
                    "seq": order.seq,
                    "number": after.attempt,
                    "worker": event.worker,
                    "session_id": event.session_id,
                    "started_at": self._now(),
                    "settling": after.state is State.SETTLING,
                    "alone": after.alone and after.state is not State.SETTLING,
                }
            )
        elif isinstance(event, GrantAsked):
            self._grants.append({"task": order.seq, "number": after.attempt, "at": self._now()})
        for ending in decision.endings:
            why = None if ending.error is None else codec.encode_failure(ending.error)
            self._endings[order.seq, ending.attempt] = {
                "task": order.seq,
                "number": ending.attempt,
                "at": self._now(),
                "how": ending.end.value,
                "why": why,
            }
        if decision.debts and isinstance(order.work, FilePush):
            place = order.work.destination
            for attempt, temp in decision.debts:
                self.owes = True
                self._debts.append(
                    {
                        "id": f"{order.id}-{attempt}",
                        "target": place.target,
                        "project": place.project,
                        "instance": place.instance,
                        "path": place.path,
                        "task_id": order.id,
                        "attempt": attempt,
                        "temp": temp,
                        "due_at": self._now(),
                        "asked": 0,
                    }
                )

    def made(self, order: Submission) -> None:
        """A new task needs its payload."""
        if order.payload is not None:
            self._use_payload(order.payload.id, 1, 0.0)

    def ended(self, order: Submission, after: Status) -> None:
        """A task needs its payload no more, unless for a retry."""
        key = (order.request_id, order.creator)
        self._requests_ended[key] = self._requests_ended.get(key, 0) + 1
        if order.payload is not None:
            self._use_payload(order.payload.id, -1, after.retryable_until or 0.0)

    def _use_payload(self, payload_id: str, more: int, until: float) -> None:
        used, kept = self._payload_uses.get(payload_id, (0, 0.0))
        self._payload_uses[payload_id] = (used + more, max(kept, until))

    def flush(self) -> None:
        """Write what was collected. The tasks are there already."""
        for what, rows in (
            (_INSERT_EVENT, self._events),
            (_INSERT_ATTEMPT, self._attempts),
            (_GRANT_ATTEMPT, self._grants),
            (_END_ATTEMPT, list(self._endings.values())),
            (_INSERT_DEBT, self._debts),
        ):
            if rows:
                self._link.write(what, rows)
                rows.clear()
        self._endings.clear()
        if self._requests_ended:
            self._link.write(
                _REQUEST_ENDED,
                [
                    {"of_request": request_id, "by": principal, "ended": ended, "at": self._now()}
                    for (request_id, principal), ended in sorted(self._requests_ended.items())
                ],
            )
            self._requests_ended.clear()
        if self._payload_uses:
            self._link.write(
                _PAYLOAD_USE,
                [
                    {"of_id": payload_id, "more": more, "until": until}
                    for payload_id, (more, until) in sorted(self._payload_uses.items())
                ],
            )
            self._payload_uses.clear()
