"""Every error that the server's engine raises on purpose. `edge/status.py` maps each to a gRPC status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class LongshoreError(Exception):
    """The base of the tree. `reason` is for programs, the message for people: what is wrong and what to do about it."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = metadata


class InvalidField(LongshoreError):
    """A field of the request is wrong; `field` is its path as in the contract. Mend it and call again."""

    reason = "INVALID_FIELD"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}", field=field)
        self.field = field


class MalformedMessage(LongshoreError):
    """The bytes of a call are no message of its RPC. Make the stub anew from the contract of this server's version."""

    reason = "MALFORMED_MESSAGE"


class MessageTooLarge(LongshoreError):
    """A message has more bytes than one may have. Send smaller ones; the same again is refused again."""

    reason = "MESSAGE_TOO_LARGE"


class UploadInvalid(LongshoreError):
    """Base of everything that is wrong with the bytes of an upload. Nothing was accepted."""


class ProtocolViolation(UploadInvalid):
    """Messages of an upload in the wrong order: a chunk before the header, two headers, bytes after the finish."""

    reason = "PROTOCOL_VIOLATION"


class ChunkOutOfOrder(UploadInvalid):
    """A chunk does not start where the last one ended."""

    reason = "CHUNK_OUT_OF_ORDER"


class CrcMismatch(UploadInvalid):
    """CRC32C of a chunk or of the whole does not match the bytes."""

    reason = "CRC_MISMATCH"


class SizeMismatch(UploadInvalid):
    """More or fewer bytes than declared."""

    reason = "SIZE_MISMATCH"


class Sha256Mismatch(UploadInvalid):
    """The bytes do not have the declared SHA-256."""

    reason = "SHA256_MISMATCH"


class UploadBroken(LongshoreError):
    """The stream ended without a finish. What arrived is kept for a resume."""

    reason = "UPLOAD_BROKEN"


class UploadInProgress(LongshoreError):
    """Another connection is sending this upload. Wait, or set `take_over`."""

    reason = "UPLOAD_IN_PROGRESS"


class UploadTakenOver(LongshoreError):
    """Another connection continues this upload; this one may not write any more."""

    reason = "UPLOAD_TAKEN_OVER"


class RequestIdReused(LongshoreError):
    """The request id came before with a different request or different bytes. Choose another id."""

    reason = "REQUEST_ID_REUSED"


class NotFound(LongshoreError):
    """There is no such thing, it is not the caller's, or its history is removed."""

    reason = "NOT_FOUND"


class QueueNotFound(NotFound):
    """No queue has that name: it never held a task and was never paused. `known` lists those that there are."""

    reason = "QUEUE_NOT_FOUND"


class PayloadGone(NotFound):
    """The payload is not kept any more. Upload it again."""

    reason = "PAYLOAD_GONE"


class RevisionMismatch(LongshoreError):
    """The task changed since the expected revision. Read it anew and decide again."""

    reason = "REVISION_MISMATCH"


class RevisionAhead(LongshoreError):
    """A watch asks for events after a revision that the task has not reached. Read it anew."""

    reason = "REVISION_AHEAD"


class NotRetryable(LongshoreError):
    """Only failed, cancelled and expired tasks can be retried."""

    reason = "NOT_RETRYABLE"


class Superseded(LongshoreError):
    """A later task has delivered to the same destination. Force the retry if that is meant."""

    reason = "SUPERSEDED"


class DependencyFailed(LongshoreError):
    """A task that this one is to come after has ended otherwise than it must. Name other tasks, or `after_any_end`."""

    reason = "DEPENDENCY_FAILED"


class NotSettling(LongshoreError):
    """Only a SETTLING task can be settled by hand."""

    reason = "NOT_SETTLING"


class OldServers(LongshoreError):
    """The task asks for something that servers of the version before do wrong, and one of them runs, or the schema is
    of before. Upgrade all servers, migrate the database, and call again."""

    reason = "OLD_SERVERS"


class OverLimit(LongshoreError):
    """Base of every bound that is reached. `retry_after` in seconds."""

    def __init__(self, message: str, *, subject: str, retry_after: float = 1.0) -> None:
        super().__init__(message, subject=subject)
        self.subject = subject
        self.retry_after = retry_after


class QueueFull(OverLimit):
    """The queue holds as many live tasks as it may. Try later with the same request id."""

    reason = "QUEUE_FULL"


class CallerShare(OverLimit):
    """This caller holds as many live tasks or uploads as one caller may. Try later with the same request id."""

    reason = "CALLER_SHARE"


class SpoolFull(OverLimit):
    """No room for the bytes. Try later with the same request id."""

    reason = "SPOOL_FULL"


class PayloadTooLarge(LongshoreError):
    """The file is larger than the spool may ever hold. Raise --spool-limit, or send a smaller one."""

    reason = "PAYLOAD_TOO_LARGE"


class TooManyUploads(OverLimit):
    """As many uploads are open as may be. Try later with the same request id."""

    reason = "TOO_MANY_UPLOADS"


class StoreOverloaded(OverLimit):
    """More is waiting to be committed than may wait. Try later with the same request id."""

    reason = "STORE_OVERLOADED"


class SpoolDamaged(LongshoreError):
    """Spooled bytes are gone or do not match what was recorded of them."""

    reason = "SPOOL_DAMAGED"


class StoreUnavailable(LongshoreError):
    """The database cannot be read or written now, and nothing was changed as far as can be known. Try again."""

    reason = "STORE_UNAVAILABLE"


class Draining(LongshoreError):
    """This server is leaving. Connect again, here or elsewhere."""

    reason = "DRAINING"


class Unauthenticated(LongshoreError):
    """No token, or a wrong one."""

    reason = "UNAUTHENTICATED"


class Forbidden(LongshoreError):
    """The caller is known and may not do this."""

    reason = "FORBIDDEN"


class NotYourAttempt(Forbidden):
    """The attempt is not, or no longer, this session's. Stop it."""

    reason = "NOT_YOUR_ATTEMPT"


class PayloadElsewhere(LongshoreError):
    """The payload is in the spool of another server, which the metadata names. Download it there."""

    reason = "PAYLOAD_ELSEWHERE"


class PayloadUnreachable(LongshoreError):
    """The payload is in the spool of a server that is not there. Try again later; start that server, or one on its
    spool."""

    reason = "PAYLOAD_UNREACHABLE"


class EpochSuperseded(LongshoreError):
    """The session has connected anew; this older connection is over."""

    reason = "EPOCH_SUPERSEDED"


class ProtocolVersion(LongshoreError):
    """Worker and server do not speak the same version of the protocol. Upgrade the older one."""

    reason = "PROTOCOL_VERSION"


class TargetIdentity(LongshoreError):
    """The target's name is bound to another daemon. Give one of them another name."""

    reason = "TARGET_IDENTITY"


class LeaseLost(LongshoreError):
    """The session's lease ended, or its worker said nothing for a whole lease. Connect again and say what is still
    held."""

    reason = "LEASE_LOST"


class SlowConsumer(LongshoreError):
    """The worker does not read what it is told. Connect again."""

    reason = "SLOW_CONSUMER"


class OffsetBeyondEnd(LongshoreError):
    """A download asks for bytes beyond the payload's end."""

    reason = "OFFSET_BEYOND_END"
