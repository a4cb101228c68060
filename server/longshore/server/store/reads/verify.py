"""This module recounts every sum that the store keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from longshore.server.model.task import concurrency_key_of
from longshore.server.model.values import UploadState
from longshore.server.store.reads.queries import counted as stored_counters
from longshore.server.store.sql.link import Link
from longshore.server.store.sql.statement import statement
from longshore.server.store.tables.rows import task_columns, task_of
from longshore.server.store.tables.schema import payloads, requests, submissions, tasks, uploads
from longshore.server.store.transaction.counters import (
    CREATOR_PROMISED,
    NO_SUMS,
    QUEUE_PROMISED,
    SPOOL,
    UPLOADS,
    UPLOADS_OF,
    Key,
    counted,
    differences,
    task_counts,
)

_TASKS: Final = statement(sa.select(*task_columns()).join_from(tasks, submissions, tasks.c.seq == submissions.c.seq))
_UPLOADS: Final = statement(
    sa.select(uploads.c.principal, uploads.c.queue, uploads.c.state, uploads.c.promised, uploads.c.reserved)
)
_PAYLOADS: Final = statement(sa.select(payloads.c.id, payloads.c.size, payloads.c.live))
_REQUESTS: Final = statement(sa.select(requests.c.request_id, requests.c.principal, requests.c.count, requests.c.live))


def discrepancies(link: Link) -> Sequence[str]:
    """Describe each stored sum that differs from a recount."""
    sums: Counter[Key] = Counter()
    of_payload: Counter[str] = Counter()
    of_request: Counter[tuple[str, str]] = Counter()
    live_of_request: Counter[tuple[str, str]] = Counter()
    for row in link.rows(_TASKS):
        task = task_of(row)
        sums.update(task_counts(counted(task.submission), task.status, concurrency_key_of(task.submission.work)))
        request = (task.submission.request_id, task.submission.requester)
        of_request[request] += 1
        if not task.status.state.terminal:
            live_of_request[request] += 1
            if task.submission.payload is not None:
                of_payload[task.submission.payload.id] += 1
    for principal, queue, state, promised, reserved in link.rows(_UPLOADS):
        sums[SPOOL] += reserved
        if state == UploadState.OPEN:
            sums[UPLOADS] += 1
            sums[UPLOADS_OF, principal] += 1
            sums[QUEUE_PROMISED, queue] += promised
            sums[CREATOR_PROMISED, principal] += promised
    found = []
    for payload_id, size, live in link.rows(_PAYLOADS):
        sums[SPOOL] += size
        if live != of_payload[payload_id]:
            found.append(f"payload {payload_id}: live {live}, counted {of_payload[payload_id]}")
    for request_id, principal, count, live in link.rows(_REQUESTS):
        request = (request_id, principal)
        if (count, live) != (of_request[request], live_of_request[request]):
            found.append(
                f"request {request}: {(count, live)}, counted {(of_request[request], live_of_request[request])}"
            )
    stored_sums = {key: value for key, value in stored_counters(link).items() if key[0] not in NO_SUMS}
    for key, (stored, recounted) in sorted(differences(stored_sums, sums).items()):
        found.append(f"counter {key}: {stored}, counted {recounted}")
    return found
