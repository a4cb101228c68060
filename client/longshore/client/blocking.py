"""The client for code without an event loop: AsyncClient, run on a thread."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

from longshore.client.aio import PATIENCE, TIMEOUT, AsyncClient
from longshore.client.runtime.loopthread import BlockingIterator, LoopThread
from longshore.client.servers.endpoint import Endpoint
from longshore.client.servers.patience import OnWait
from longshore.client.servers.tls import TLS

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _blocking(
    method: Callable[Concatenate[AsyncClient, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[Client, _P], _T]:
    """Make a method of Client that waits for the one of AsyncClient."""

    @functools.wraps(method)
    def call(self: Client, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._thread.run(method(self._client, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[AsyncClient, _P], AsyncIterator[_T]],
) -> Callable[Concatenate[Client, _P], BlockingIterator[_T]]:
    """Make a method of Client that iterates over what AsyncClient yields."""

    @functools.wraps(method)
    def call(self: Client, /, *args: _P.args, **kwargs: _P.kwargs) -> BlockingIterator[_T]:
        return BlockingIterator(self._thread, method(self._client, *args, **kwargs))

    signature = inspect.signature(method).replace(return_annotation=BlockingIterator)
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


class Client:
    """AsyncClient's surface, blocking: same names, same arguments, same errors. Use it with `with`.

    Any number of threads may share one. Callbacks are called on the client's own thread and must not use the client;
    `submissions` are iterated there too. A stream is an iterator, which `close()` ends early.
    Ctrl-C ends the call that waits, never the task.
    """

    def __init__(
        self,
        *,
        server: str | Endpoint | Sequence[str | Endpoint] | None = None,
        tls: TLS | None = None,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
        on_wait: OnWait | None = None,
    ) -> None:
        self._client: Final = AsyncClient(
            server=server,
            tls=tls,
            token=token,
            token_file=token_file,
            data_dir=data_dir,
            timeout=timeout,
            patience=patience,
            on_wait=on_wait,
        )
        self._thread: Final = LoopThread(name="longshore-client")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and end the thread. The client cannot be used afterwards. Idempotent."""
        if self._thread.running:
            self._thread.run(self._client.close())
            self._thread.close()

    upload = _blocking(AsyncClient.upload)
    push = _blocking(AsyncClient.push)
    get_upload = _blocking(AsyncClient.get_upload)
    submit = _blocking(AsyncClient.submit)
    submit_many = _iterating(AsyncClient.submit_many)
    get = _blocking(AsyncClient.get)
    list = _iterating(AsyncClient.list)
    attempts = _blocking(AsyncClient.attempts)
    watch = _iterating(AsyncClient.watch)
    wait = _blocking(AsyncClient.wait)
    cancel = _blocking(AsyncClient.cancel)
    upload_payload = _blocking(AsyncClient.upload_payload)
    submit_plan = _blocking(AsyncClient.submit_plan)
    get_batch = _blocking(AsyncClient.get_batch)
    cancel_batch = _blocking(AsyncClient.cancel_batch)
    retry = _blocking(AsyncClient.retry)
    stats = _blocking(AsyncClient.stats)
    workers = _blocking(AsyncClient.workers)
    drain_worker = _blocking(AsyncClient.drain_worker)
    pause_queue = _blocking(AsyncClient.pause_queue)
    resume_queue = _blocking(AsyncClient.resume_queue)
    settle = _blocking(AsyncClient.settle)
