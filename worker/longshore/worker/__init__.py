"""Workers for Longshore, and what is needed to write handlers for kinds of one's own: see docs/handlers.md."""

from __future__ import annotations

from longshore.v1.worker_service_pb2 import SettleOrder
from longshore.worker.attempts.context import AsyncContext, AsyncPayload, Context
from longshore.worker.attempts.handlers import Handler, Registry
from longshore.worker.errors import (
    AttemptError,
    AttemptStopped,
    GrantRefused,
    NotReadyError,
    OutcomeUnknown,
    PermanentError,
    Reason,
    StopReason,
    TransientError,
)
from longshore.worker.process.config import ConfigError, WorkerConfig
from longshore.worker.process.service import Exit, Worker
from longshore.worker.targets.base import Settlement, Target

__all__ = [
    "AsyncContext",
    "AsyncPayload",
    "AttemptError",
    "AttemptStopped",
    "ConfigError",
    "Context",
    "Exit",
    "GrantRefused",
    "Handler",
    "NotReadyError",
    "OutcomeUnknown",
    "PermanentError",
    "Reason",
    "Registry",
    "SettleOrder",
    "Settlement",
    "StopReason",
    "Target",
    "TransientError",
    "Worker",
    "WorkerConfig",
]
