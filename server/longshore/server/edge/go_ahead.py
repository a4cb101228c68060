"""The go-ahead tells the client of an upload from where to send, in the initial metadata of the call."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

import grpc.aio

from longshore.server.edge.auth.error_guard import retrieve_error
from longshore.server.edge.status import tellable
from longshore.server.engine.uploads.small import SmallUpload
from longshore.server.engine.uploads.stream import UploadStream

UPLOAD_ID: Final = "longshore-upload-id"
REQUEST_ID: Final = "longshore-request-id"
OFFSET: Final = "longshore-offset"
COMPLETE: Final = "longshore-complete"
"""Keys of the initial metadata. COMPLETE is `true` or `false`, OFFSET decimal."""

_MOMENT: Final = 0.001
"""Seconds at least after which a client that says nothing is taken to wait for the go-ahead."""
_USUAL_TIMES: Final = 4
_LATELY: Final = 1 / 8
"""A client that does not wait sends its next message at once, but it may be busy: the moment is so many times longer
than such messages took lately, of which the newest has this weight. 64 clients of one slow process took 5 to 50 ms."""
_LONGEST: Final = 0.25
"""Seconds at most of that moment. A server that stood still for 10 s takes all its clients for slow ones; each client
that waits would then wait for 40 s, and clients have patience for 30."""

_Context = grpc.aio.ServicerContext[Any, Any]


async def send_go_ahead(stream: UploadStream | SmallUpload, context: _Context) -> None:
    """Tell the client from where to send.

    Cut off in the middle, by a take-over say, it is completed before the cut goes on: gRPC would send the metadata once
    more with the status, and fail (TOO_MANY_OPERATIONS).
    """
    metadata = (
        (UPLOAD_ID, stream.upload.id),
        (REQUEST_ID, stream.upload.request_id),
        (OFFSET, str(stream.offset)),
        (COMPLETE, "true" if stream.complete else "false"),
    )
    sending = asyncio.ensure_future(context.send_initial_metadata(metadata))
    # The task fails where the upload has just ended, and then nobody may wait for it any more.
    retrieve_error(sending)
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        await asyncio.wait({sending})
        raise


class GoAheads:
    """Sends go-aheads of small uploads to the clients that wait for one. A client that does not wait needs none: all
    that it sends is here before the store could be asked.

    One timer serves them all: as a rule an upload is whole before its go-ahead is due.
    """

    def __init__(self) -> None:
        self._waiting: deque[GoAhead] = deque()
        self._timed = False
        self._usual = 0.0
        """Seconds from the header to the next message, of clients that did not wait."""

    @property
    def moment(self) -> float:
        """Return the seconds after which a client that says nothing is taken to wait."""
        return min(_MOMENT + _USUAL_TIMES * self._usual, _LONGEST)

    def prepare(self, small: SmallUpload, context: _Context) -> GoAhead:
        """Prepare the go-ahead of a small upload."""
        loop, waiting = small.loop, self._waiting
        while waiting and waiting[0].settled:
            waiting.popleft()
        now, moment = loop.time(), self.moment
        made = GoAhead(self, small, context, begun=now, due=now + moment)
        waiting.append(made)
        if not self._timed:
            self._timed = True
            loop.call_later(moment, self._look, loop)
        return made

    def learn(self, seconds: float) -> None:
        """Note the time that a client took that did not wait."""
        self._usual += (min(seconds, _LONGEST) - self._usual) * _LATELY

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        # A message that has come by now is taken first, in this turn of the loop.
        loop.call_later(0, self._send, loop)

    def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting, now = self._waiting, loop.time()
        while waiting and (waiting[0].settled or waiting[0].due <= now):
            if waiting.popleft().begin():
                self._usual -= self._usual * _LATELY
        self._timed = bool(waiting)
        if waiting:
            loop.call_at(waiting[0].due, self._look, loop)


class GoAhead:
    """The go-ahead of one small upload."""

    __slots__ = ("_all", "_begun", "_context", "_sending", "_small", "due", "settled")

    def __init__(self, all_: GoAheads, small: SmallUpload, context: _Context, *, begun: float, due: float) -> None:
        self._all = all_
        self._small = small
        self._context = context
        self._begun = begun
        self._sending: asyncio.Task[None] | None = None
        self.due = due
        """The time of the loop's clock at which the client is taken to wait."""
        self.settled = False
        """Tells whether none is to be sent any more."""

    def begin(self) -> bool:
        """Send it, unless it is settled. Returns whether it is being sent."""
        if self.settled:
            return False
        self._sending = self._small.loop.create_task(self._send(), name="go-ahead of a small upload")
        retrieve_error(self._sending)
        return True

    async def heard(self) -> None:
        """Settle it, because the client has sent its next message."""
        if not self.settled and self._sending is None:
            self._all.learn(self._small.loop.time() - self._begun)
        await self.settle()

    async def settle(self) -> None:
        """Send none from now on. One that is being sent is waited for each time: the first wait may be cut off."""
        self.settled = True
        if self._sending is not None and not self._sending.done():
            await asyncio.wait({self._sending})

    async def _send(self) -> None:
        try:
            await self._small.look()
        except Exception as error:  # noqa: BLE001 - a client that waits is told of any error, and hangs otherwise
            self._small.end(tellable(error))
        else:
            await send_go_ahead(self._small, self._context)
