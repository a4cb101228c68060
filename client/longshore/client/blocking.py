"""The client for code without an event loop: AsyncClient, run on a thread."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, Literal, Self, Unpack

from longshore.client.aio import PATIENCE, TIMEOUT, AsyncClient
from longshore.client.runtime.loopthread import BlockingIterator, LoopThread
from longshore.client.servers.endpoint import Endpoint
from longshore.client.servers.patience import OnWait
from longshore.client.servers.tls import TLS
from longshore.client.transfer.content import Changing, ChangingName, Content
from longshore.client.transfer.submitting import AT_ONCE, Submission, Submitted
from longshore.client.transfer.upload import OnProgress
from longshore.client.transfer.watch import OnTaskProgress
from longshore.client.values.filters import FilterOptions
from longshore.client.values.specs import PushOptions
from longshore.v1 import admin_service_pb2, task_pb2
from longshore.v1 import task_service_pb2 as pb


class Client:
    """AsyncClient's surface, blocking: same names, same arguments, same errors. Use it with `with`.

    Any number of threads may share one. Callbacks are called on the client's own thread and must not use the client.
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

    def upload(
        self,
        content: Content,
        *,
        spec: task_pb2.TaskSpec,
        request_id: str = "",
        sha256: bytes | Literal["compute"] | None = None,
        progress: OnProgress | None = None,
        patience: float | None = None,
        changing: Changing | ChangingName = "refuse",
        keep_mode: bool = True,
    ) -> Sequence[task_pb2.Task]:
        """See AsyncClient.upload."""
        return self._thread.run(
            self._client.upload(
                content,
                spec=spec,
                request_id=request_id,
                sha256=sha256,
                progress=progress,
                patience=patience,
                changing=changing,
                keep_mode=keep_mode,
            )
        )

    def push(
        self,
        content: Content,
        *to: str | task_pb2.Destination,
        request_id: str = "",
        sha256: bytes | Literal["compute"] | None = None,
        progress: OnProgress | None = None,
        patience: float | None = None,
        changing: Changing | ChangingName = "refuse",
        keep_mode: bool = True,
        **options: Unpack[PushOptions],
    ) -> Sequence[task_pb2.Task]:
        """See AsyncClient.push."""
        return self._thread.run(
            self._client.push(
                content,
                *to,
                request_id=request_id,
                sha256=sha256,
                progress=progress,
                patience=patience,
                changing=changing,
                keep_mode=keep_mode,
                **options,
            )
        )

    def get_upload(self, request_id: str) -> pb.Upload:
        """See AsyncClient.get_upload."""
        return self._thread.run(self._client.get_upload(request_id))

    def submit(
        self,
        *,
        spec: task_pb2.TaskSpec,
        payload_id: str = "",
        content: bytes | None = None,
        request_id: str = "",
        patience: float | None = None,
    ) -> Sequence[task_pb2.Task]:
        """See AsyncClient.submit."""
        return self._thread.run(
            self._client.submit(
                spec=spec, payload_id=payload_id, content=content, request_id=request_id, patience=patience
            )
        )

    def submit_many(
        self,
        submissions: Iterable[Submission] | AsyncIterable[Submission],
        *,
        at_once: int = AT_ONCE,
        patience: float | None = None,
    ) -> BlockingIterator[Submitted]:
        """See AsyncClient.submit_many. `submissions` is iterated on the client's own thread."""
        return BlockingIterator(self._thread, self._client.submit_many(submissions, at_once=at_once, patience=patience))

    def get(self, task_id: str) -> task_pb2.Task:
        """See AsyncClient.get."""
        return self._thread.run(self._client.get(task_id))

    def list(
        self,
        filter: pb.TaskFilter | None = None,
        *,
        page_size: int = 100,
        limit: int | None = None,
        **options: Unpack[FilterOptions],
    ) -> Iterator[task_pb2.Task]:
        """See AsyncClient.list."""
        found = self._client.list(filter, page_size=page_size, limit=limit, **options)
        return BlockingIterator(self._thread, found)

    def attempts(self, task_id: str) -> Sequence[task_pb2.Attempt]:
        """See AsyncClient.attempts."""
        return self._thread.run(self._client.attempts(task_id))

    def watch(
        self,
        task_id: str,
        *,
        after_revision: int | None = None,
        progress: OnTaskProgress | None = None,
        patience: float | None = None,
    ) -> BlockingIterator[task_pb2.Task]:
        """See AsyncClient.watch."""
        watch = self._client.watch(task_id, after_revision=after_revision, progress=progress, patience=patience)
        return BlockingIterator(self._thread, watch)

    def wait(
        self,
        task_id: str,
        *,
        progress: OnTaskProgress | None = None,
        patience: float | None = None,
        timeout: float | None = None,
    ) -> task_pb2.Task:
        """See AsyncClient.wait."""
        return self._thread.run(self._client.wait(task_id, progress=progress, patience=patience, timeout=timeout))

    def cancel(self, task_id: str, *, reason: str = "", expected_revision: int | None = None) -> task_pb2.Task:
        """See AsyncClient.cancel."""
        return self._thread.run(self._client.cancel(task_id, reason=reason, expected_revision=expected_revision))

    def retry(
        self, task_id: str, *, force: bool = False, request_id: str = "", expected_revision: int | None = None
    ) -> task_pb2.Task:
        """See AsyncClient.retry."""
        return self._thread.run(
            self._client.retry(task_id, force=force, request_id=request_id, expected_revision=expected_revision)
        )

    def stats(self) -> admin_service_pb2.GetStatsResponse:
        """See AsyncClient.stats."""
        return self._thread.run(self._client.stats())

    def workers(self, *, include_ended: bool = False) -> Sequence[admin_service_pb2.Worker]:
        """See AsyncClient.workers."""
        return self._thread.run(self._client.workers(include_ended=include_ended))

    def drain_worker(self, session_id: str) -> admin_service_pb2.Worker:
        """See AsyncClient.drain_worker."""
        return self._thread.run(self._client.drain_worker(session_id))

    def pause_queue(self, queue: str, *, create: bool = False) -> None:
        """See AsyncClient.pause_queue."""
        self._thread.run(self._client.pause_queue(queue, create=create))

    def resume_queue(self, queue: str) -> None:
        """See AsyncClient.resume_queue."""
        self._thread.run(self._client.resume_queue(queue))

    def settle(self, task_id: str, *, settlement: admin_service_pb2.Settlement.ValueType) -> task_pb2.Task:
        """See AsyncClient.settle."""
        return self._thread.run(self._client.settle(task_id, settlement=settlement))
