"""A connection that sends an upload ends when it is told to, and when it says nothing for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from longshore.server.engine.uploads.disk_room import DiskRoom
from longshore.server.engine.uploads.limits import UploadLimits
from longshore.server.model.clock import Clock
from longshore.server.model.errors import LongshoreError, UploadBroken
from longshore.server.model.task import Task
from longshore.server.store.commands.servers import Heard
from longshore.server.store.protocol import Store


class ConnectionOwner(Protocol):
    """Gives a connection what it needs of its server."""

    store: Store
    clock: Clock
    limits: UploadLimits
    room: DiskRoom

    def received(self, count: int) -> None:
        """Count bytes that were received."""
        ...

    def complete(self, upload_id: str, principal: str, size: int, tasks: Sequence[Task]) -> None:
        """Log that an upload is complete."""
        ...


class UploadConnection:
    """The scope of one connection. Use it with `async with`, in the task that reads the connection.

    The block ends with the error given to `end`, or with UploadBroken after `idle` seconds without a message.
    """

    def __init__(self, *, clock: Clock, idle: float) -> None:
        self._clock = clock
        self._idle = idle
        self.loop = asyncio.get_running_loop()
        """The loop of the connection. Asking for it takes a call of the system each time."""
        self._reader: asyncio.Task[object] | None = None
        """The task inside the block. None means that none is."""
        self._cancels = 0
        """Cancels that the reader was asked for before the block."""
        self._cut = False
        """Tells whether the reader was cancelled to end the block."""
        self._resting_since: float | None = None
        """The time of the loop's clock at which the last message was taken. None means that one is being taken."""
        self._alarm: asyncio.TimerHandle | None = None
        self._ending: LongshoreError | None = None
        self._heard_at = clock.ticks()

    @property
    def closing(self) -> bool:
        """Tell whether the connection has ended, and its last work is being completed."""
        return False

    @property
    def busy(self) -> bool:
        """Tell whether the sender waits for this server."""
        return False

    @property
    def silent(self) -> float:
        """Return the seconds for which the sender has sent nothing although it could."""
        return 0.0 if self.busy else self._clock.ticks() - self._heard_at

    def heartbeat(self) -> Heard | None:
        """Return the heartbeat for other servers. None means that none is due yet, or that none is needed."""
        return None

    def end(self, reason: LongshoreError) -> bool:
        """Ask the connection to end with `reason`. Returns False where that is too late."""
        if self._ending is None:
            self._ending = reason
            self._cut_off()
        return True

    async def __aenter__(self) -> Self:
        self._reader = asyncio.current_task(self.loop)
        if self._reader is None:
            raise RuntimeError("A connection is read by a task.")
        self._cancels = self._reader.cancelling()
        self._resting_since = self.loop.time()
        self._alarm = self.loop.call_later(self._idle, self._look_for_silence)
        if self._ending is not None:
            self._cut_off()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        reader, self._reader = self._reader, None
        if self._alarm is not None:
            self._alarm.cancel()
        # As in asyncio.timeout, whose objects took 1 % of a small upload: a cancel by others comes first.
        if self._cut and reader is not None and reader.uncancel() <= self._cancels and kind is asyncio.CancelledError:
            raise self._ending or UploadBroken(
                f"Nothing came for {self._idle:.0f} s. What is durable is kept: continue from GetUpload's offset."
            ) from error

    def _cut_off(self) -> None:
        """End the block by a cancel of the task that is in it."""
        if self._reader is not None and not self._cut:
            self._cut = True
            self._reader.cancel()

    def _heard(self) -> None:
        """Note that a message was taken."""
        self._heard_at = self._clock.ticks()
        self._resting_since = self.loop.time()

    def _look_for_silence(self) -> None:
        """End a connection that was silent for too long. The alarm is not set anew for each chunk: it looks when the
        last one came."""
        if self._reader is None or self._ending is not None:
            return
        now = self.loop.time()
        due = (now if self._resting_since is None else self._resting_since) + self._idle
        if due <= now:
            self._cut_off()
        else:
            self._alarm = self.loop.call_at(due, self._look_for_silence)
