"""The RPCs about all tasks of one request."""

from __future__ import annotations

import structlog

from longshore.contract.limits import LONGEST_CANCEL_REASON
from longshore.server.edge.auth.principal import Principal
from longshore.server.edge.messages import answer_room, fields, translate
from longshore.server.engine.wait_reasons import WaitReasons
from longshore.server.model.errors import InvalidField, NotFound
from longshore.server.model.request_summary import RequestSummary
from longshore.server.store.commands import CancelBatch
from longshore.server.store.protocol import Store
from longshore.v1 import task_service_pb2 as pb

_log = structlog.get_logger("longshore.tasks")


async def get_batch(
    store: Store, wait_reasons: WaitReasons, principal: Principal, request: pb.GetBatchRequest
) -> pb.GetBatchResponse:
    """Serve one GetBatch call."""
    whose = _whose(principal, request)
    return pb.GetBatchResponse(batch=await _batch(store, wait_reasons, whose, request.request_id))


async def cancel_batch(
    store: Store, wait_reasons: WaitReasons, principal: Principal, request: pb.CancelBatchRequest
) -> pb.CancelBatchResponse:
    """Serve one CancelBatch call."""
    whose = _whose(principal, request)
    check_reason(request.reason)
    await store.run(CancelBatch(principal=whose, request_id=request.request_id, reason=request.reason))
    batch = await _batch(store, wait_reasons, whose, request.request_id)
    _log.info("cancel_batch", request_id=request.request_id, principal=principal.name, creator=whose, tasks=batch.total)
    return pb.CancelBatchResponse(batch=batch)


def check_reason(reason: str) -> None:
    """Check the reason of a cancel. Raises InvalidField."""
    if len(reason) > LONGEST_CANCEL_REASON:
        raise InvalidField("reason", f"has {len(reason)} characters; at most {LONGEST_CANCEL_REASON}.")


def _whose(principal: Principal, request: pb.GetBatchRequest | pb.CancelBatchRequest) -> str:
    """Return the principal that made the request. Another one's is shown to operators only."""
    fields.request_id("request_id", request.request_id)
    if request.creator and request.creator != principal.name and not principal.operator:
        raise _not_found(request.request_id)
    return request.creator or principal.name


async def _batch(store: Store, wait_reasons: WaitReasons, whose: str, request_id: str) -> pb.Batch:
    found: RequestSummary | None = await store.request_summary(whose, request_id)
    if found is None:
        raise _not_found(request_id)
    message = translate.batch(found)
    message.failures.extend(await answer_room.shown(store, wait_reasons, found.failures, at_least=1, recent=True))
    return message


def _not_found(request_id: str) -> NotFound:
    return NotFound(
        f"No tasks of yours were made with the request id {request_id!r}, or their history is removed.",
        request_id=request_id,
    )
