"""A long history, made fast: a thousand finished tasks through the store, then copies of all their rows by SQL.

The thousand have every ending: most succeeded, with a grant if they were pushes, some failed, were cancelled or tried
again. A tenth has a payload; that of an unsuccessful task is kept for a retry. Each is a request of its own. Copies get
numbers, ids, requests, payloads and times of their own, the newest first, spread over DAYS.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Final

from bench.support.backlog import BASE, BOUNDS, Database, Fleet, new_id, plan
from longshore.server.model.events import Reported
from longshore.server.model.task import FILE_PUSH, Failure, Grant, Payload, Task
from longshore.server.model.values import DeliveryMethod, Outcome
from longshore.server.store.commands import CancelTask, FileReports, RequestGrants, SubmitTasks, TaskPlan
from longshore.server.store.store import SQLStore

DAYS: Final = 6.0
"""Days that the endings of the copies are spread over; the newest ended when they were made."""
CONTENT: Final = b"kept in the database" * 10
ROOM: Final = 50


def plan_of(number: int) -> TaskPlan:
    """The plan of a finished task: those of the queue, without its crowded instances, and two with a queue, a
    creator and a label of their own, of which no copies are made."""
    found = plan(number)
    if number % 10 < 4:
        found = plan(10 * number + 5)
    if number % 500 == 17:
        terms = dataclasses.replace(found.terms, queue="rare", labels={"team": "rare"})
        found = dataclasses.replace(found, terms=terms)
    return found


async def make_finished(store: SQLStore, fleet: Fleet) -> None:
    """Make the thousand."""
    for start in range(0, BASE, ROOM):
        await asyncio.gather(*(_submit(store, number) for number in range(start, start + ROOM)))
        left = ROOM
        while left:
            claimed = await store.run(fleet.offers(ROOM))
            if not claimed.taken:
                raise AssertionError(f"{left} tasks are not claimed")
            left -= sum(await asyncio.gather(*(finish(store, fleet, *each) for each in claimed.taken)))


async def _submit(store: SQLStore, number: int) -> None:
    payload = None
    if number % 10 == 6:
        payload = Payload(f"history-{number}", len(CONTENT), 1, bytes(32))
    await store.run(
        SubmitTasks(
            principal="rare" if number % 500 == 17 else ("alice", "bob", "carol")[number % 3],
            request_id=f"history-{number}",
            fingerprint="same",
            plans=(plan_of(number),),
            payload=payload,
            content=CONTENT if payload else b"",
            bounds=BOUNDS,
        )
    )


async def finish(store: SQLStore, fleet: Fleet, session: str, task: Task) -> bool:
    """End the attempt, and answer whether the task has ended with it."""
    epoch, attempt, number = fleet.epoch(session), task.status.attempt, task.submission.seq % 20
    outcome = {1: Outcome.PERMANENT, 2: Outcome.STOPPED, 3: Outcome.HANDED_BACK}.get(number, Outcome.OK)
    if outcome is Outcome.HANDED_BACK and attempt > 1:
        outcome = Outcome.OK
    if outcome is Outcome.STOPPED:
        await store.run(CancelTask(task_id=task.id, creator=None, reason="not wanted"))
    if outcome is Outcome.OK and task.submission.kind == FILE_PUSH:
        grant = Grant(attempt, session, "/srv/.temp", DeliveryMethod.SFTP, 0.0, crc32c=7, mode=0o644, uid=0, gid=0)
        await store.run(RequestGrants(session_id=session, epoch=epoch, requests=((task.id, grant),)))
    error = Failure("SOME_REASON", "this is why") if outcome is Outcome.PERMANENT else None
    report = Reported(session, attempt, outcome, error)
    (counted,) = await store.run(FileReports(session_id=session, epoch=epoch, reports=((task.id, report),)))
    if not counted:
        raise AssertionError(f"a report did not count: {outcome}")
    return outcome is not Outcome.HANDED_BACK


def copy_history(database: Database, copies: int) -> None:
    """Each finished task `copies` times more, behind those that are there, with all its rows."""
    moved = f"t.seq + k * {BASE}"
    later = f"(k - {copies}) * {DAYS * 86400 / max(copies, 1)!r}"
    times = {name: f"t.{name} + {later}" for name in ("updated_at", "started_at", "finished_at", "retryable_until")}
    new: dict[str, dict[str, str]] = {
        "tasks": {
            "queue": "CASE WHEN t.queue = 'rare' THEN 'default' ELSE t.queue END",
            "creator": "CASE WHEN t.creator = 'rare' THEN 'alice' ELSE t.creator END",
            "seq": moved,
            "id": new_id(moved),
            "batch": "t.batch || '-' || k",
            **times,
        },
        "submissions": {
            "seq": moved,
            "request_id": "s.request_id || '-' || k",
            "payload_id": "s.payload_id || '-' || k",
            "created_at": f"s.created_at + {later}",
        },
        "labels": {"seq": moved, "value": "CASE WHEN l.value = 'rare' THEN 't1' ELSE l.value END"},
        "events": {"seq": moved},
        "attempts": {"seq": moved},
        "requests": {
            "principal": "CASE WHEN r.principal = 'rare' THEN 'alice' ELSE r.principal END",
            "request_id": "r.request_id || '-' || k",
            "first_seq": f"r.first_seq + k * {BASE}",
            "ended_at": f"r.ended_at + {later}",
        },
        "payloads": {"id": "p.id || '-' || k"},
        "inline_payloads": {"payload_id": "i.payload_id || '-' || k"},
    }
    sources = {
        "tasks": "tasks t",
        "submissions": "submissions s JOIN tasks t ON t.seq = s.seq",
        "labels": "labels l JOIN tasks t ON t.seq = l.seq",
        "events": "events e JOIN tasks t ON t.seq = e.seq",
        "attempts": "attempts a JOIN tasks t ON t.seq = a.seq",
        "requests": "requests r",
        "payloads": "payloads p",
        "inline_payloads": "inline_payloads i",
    }
    series = database.series.format(copies=copies)
    for table, source in sources.items():
        columns = database.columns(table)
        alias = source.split()[1]
        values = ", ".join(new[table].get(name, f'{alias}."{name}"') for name in columns)
        names = ", ".join(f'"{name}"' for name in columns)
        database.run(
            f"INSERT INTO {table} ({names}) {series} SELECT {values} FROM copies CROSS JOIN {source} "
            f"WHERE {'t.seq' if ' t' in source else 'r.first_seq' if table == 'requests' else '1'} <= {BASE}"
        )
    ((payload_bytes,),) = database.rows("SELECT sum(size) FROM payloads")
    database.run(f"UPDATE counters SET value = {payload_bytes} WHERE scope = 'spool'")


def leave_room(database: Database, copies: int) -> None:
    """Leave the numbers of so many copies free, before the tasks that come after the history are made."""
    database.run(f"UPDATE sequence SET value = {BASE} * ({copies} + 1) WHERE name = 'tasks'")
