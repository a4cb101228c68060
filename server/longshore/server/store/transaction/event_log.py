"""Collects the rows that a transaction writes beside tasks: events, attempts, debts, and uses of requests and payloads.

The rows are collected while commands are decided, and written with one statement for each kind of row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from longshore.server.model.events import Claimed, Decision, Ending, Event, GrantAsked
from longshore.server.model.task import Payload, Status, Submission
from longshore.server.model.values import AttemptEnd, State
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import changing, inserting
from longshore.server.store.tables import codec
from longshore.server.store.tables.rows import Row
from longshore.server.store.tables.schema import attempts, debts, events, inline_payloads, payloads, requests

_INSERT_EVENT: Final = inserting(events)
_BEGUN: Final = ("seq", "number", "worker", "session_id", "started_at")
_INSERT_ATTEMPT: Final = inserting(attempts, *_BEGUN, "settling", "alone")
_INSERT_PLAIN_ATTEMPT: Final = inserting(attempts, *_BEGUN, fixed={"settling": sa.false(), "alone": sa.false()})
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
_END_ATTEMPT_WELL: Final = changing(
    lambda given: (
        attempts.update()
        .where(attempts.c.seq == given["task"], attempts.c.number == given["number"])
        .values(ended_at=given["at"], ending=sa.literal_column(f"'{AttemptEnd.OK.value}'"), error=sa.null())
    ),
    _ATTEMPT,
)
"""Ends an attempt well. The attempt may have an error: one that was given up after its grant is believed when it
reports success."""
_INSERT_DEBT: Final = inserting(debts, missing=True)
_REQUEST_ENDED: Final = changing(
    lambda given: (
        requests.update()
        .where(requests.c.request_id == given["of_request"], requests.c.principal == given["by"])
        .values(live=requests.c.live - given["ended"], ended_at=given["at"])
    ),
    {"of_request": sa.Text, "by": sa.Text, "ended": sa.Integer, "at": sa.Double},
)
_INSERT_PAYLOAD: Final = inserting(payloads)
_INSERT_INLINE: Final = inserting(inline_payloads)
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


class EventLog:
    """The collected rows of one transaction."""

    def __init__(self, *, link: Link, now: Callable[[], float]) -> None:
        self._link = link
        self._now = now
        self._events: list[Row] = []
        self._attempts: list[Row] = []
        self._plain_attempts: list[Row] = []
        self._grants: list[Row] = []
        self._endings: dict[tuple[int, int], Ending] = {}
        """Endings by task and number. An attempt that was given up may report in the same transaction: the last word
        counts."""
        self._debts: list[Row] = []
        self._requests_ended: dict[tuple[str, str], int] = {}
        self._payloads: list[Payload] = []
        self._contents: list[Row] = []
        self._payload_uses: dict[str, tuple[int, float]] = {}
        self._last: Status | None = None
        self._text = ""
        self.makes_debts = False
        """Whether a debt was made."""

    def record(self, submission: Submission, status: Status) -> None:
        """Record a new revision as an event."""
        if status is not self._last:
            # Tasks that take the same step share their status: see `decisions`.
            self._last, self._text = status, codec.encode_status(status)
        self._events.append((submission.seq, status.revision, self._text))

    def decided(self, submission: Submission, event: Event, decision: Decision) -> None:
        """Record what a decision means for the task's attempts and for its target."""
        after = decision.status
        if isinstance(event, Claimed):
            begun = (submission.seq, after.attempt, event.worker, event.session_id, self._now())
            settling = after.state is State.SETTLING
            if settling or after.alone:
                self._attempts.append((*begun, settling, after.alone and not settling))
            else:
                self._plain_attempts.append(begun)
        elif isinstance(event, GrantAsked):
            self._grants.append((submission.seq, after.attempt, self._now()))
        for ending in decision.endings:
            self._endings[submission.seq, ending.attempt] = ending
        if decision.debts and (owed := submission.work.destination) is not None:
            for attempt, temp in decision.debts:
                self.makes_debts = True
                self._debts.append(
                    (
                        f"{submission.id}-{attempt}", owed.target, owed.project, owed.instance, owed.path,
                        submission.id, attempt, temp, self._now(), 0,
                    )
                )  # fmt: skip

    def new_payload(self, payload: Payload, content: bytes | None, until: float) -> None:
        """Record a new payload, for tasks that are made next, or to be kept `until` then. If `content` is None, the
        bytes are in the spool."""
        self._payloads.append(payload)
        if until:
            self._use_payload(payload.id, 0, until)
        if content is not None:
            self._contents.append((payload.id, content))

    def made(self, submission: Submission) -> None:
        """Record that a new task needs its payload."""
        if submission.payload is not None:
            self._use_payload(submission.payload.id, 1, 0.0)

    def ended(self, submission: Submission, after: Status) -> None:
        """Record that a task needs its payload no more, unless for a retry."""
        key = (submission.request_id, submission.requester)
        self._requests_ended[key] = self._requests_ended.get(key, 0) + 1
        if submission.payload is not None:
            self._use_payload(submission.payload.id, -1, after.retryable_until or 0.0)

    def _use_payload(self, payload_id: str, more: int, until: float) -> None:
        used, kept = self._payload_uses.get(payload_id, (0, 0.0))
        self._payload_uses[payload_id] = (used + more, max(kept, until))

    def flush(self) -> None:
        """Write what was collected. The tasks are in the database already."""
        well, ill = self._ends()
        link = self._link
        link.write(_INSERT_EVENT, self._events)
        link.write(_INSERT_PLAIN_ATTEMPT, self._plain_attempts)
        link.write(_INSERT_ATTEMPT, self._attempts)
        link.write(_GRANT_ATTEMPT, self._grants)
        link.write(_END_ATTEMPT_WELL, well)
        link.write(_END_ATTEMPT, ill)
        link.write(_INSERT_DEBT, self._debts)
        self._events, self._plain_attempts, self._attempts, self._grants, self._debts = [], [], [], [], []
        self._endings.clear()
        if self._requests_ended:
            self._link.write(
                _REQUEST_ENDED,
                [
                    (request_id, principal, ended, self._now())
                    for (request_id, principal), ended in sorted(self._requests_ended.items())
                ],
            )
            self._requests_ended.clear()
        if self._payloads:
            link.write(_INSERT_PAYLOAD, [self._row_of(payload) for payload in self._payloads])
            link.write(_INSERT_INLINE, self._contents)
            self._payloads, self._contents = [], []
        if self._payload_uses:
            self._link.write(
                _PAYLOAD_USE,
                [(payload_id, more, until) for payload_id, (more, until) in sorted(self._payload_uses.items())],
            )
            self._payload_uses.clear()

    def _row_of(self, payload: Payload) -> Row:
        """Make the row of a new payload, with its uses so far: it is written once."""
        live, keep_until = self._payload_uses.pop(payload.id, (0, 0.0))
        return (payload.id, payload.size, payload.crc32c, payload.sha256, live, keep_until, False)

    def _ends(self) -> tuple[list[Row], list[Row]]:
        """Rows of the attempts that ended well, and of the others."""
        well: list[Row] = []
        ill: list[Row] = []
        for (seq, number), ending in self._endings.items():
            if ending.error is None and ending.end is AttemptEnd.OK:
                well.append((seq, number, self._now()))
            else:
                why = None if ending.error is None else codec.encode_failure(ending.error)
                ill.append((seq, number, self._now(), ending.end.value, why))
        return well, ill
