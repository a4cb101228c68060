"""Values of the model as JSON text, for columns that the database only keeps.

Bytes travel as base64.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from longshore.contract.enums import IfExists, WhenAbsent, WhenStopped
from longshore.server.model.task import AnyValue, Destination, Failure, FilePush, Grant, Job, Status
from longshore.server.model.values import DeliveryMethod, State, WaitReason

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_decode = json.loads
_quoted = json.encoder.encode_basestring

_FIELDS = (
    "revision", "state", "head", "wait_reason", "due_at", "attempt", "tries", "crashes", "solo_crashes", "alone",
    "session_id", "worker", "started_at", "deadline_ticks", "cancel_requested", "cancel_reason", "method", "updated_at",
    "finished_at", "retryable_until", "grant", "error", "result",
)  # fmt: skip
"""A snapshot is a list in this order (objects with names take twice the time); append only: older ones are shorter."""
_BOOLS = ("false", "true")
_IN_PLACE = ',"in_place":true'


@lru_cache(maxsize=256, typed=True)
def _number(value: float | None) -> str:
    """Write a number as JSON. The result is cached, because the times of a transaction come again and again."""
    return _encode(value)


def encode_map(values: Mapping[str, Any]) -> str:
    return _encode(dict(values)) if values else "{}"


def decode_map(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {} if text == "{}" else _decode(text)
    return found


def encode_failure(failure: Failure) -> str:
    return _encode([failure.reason, failure.message, failure.transient])


def decode_failure(text: str) -> Failure:
    return Failure(*_decode(text))


def _grant_of(fields: list[Any]) -> Grant:
    attempt, session_id, temp, method, granted_at, crc32c, mode, uid, gid = fields
    return Grant(attempt, session_id, temp, DeliveryMethod(method), granted_at, crc32c, mode, uid, gid)


def encode_grant(grant: Grant) -> str:
    """Write the list that `_grant_of` reads."""
    return (
        f"[{grant.attempt},{_quoted(grant.session_id)},{_quoted(grant.temp)},{grant.method._value_},"
        f"{_number(grant.granted_at)},{_number(grant.crc32c)},{_number(grant.mode)},{_number(grant.uid)},"
        f"{_number(grant.gid)}]"
    )


def decode_grant(text: str) -> Grant:
    return _grant_of(_decode(text))


def encode_work(work: FilePush | Job) -> str:
    """Write a task's work as JSON, without a job's arguments: those have columns of their own."""
    if isinstance(work, Job):
        return _encode_job(work.kind, work.target, work.instance)
    destination = work.destination
    return (
        f'{{"push":[{_quoted(destination.target)},{_quoted(destination.project)},{_quoted(destination.instance)},{_quoted(destination.path)}],'
        f'"mode":{_number(work.mode)},"uid":{_number(work.uid)},"gid":{_number(work.gid)},'
        f'"create_parents":{_BOOLS[work.create_parents]},"if_exists":{work.if_exists._value_},'
        f'"when_stopped":{work.when_stopped._value_},"when_absent":{work.when_absent._value_},'
        f'"read_back":{_BOOLS[work.read_back]}{_said("mode_if_new", work.mode_if_new)}'
        f"{_said('parents_mode', work.parents_mode)}{_IN_PLACE if work.in_place else ''}}}"
    )


def _said(key: str, value: int | None) -> str:
    """Write a member that earlier versions did not have. A value of None is left out."""
    return "" if value is None else f',"{key}":{value}'


_RETRIED_BY = '"retried_by":'
"""A key in a work's JSON. Inside a string each quote has a backslash before it, so that no path reads like this."""


def with_retrier(work: str, principal: str) -> str:
    """A work's text with the principal that retried it for its creator. Versions that do not know the key skip it."""
    return f"{work[:-1]},{_RETRIED_BY}{_quoted(principal)}}}" if principal else work


def retrier_of(work: str) -> str:
    """The principal that retried the task for its creator. Empty means that the creator did, or that it is no retry."""
    return str(_decode(work)["retried_by"]) if _RETRIED_BY in work else ""


@lru_cache(maxsize=4096)
def _encode_job(kind: str, target: str, instance: str) -> str:
    return _encode({"kind": kind, "target": target, "instance": instance})


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
        mode_if_new=fields.get("mode_if_new"),
        parents_mode=fields.get("parents_mode"),
        in_place=fields.get("in_place", False),
    )


def encode_status(status: Status) -> str:
    """A snapshot for the history: the list of _FIELDS, which `json` takes 5 µs for and this a third of that."""
    grant, error, result, due_at, deadline = (
        status.grant,
        status.error,
        status.result,
        status.due_at,
        status.deadline_ticks,
    )
    started_at, finished_at, kept = status.started_at, status.finished_at, status.retryable_until
    return (
        f"[{status.revision},{status.state._value_},{_BOOLS[status.head]},{status.wait_reason._value_},"
        f"{'null' if due_at is None else _number(due_at)},{status.attempt},{status.tries},{status.crashes},"
        f"{status.solo_crashes},{_BOOLS[status.alone]},{_quoted(status.session_id)},{_quoted(status.worker)},"
        f"{'null' if started_at is None else _number(started_at)},"
        f"{'null' if deadline is None else _number(deadline)},{_BOOLS[status.cancel_requested]},"
        f"{_quoted(status.cancel_reason)},{status.method._value_},{_number(status.updated_at)},"
        f"{'null' if finished_at is None else _number(finished_at)},{'null' if kept is None else _number(kept)},"
        f"{'null' if grant is None else encode_grant(grant)},"
        f"{'null' if error is None else encode_failure(error)},"
        f"{'null' if result is None else _encode([result.type_url, b64encode(result.value).decode('ascii')])}]"
    )


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
