"""A few threads for reads, each with its own connection: a long list holds up neither the loop nor the writer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from longshore.server.model.errors import StoreUnavailable
from longshore.server.store.sql.link import Link

PATIENCE: Final = 30.0
"""Seconds for a read, the wait for a thread included: while the database is silent no caller may wait in line."""

P = ParamSpec("P")
R = TypeVar("R")


class Readers:
    """The pool of reading threads. Each read sees one state: that of the last commit before it, or a later one."""

    def __init__(self, *, connect: Callable[[], Link], threads: int) -> None:
        self._connect = connect
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="longshore-reader")
        self._local = threading.local()
        self._links: list[Link] = []

    async def read(self, query: Callable[Concatenate[Link, P], R], *arguments: P.args, **keywords: P.kwargs) -> R:
        """Run `query` in a thread. Raises StoreUnavailable. After a cancel the thread finishes and its result is
        dropped; a query that still waits for a thread is not begun."""
        loop = asyncio.get_running_loop()

        def job() -> R:
            return self._run(lambda link: query(link, *arguments, **keywords))

        try:
            future = loop.run_in_executor(self._executor, job)
        except RuntimeError as error:
            raise StoreUnavailable("The store is closed.") from error
        try:
            async with asyncio.timeout(PATIENCE):
                return await future
        except TimeoutError:
            raise StoreUnavailable(f"The database has not been read within {PATIENCE:g} s: try again.") from None

    async def close(self) -> None:
        await asyncio.to_thread(self._executor.shutdown)
        for link in self._links:
            link.close()
        self._links.clear()

    def _run(self, query: Callable[[Link], R]) -> R:
        kept: Link | None = getattr(self._local, "link", None)
        try:
            return self._read(query)
        except StoreUnavailable as error:
            cause = error.__cause__
            if kept is None or cause is None or not kept.dialect.may_pass(cause):
                raise
        # The connection broke while it lay idle: read once more, with a new one.
        return self._read(query)

    def _read(self, query: Callable[[Link], R]) -> R:
        link: Link | None = getattr(self._local, "link", None)
        try:
            if link is None:
                link = self._local.link = self._connect()
                self._links.append(link)
            link.begin_snapshot()
            try:
                found = query(link)
            except BaseException:
                link.rollback()
                raise
            link.end_snapshot()
            return found
        except Exception as error:
            if link is not None:
                link.failed(error)
            if link is None or link.dialect.is_unavailable(error):
                self._drop(link)
                raise StoreUnavailable(f"The database cannot be read now ({error}): try again.") from error
            raise

    def _drop(self, link: Any) -> None:
        self._local.link = None
        if link is not None:
            self._links.remove(link)
            link.close()
