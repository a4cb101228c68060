"""The thread that hears of other servers' commits."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import Any, Final

import psycopg
import sqlalchemy as sa

from longshore.server.store.commit_log import CHANNEL, CommitLog
from longshore.server.store.sql.link import Link

POLL: Final = 2.0
"""Seconds of silence after which the listener reads the log unasked: notifications are fast, but the log is the
truth."""

RECONNECT: Final = 0.5
"""Seconds between tries to connect again."""


class Listener:
    """Takes what the database notifies to the commit log, which reads on every POLL seconds besides. Mends its
    connection itself.

    `complain` is called in its thread with an error that is a defect.
    """

    def __init__(self, *, connect: Callable[[], Link], log: CommitLog, complain: Callable[[Exception], None]) -> None:
        self._connect = connect
        self._log = log
        self._complain = complain
        self._thread = threading.Thread(target=self._work, name="longshore-listener", daemon=True)
        self._closing = False
        self._bell, self._ring = os.pipe()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop; blocks for as long as the thread reads."""
        self._closing = True
        os.write(self._ring, b"x")
        if self._thread.ident is not None:
            self._thread.join()
        os.close(self._bell)
        os.close(self._ring)

    def _work(self) -> None:
        while not self._closing:
            link: Link | None = None
            try:
                link = self._connect()
                self._listen(link)
            except (psycopg.Error, sa.exc.DBAPIError, OSError):
                # The database is gone. The writer says whether it can be written; the listener only connects again.
                self._pause()
            except Exception as error:  # noqa: BLE001  a defect; subscribers need the rest all the same
                self._complain(error)
                self._pause()
            finally:
                if link is not None:
                    link.close()

    def _pause(self) -> None:
        select.select([self._bell], [], [], RECONNECT)

    def _listen(self, link: Link) -> None:
        connection: Any = link.driver_connection
        connection.execute(f"LISTEN {CHANNEL}")
        self._log.catch_up(link)
        while not self._closing:
            # Notifications that came with the answers of the last look are taken first: the socket is not readable for
            # them any more.
            heard = [notification.payload for notification in connection.notifies(timeout=0)]
            if heard:
                self._log.hear(link, heard)
                continue
            ready, _, _ = select.select([connection, self._bell], [], [], POLL)
            if not ready:
                self._log.catch_up(link)
