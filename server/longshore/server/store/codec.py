"""Values of the model as JSON text, for columns that the database only keeps.

Bytes travel as base64.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from longshore.server.model.task import AnyValue, Destination, Failure, FilePush, Grant, Job, Status
from longshore.server.model.values import DeliveryMethod, IfExists, State, WaitReason, WhenAbsent, WhenStopped

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_decode = json.loads

_PLAIN = (
    "revision", "state", "head", "wait_reason", "due_at", "attempt", "tries", "crashes", "solo_crashes", "alone",
    "session_id", "worker", "started_at", "deadline_ticks", "cancel_requested", "cancel_reason", "method", "updated_at",
    "finished_at", "retryable_until",
)  # fmt: skip
"""Fields of a status that are JSON as they are."""
_FIELDS = (*_PLAIN, "grant", "error", "result")
"""A snapshot is a list in this order (objects with names take twice the time); append only: older ones are shorter."""
_plain_fields = attrgetter(*_PLAIN)


def encode_map(values: Mapping[str, Any]) -> str:
    return _encode(dict(values)) if values else "{}"


def decode_map(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {} if text == "{}" else _decode(text)
    return found


def encode_failure(failure: Failure) -> str:
    return _encode([failure.reason, failure.message, failure.transient])


def decode_failure(text: str) -> Failure:
    return Failure(*_decode(text))


def _grant_fields(grant: Grant) -> list[Any]:
    return [
        grant.attempt,
        grant.session_id,
        grant.temp,
        grant.method.value,
        grant.granted_at,
        grant.crc32c,
        grant.mode,
        grant.uid,
        grant.gid,
    ]


def _grant_of(fields: list[Any]) -> Grant:
    attempt, session_id, temp, method, granted_at, crc32c, mode, uid, gid = fields
    return Grant(attempt, session_id, temp, DeliveryMethod(method), granted_at, crc32c, mode, uid, gid)


def encode_grant(grant: Grant) -> str:
    return _encode(_grant_fields(grant))


def decode_grant(text: str) -> Grant:
    return _grant_of(_decode(text))


def encode_work(work: FilePush | Job) -> str:
    """What to do, without a job's arguments: those have columns of their own."""
    if isinstance(work, Job):
        return _encode({"kind": work.kind, "target": work.target, "instance": work.instance})
    place = work.destination
    return _encode(
        {
            "push": [place.target, place.project, place.instance, place.path],
            "mode": work.mode,
            "uid": work.uid,
            "gid": work.gid,
            "create_parents": work.create_parents,
            "if_exists": work.if_exists.value,
            "when_stopped": work.when_stopped.value,
            "when_absent": work.when_absent.value,
            "read_back": work.read_back,
        }
    )


def decode_work(text: str, arguments: AnyValue | None) -> FilePush | Job:
    fields = _decode(text)
    push = fields.get("push")
    if push is None:
        return Job(fields["kind"], arguments, fields["target"], fields["instance"])
    return FilePush(
        Destination(*push),
        mode=fields["mode"],
        uid=fields["uid"],
        gid=fields["gid"],
        create_parents=fields["create_parents"],
        if_exists=IfExists(fields["if_exists"]),
        when_stopped=WhenStopped(fields["when_stopped"]),
        when_absent=WhenAbsent(fields["when_absent"]),
        read_back=fields["read_back"],
    )


def encode_status(status: Status) -> str:
    """A snapshot for the history."""
    values = list(_plain_fields(status))
    grant, error, result = status.grant, status.error, status.result
    values.append(None if grant is None else _grant_fields(grant))
    values.append(None if error is None else [error.reason, error.message, error.transient])
    values.append(None if result is None else [result.type_url, b64encode(result.value).decode("ascii")])
    return _encode(values)


def decode_status(text: str) -> Status:
    fields: dict[str, Any] = dict(zip(_FIELDS, _decode(text), strict=False))
    fields["state"] = State(fields["state"])
    fields["wait_reason"] = WaitReason(fields["wait_reason"])
    fields["method"] = DeliveryMethod(fields["method"])
    if fields["grant"] is not None:
        fields["grant"] = _grant_of(fields["grant"])
    if fields["error"] is not None:
        fields["error"] = Failure(*fields["error"])
    if fields["result"] is not None:
        type_url, value = fields["result"]
        fields["result"] = AnyValue(type_url, b64decode(value))
    return Status(**fields)
