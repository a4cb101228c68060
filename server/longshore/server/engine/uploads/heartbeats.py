"""Signs of life of uploads, for other servers: they leave alone what is being sent here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from longshore.server.engine.uploads.connection import UploadConnection
from longshore.server.model.errors import LongshoreError, UploadTakenOver
from longshore.server.model.servers import HEARD_EVERY, Here
from longshore.server.store.commands.servers import HearUploads
from longshore.server.store.protocol import Store

_log = structlog.get_logger("longshore.uploads")


async def send_heartbeats(store: Store, here: Here, streams: Callable[[], Iterable[UploadConnection]]) -> None:
    """Send one command every few seconds, until cancelled, for all connections that are as old as that, and none where
    there are none. A connection whose upload another server has taken over is ended."""
    while True:
        await asyncio.sleep(HEARD_EVERY)
        heard = {
            heartbeat.upload_id: (stream, heartbeat)
            for stream in streams()
            if (heartbeat := stream.heartbeat()) is not None
        }
        if not heard:
            continue
        try:
            lost = await store.run(HearUploads(here=here, uploads=tuple(heartbeat for _, heartbeat in heard.values())))
        except LongshoreError as error:
            _log.warning("uploads_not_heard", error=error.message)
            continue
        for upload_id in lost:
            heard[upload_id][0].end(UploadTakenOver("Another connection continues this upload; this one may not."))
