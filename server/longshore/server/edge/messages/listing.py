"""This module reads the filter, the pages and the page tokens of ListTasks."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from longshore.contract.limits import MOST_PER_PAGE
from longshore.contract.names import TASK_ID_LENGTH
from longshore.server.model.errors import InvalidField
from longshore.server.model.values import State
from longshore.server.store.protocol import TaskFilter
from longshore.v1 import task_service_pb2 as pb

PAGE_DEFAULT: Final = 100
_WORDS_MOST: Final = 100
_TOKEN_VERSION: Final = 1
_TOKEN_MOST: Final = 200
"""Characters; ours have about 50. A longer one could nest deeper than the parser goes."""
_SEQ_MOST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ListQuery:
    """A validated page request; `before` is the `seq` to continue below."""

    where: TaskFilter
    before: int | None
    limit: int
    fingerprint: str

    def token_below(self, seq: int) -> str:
        """Make the token for the page that goes on below this number. It is opaque to callers, and bound to the
        filter."""
        raw = json.dumps([_TOKEN_VERSION, seq, self.fingerprint], separators=(",", ":"))
        return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")


def query_of(request: pb.ListTasksRequest, *, scope: str | None) -> ListQuery:
    """Check every field. `scope` is the creator whose tasks may be seen. None means that all tasks may be seen.

    Raises InvalidField.
    """
    if request.page_size > MOST_PER_PAGE:
        raise InvalidField("page_size", f"is {request.page_size}; at most {MOST_PER_PAGE}.")
    asked = request.filter
    for name, values in (
        ("filter.states", asked.states),
        ("filter.kinds", asked.kinds),
        ("filter.labels", asked.labels),
    ):
        if len(values) > _WORDS_MOST:
            raise InvalidField(name, f"has {len(values)} entries; at most {_WORDS_MOST}.")
    where = TaskFilter(
        states=frozenset(_state(index, value) for index, value in enumerate(asked.states)),
        kinds=frozenset(asked.kinds),
        queue=asked.queue,
        target=asked.target,
        instance=asked.instance,
        labels=dict(asked.labels),
        created_after=_seconds("filter.created_after", asked.created_after)
        if asked.HasField("created_after")
        else None,
        created_before=(
            _seconds("filter.created_before", asked.created_before) if asked.HasField("created_before") else None
        ),
        request_id=asked.request_id,
        creator=asked.creator if scope is None else scope,
        id_prefix=_prefix(asked.id_prefix),
    )
    fingerprint = hashlib.sha256(asked.SerializeToString(deterministic=True)).hexdigest()[:16]
    return ListQuery(
        where=where,
        before=_before(request.page_token, fingerprint) if request.page_token else None,
        limit=request.page_size or PAGE_DEFAULT,
        fingerprint=fingerprint,
    )


def _prefix(text: str) -> str:
    if len(text) > TASK_ID_LENGTH:
        raise InvalidField("filter.id_prefix", f"has {len(text)} characters; an id has {TASK_ID_LENGTH}.")
    return text.upper()


def _state(index: int, value: int) -> State:
    try:
        return State(value)
    except ValueError:
        raise InvalidField(f"filter.states[{index}]", f"{value} is no state.") from None


def _seconds(field: str, value: Timestamp) -> float:
    if not 0 <= value.nanos < 1_000_000_000 or not -62_135_596_800 <= value.seconds <= 253_402_300_799:
        raise InvalidField(field, "is no valid time.")
    return value.seconds + value.nanos / 1e9


def _before(token: str, fingerprint: str) -> int:
    if len(token) > _TOKEN_MOST:
        raise _bad_token()
    try:
        padded = token + "=" * (-len(token) % 4)
        version, seq, made_for = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
    except (ValueError, TypeError, binascii.Error):
        raise _bad_token() from None
    if version != _TOKEN_VERSION or type(seq) is not int or not 0 <= seq <= _SEQ_MOST:
        raise _bad_token()
    if made_for != fingerprint:
        raise InvalidField("page_token", "belongs to another filter; begin again without it.")
    return seq


def _bad_token() -> InvalidField:
    return InvalidField("page_token", "was not made by this server; begin again without it.")
