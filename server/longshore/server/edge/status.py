"""The one table from the engine's errors to gRPC statuses, and the details that go with them."""

from __future__ import annotations

import asyncio
import secrets
from typing import Final, NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from longshore.server.model import errors

DOMAIN: Final = "longshore"

REASON: Final = "longshore-reason"
"""Key of the trailing metadata that repeats ErrorInfo's reason as plain text: not every library decodes the details."""

CODES: Final[dict[type[errors.LongshoreError], grpc.StatusCode]] = {
    errors.InvalidField: grpc.StatusCode.INVALID_ARGUMENT,
    errors.MalformedMessage: grpc.StatusCode.INVALID_ARGUMENT,
    errors.MessageTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UploadInvalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UploadBroken: grpc.StatusCode.UNAVAILABLE,
    errors.UploadInProgress: grpc.StatusCode.ABORTED,
    errors.UploadTakenOver: grpc.StatusCode.ABORTED,
    errors.RequestIdReused: grpc.StatusCode.ALREADY_EXISTS,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.RevisionMismatch: grpc.StatusCode.ABORTED,
    errors.RevisionAhead: grpc.StatusCode.OUT_OF_RANGE,
    errors.NotRetryable: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Superseded: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DependencyFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotSettling: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OldServers: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OverLimit: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.PayloadTooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.SpoolDamaged: grpc.StatusCode.DATA_LOSS,
    errors.StoreUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Draining: grpc.StatusCode.UNAVAILABLE,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
    errors.EpochSuperseded: grpc.StatusCode.ABORTED,
    errors.ProtocolVersion: grpc.StatusCode.FAILED_PRECONDITION,
    errors.TargetIdentity: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LeaseLost: grpc.StatusCode.UNAVAILABLE,
    errors.SlowConsumer: grpc.StatusCode.UNAVAILABLE,
    errors.PayloadElsewhere: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PayloadUnreachable: grpc.StatusCode.UNAVAILABLE,
    errors.OffsetBeyondEnd: grpc.StatusCode.OUT_OF_RANGE,
}
"""Maps each class of error to its status. A subclass without a row of its own takes its nearest base's."""

_RETRY_SECONDS: Final = 1.0
"""The delay that RetryInfo gives with UNAVAILABLE."""

_LONGEST_MESSAGE: Final = 1000
_LONGEST_METADATA: Final = 250
"""Bytes. A status travels in the trailers, its message two or three times; gRPC's peers refuse trailers above 8 to
16 KiB, and then the caller learns RESOURCE_EXHAUSTED instead. What callers sent may stand in a message."""

_log = structlog.get_logger("longshore.edge")


def code_of(error: errors.LongshoreError) -> grpc.StatusCode:
    """Return the status code for an error. Every class of the tree has one; a test asserts it."""
    for base in type(error).__mro__:
        code = CODES.get(base)
        if code is not None:
            return code
    return grpc.StatusCode.INTERNAL


def details_of(error: errors.LongshoreError) -> list[Message]:
    """google.rpc details: ErrorInfo always, the others where they apply."""
    metadata = {key: _clipped(value, _LONGEST_METADATA) for key, value in error.metadata.items()}
    message = _clipped(error.message, _LONGEST_MESSAGE)
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata),
    ]
    if isinstance(error, errors.InvalidField):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_clipped(error.field, _LONGEST_METADATA),
            description=message.removeprefix(f"{error.field}: "),
            reason=error.reason,
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, errors.OverLimit):
        quota = error_details_pb2.QuotaFailure.Violation(
            subject=_clipped(error.subject, _LONGEST_METADATA), description=message
        )
        details.append(error_details_pb2.QuotaFailure(violations=[quota]))
        details.append(_retry_info(error.retry_after))
    elif code_of(error) is grpc.StatusCode.UNAVAILABLE:
        details.append(_retry_info(_RETRY_SECONDS))
    return details


def _retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromMicroseconds(round(seconds * 1e6))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def status_of(error: errors.LongshoreError) -> status_pb2.Status:
    """Make the whole status."""
    packed = []
    for detail in details_of(error):
        wrapped = AnyMessage()
        wrapped.Pack(detail)
        packed.append(wrapped)
    message = _clipped(error.message, _LONGEST_MESSAGE)
    return status_pb2.Status(code=code_of(error).value[0], message=message, details=packed)


def _clipped(text: str, most: int) -> str:
    """Return the text, or as much of it as `most` bytes hold."""
    raw = text.encode()
    return text if len(raw) <= most else raw[: most - 3].decode(errors="ignore") + "…"


async def abort(context: grpc.aio.ServicerContext[object, object], error: BaseException) -> NoReturn:
    """End the RPC with the status of `error`, as far as callers may be told of it."""
    said = tellable(error)
    rich = rpc_status.to_status(status_of(said))
    try:
        await context.abort(rich.code, rich.details, (*rich.trailing_metadata, (REASON, said.reason)))
    except grpc.aio.AbortError:
        raise
    except grpc.aio.InternalError:
        # The caller is gone, so nobody can be told. gRPC would log a traceback of it.
        raise asyncio.CancelledError from None
    raise AssertionError("abort returned")


def tellable(error: BaseException) -> errors.LongshoreError:
    """Return the error that the caller is told. Any error but a LongshoreError is a defect: the log has it whole under
    an incident number, and the caller is told the number only."""
    if isinstance(error, errors.LongshoreError):
        return error
    incident = secrets.token_hex(4)
    _log.error("defect", incident=incident, exc_info=error)
    return errors.LongshoreError(
        f"A defect in the server; please report it with the server's log of incident {incident}.", incident=incident
    )
