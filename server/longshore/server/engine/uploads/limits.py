"""The limits of uploads, and their figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from longshore.server.store.commands import Bounds

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadLimits:
    """Sizes in bytes, times in seconds."""

    bounds: Bounds = field(default_factory=Bounds)
    """The store checks these, in the transaction that takes the room."""
    connections: int = 256
    """Streams of uploads that one process serves at a time, those included that only repeat what is complete."""
    checkpoint_bytes: int = 32 * MIB
    checkpoint_seconds: float = 60.0
    """A slow upload is checkpointed after this time too, which also tells the janitor that it lives."""
    reserve_step: int = 32 * MIB
    """Bytes of room that an upload of undeclared size takes at a time."""
    chunk_bytes: int = 2 * MIB
    write_bytes: int = MIB
    """Small chunks are gathered up to this before they are written, while another write is under way."""
    inline_bytes: int = 64 * 1024
    """Payloads up to this size are kept in the database, in their tasks' own transaction. 0 means that every non-empty
    one is in the spool."""
    silence: float = 10.0
    """A connection from which nothing came for so long loses its upload to another one."""
    patience: float = 2.0
    """Seconds that a second connection waits for the first to finish before it is refused."""
    idle: float = 60.0
    """A connection from which nothing came for so long is ended; what it sent is kept."""
    detach: float = 15.0
    """Seconds that an ending connection's last checkpoint is waited for."""
    abandon: float = 600.0
    """An upload without a sign of life for so long is given up (by the janitor)."""
    overload: float = 30.0
    """Seconds that a running upload tries again while the store says that it is overloaded."""


@dataclass(frozen=True, slots=True)
class UploadStatistics:
    """Uploads of this process."""

    connections: int
    """Streams being served."""
    closing: int
    """Streams whose last checkpoint or commit is still under way after their connection ended."""
    bytes_received: int
    """Since the start, what was skipped included."""
    draining: bool
