"""The client for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from pathlib import PurePath
from types import TracebackType
from typing import Final, Literal, Self, TypeVar, Unpack

from longshore.client.errors import ConfigurationError, WaitTimedOut, from_task
from longshore.client.runtime.forks import check_not_forked
from longshore.client.runtime.together import all_of
from longshore.client.servers.access import ServerAccess
from longshore.client.servers.connection import Connection, UnaryMethod
from longshore.client.servers.endpoint import Endpoint, find_credential, parse_servers
from longshore.client.servers.patience import OnWait, Patience
from longshore.client.servers.servers import Servers, Tour
from longshore.client.servers.tls import TLS, find_tls
from longshore.client.transfer.content import Changing, ChangingName, Content, open_source
from longshore.client.transfer.sources import sha256_of
from longshore.client.transfer.submitting import AT_ONCE, Submission, Submitted, Submitting
from longshore.client.transfer.upload import OnProgress, Uploading
from longshore.client.transfer.watch import OnTaskProgress, Watch
from longshore.client.values import arguments
from longshore.client.values.filters import FilterOptions, task_filter
from longshore.client.values.plans import PlanStep
from longshore.client.values.specs import PushOptions, push_spec, with_new_mode
from longshore.contract.limits import MOST_PER_PAGE
from longshore.contract.request_ids import new_request_id
from longshore.v1 import admin_service_pb2, task_pb2
from longshore.v1 import task_service_pb2 as pb

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

TIMEOUT: Final = 30.0
"""Seconds for one answer, unless the client is told otherwise."""
PATIENCE: Final = 60.0
"""Seconds to go on trying without getting anywhere, unless the client is told otherwise."""
_READ_AT_ONCE: Final = 16
"""Tasks that an answer only names are read so many at a time."""
_FIRST_ANSWER: Final = 5.0
"""Seconds for an answer while there are other servers to ask: one that hangs must not use up the whole time."""


class AsyncClient:
    """Hands in tasks, follows them and cancels them. Use it with `async with`, inside one event loop.

    `server` is HOST:PORT or unix:PATH, or several of them (a sequence, or with commas), else $LONGSHORE_SERVER, else
    127.0.0.1:7465. A name stands for all its addresses. Calls go round the servers that are well, from a random one on.
    `tls` says how servers are known, else the environment; see `TLS`. The token is found as `find_token` says; that of
    a data directory is shown to servers on this machine only.

    `timeout`: seconds for an answer to a call that is answered at once. `patience`: seconds in a row without getting
    anywhere after which missing or full servers are given up; 0 asks each of them once; calls that are answered at once
    try for no longer than `timeout`. `on_wait` is told before each pause. `timeout` is more than 0 and finite;
    `patience` may be `math.inf`.

    A client belongs to the event loop and to the process in which it is first used; elsewhere its methods raise
    ConfigurationError (OTHER_LOOP, FORKED). Every method raises LongshoreError. Cancelling a method ends the call and
    never the task.
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
        check_not_forked()
        self._pid: Final = os.getpid()
        self._endpoints: Final = parse_servers(server)
        find = partial(find_credential, token=token, token_file=token_file, data_dir=data_dir)
        # A token that is found stays. The first server of a data directory makes it, perhaps after this client.
        found = find()
        self._access: Final = ServerAccess(tls=tls or find_tls(), token=find if found is None else lambda: found)
        self._timeout: Final = arguments.seconds("timeout", timeout)
        self._patience: Final = arguments.seconds("patience", patience, zero=True, endless=True)
        self._on_wait: Final = on_wait
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened: Servers | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; calls that are under way end. The client cannot be used afterwards. Idempotent."""
        if self._opened is not None:
            self._check_place()
        self._closed = True
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    async def upload(
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
        """Send bytes and make tasks of them, durable on return: one per destination in their order, one for a job.

        A cut or a leaving server is resumed from what is durable there; a full one is asked again when it says so. The
        same `request_id` (made up if empty) with the same content gives the same tasks, also from another process.
        `sha256`: 32 bytes that the content must have, or "compute" to read it first and send its digest along. What
        cannot be read twice (a pipe, an iterator) is first copied to a temporary file, and so is a file whose size says
        nothing (procfs).

        `changing` says what to do about a file that is written to meanwhile: "refuse" it, copy it first ("snapshot"),
        or send what it has at the beginning, if it only grows ("as-of-now"). `keep_mode`: a regular file that is given
        by its path brings its permission bits (at most 0777) along; they are for files that are new at their
        destination, where the spec does not say a mode.
        """
        answer = await self._uploaded(
            content,
            spec=spec,
            request_id=request_id,
            sha256=sha256,
            progress=progress,
            patience=patience,
            changing=changing,
            keep_mode=keep_mode,
        )
        return await self._all_of(answer.tasks, answer.task_ids)

    async def _uploaded(
        self,
        content: Content,
        *,
        spec: task_pb2.TaskSpec | None,
        request_id: str,
        sha256: bytes | Literal["compute"] | None,
        progress: OnProgress | None,
        patience: float | None,
        changing: Changing | ChangingName,
        keep_mode: bool = False,
    ) -> pb.UploadResponse:
        """Upload. With `spec` None the bytes are only kept."""
        arguments.message(pb.UploadHeader, request_id=request_id, sha256=None if sha256 == "compute" else sha256)
        async with open_source(content, changing=changing) as source:
            if keep_mode and source.mode is not None and spec is not None:
                spec = with_new_mode(spec, source.mode)
            digest = await asyncio.to_thread(sha256_of, source) if sha256 == "compute" else sha256
            uploading = Uploading(
                tour=Tour(self._servers),
                source=source,
                request_id=request_id or new_request_id(),
                spec=spec,
                sha256=digest,
                patience=self._patient(patience),
                progress=progress,
            )
            return await uploading.run()

    async def push(
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
        """Upload a file to destinations such as "web/etc/motd", in one call: `upload` with `push_spec(*to, …)`.

        A destination that ends in `/` is a directory, and a file that is given by its path keeps its name there.
        """
        if not options.get("default_name") and isinstance(content, str | os.PathLike):
            options["default_name"] = PurePath(os.fsdecode(content)).name
        return await self.upload(
            content,
            spec=push_spec(*to, **options),
            request_id=request_id,
            sha256=sha256,
            progress=progress,
            patience=patience,
            changing=changing,
            keep_mode=keep_mode,
        )

    async def get_upload(self, request_id: str) -> pb.Upload:
        """Return how far an upload got: the bytes that are durable, and its tasks once it is complete."""
        request = arguments.message(pb.GetUploadRequest, request_id=request_id)
        answer = await self._call(lambda to: to.tasks.GetUpload, request)
        upload = answer.upload
        shown = len(upload.tasks)
        upload.tasks.extend((await self._all_of(upload.tasks, upload.task_ids))[shown:])
        return upload

    async def submit(
        self,
        *,
        spec: task_pb2.TaskSpec,
        payload_id: str = "",
        content: bytes | None = None,
        request_id: str = "",
        patience: float | None = None,
    ) -> Sequence[task_pb2.Task]:
        """Make tasks without an upload, durable on return: jobs, pushes of another task's payload, or of a small file
        (`content`, at most 64 KiB)."""
        one = Submission(spec=spec, payload_id=payload_id, content=content, request_id=request_id or new_request_id())
        answer = await self._call(lambda to: to.tasks.SubmitTask, one.request(), patience=patience)
        return await self._all_of(answer.tasks, answer.task_ids)

    def submit_many(
        self,
        submissions: Iterable[Submission] | AsyncIterable[Submission],
        *,
        at_once: int = AT_ONCE,
        patience: float | None = None,
    ) -> AsyncGenerator[Submitted, None]:
        """Make tasks of a great many submissions over one stream, and yield what became of each as soon as it is
        durable or refused, in whatever order. One that is refused stops none of the others.

        They are taken from `submissions` as room arises: at most `at_once` (1 to 1,000) wait for their answer. A cut or
        a leaving server is bridged, and a full one asked again, under the same request ids; `patience` is counted from
        the last answer. Leaving early: `aclose()`; what was taken by then may have become tasks. Raises what
        `submissions` raises, and what concerns all of them.
        """
        # Its own generator, and none around it: a loop that ends closes both at once, and one of them fails.
        return Submitting(
            tour=Tour(self._servers),
            submissions=submissions,
            patience=self._patient(patience),
            at_once=max(1, min(at_once, AT_ONCE)),
            on_wait=self._on_wait,
        ).run()

    async def get(self, task_id: str) -> task_pb2.Task:
        """Return the task as it is now."""
        request = arguments.message(pb.GetTaskRequest, task_id=task_id)
        answer = await self._call(lambda to: to.tasks.GetTask, request)
        return answer.task

    async def list(
        self,
        filter: pb.TaskFilter | None = None,
        *,
        page_size: int = 100,
        limit: int | None = None,
        **options: Unpack[FilterOptions],
    ) -> AsyncIterator[task_pb2.Task]:
        """Yield tasks, newest first, fetched a page at a time; at most `limit` of them.

        Which ones: a `filter`, or arguments by name (`state`, `kind`, `queue`, `target`, `instance`, `labels`,
        `created_after`, `created_before`, `request_id`, `creator`, `id_prefix`), or both; all must hold.
        """
        left = None if limit is None else arguments.whole("limit", limit, 0, 2**63)
        arguments.whole("page_size", page_size, 1, MOST_PER_PAGE)
        request = pb.ListTasksRequest(filter=task_filter(filter, **options))
        while left is None or left > 0:
            request.page_size = page_size if left is None else min(page_size, left)
            page = await self._call(lambda to: to.tasks.ListTasks, request)
            for task in page.tasks:
                yield task
            if left is not None:
                left -= len(page.tasks)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return

    async def attempts(self, task_id: str) -> Sequence[task_pb2.Attempt]:
        """Return every attempt of a task, oldest first."""
        request = arguments.message(pb.ListAttemptsRequest, task_id=task_id)
        attempts: list[task_pb2.Attempt] = []
        more = True
        while more:
            answer = await self._call(lambda to: to.tasks.ListAttempts, request)
            attempts += answer.attempts
            more = answer.more
            request.after = attempts[-1].number if attempts else 0
        return tuple(attempts)

    def watch(
        self,
        task_id: str,
        *,
        after_revision: int | None = None,
        progress: OnTaskProgress | None = None,
        patience: float | None = None,
    ) -> Watch:
        """Yield every change of a task after a revision, or from the task as it is: once, in order, until the task is
        done."""
        arguments.message(pb.WatchTaskRequest, task_id=task_id, after_revision=after_revision)
        return Watch(
            tour=Tour(self._servers),
            task_id=task_id,
            after_revision=after_revision,
            patience=self._patient(patience),
            progress=progress,
            on_wait=self._on_wait,
        )

    async def wait(
        self,
        task_id: str,
        *,
        progress: OnTaskProgress | None = None,
        patience: float | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the synchronous client has no other way
    ) -> task_pb2.Task:
        """Wait for a task to succeed, and return it.

        Raises TaskFailed, TaskCancelled or TaskExpired when it ended otherwise. After `timeout` seconds WaitTimedOut is
        raised, while the task goes on. None means that the call waits for as long as the task lives.
        """
        limit = None if timeout is None else arguments.seconds("timeout", timeout, zero=True)
        task: task_pb2.Task | None = None
        watch = self.watch(task_id, progress=progress, patience=patience)
        bound = asyncio.timeout(limit)
        try:
            async with bound:
                async for task in watch:  # noqa: B007 - the last one is what counts
                    pass
        except TimeoutError:
            if not bound.expired():
                raise
            raise WaitTimedOut(_not_done(task_id, limit or 0.0, task), task=task) from None
        finally:
            await watch.aclose()
        assert task is not None, "a watch has a revision at least"
        error = from_task(task)
        if error is not None:
            raise error
        return task

    async def cancel(self, task_id: str, *, reason: str = "", expected_revision: int | None = None) -> task_pb2.Task:
        """Cancel a task durably, and return the task as it then is. Idempotent."""
        request = arguments.message(
            pb.CancelTaskRequest, task_id=task_id, reason=reason, expected_revision=expected_revision
        )
        answer = await self._call(lambda to: to.tasks.CancelTask, request)
        return answer.task

    async def upload_payload(
        self,
        content: Content,
        *,
        request_id: str = "",
        sha256: bytes | Literal["compute"] | None = None,
        progress: OnProgress | None = None,
        patience: float | None = None,
        changing: Changing | ChangingName = "refuse",
    ) -> task_pb2.Payload:
        """Send bytes that are kept as a payload, for `submit_plan` and `submit`, and make no task. The server keeps
        them for its retention (a day, unless it says otherwise) if no task needs them. For the rest see `upload`."""
        answer = await self._uploaded(
            content,
            spec=None,
            request_id=request_id,
            sha256=sha256,
            progress=progress,
            patience=patience,
            changing=changing,
        )
        return answer.payload

    async def submit_plan(
        self,
        steps: Sequence[PlanStep],
        *,
        request_id: str = "",
        dry_run: bool = False,
        patience: float | None = None,
    ) -> Sequence[task_pb2.Task]:
        """Make the tasks of a plan in one transaction, all or none, durable on return: one for each step, in their
        order. A `dry_run` checks everything, and makes and returns none."""
        request = arguments.message(pb.SubmitPlanRequest, request_id=request_id or new_request_id(), dry_run=dry_run)
        request.steps.extend([step.message(number) for number, step in enumerate(steps)])
        answer = await self._call(lambda to: to.tasks.SubmitPlan, request, patience=patience)
        return await self._all_of(answer.tasks, answer.task_ids)

    async def get_batch(self, request_id: str, *, creator: str = "") -> pb.Batch:
        """Return what became of all tasks of a request, with one verdict. Operators name another `creator`."""
        request = arguments.message(pb.GetBatchRequest, request_id=request_id, creator=creator)
        answer = await self._call(lambda to: to.tasks.GetBatch, request)
        return answer.batch

    async def cancel_batch(self, request_id: str, *, reason: str = "", creator: str = "") -> pb.Batch:
        """Cancel every task of a request durably, and return what then is of them. Idempotent."""
        request = arguments.message(pb.CancelBatchRequest, request_id=request_id, reason=reason, creator=creator)
        answer = await self._call(lambda to: to.tasks.CancelBatch, request)
        return answer.batch

    async def retry(
        self, task_id: str, *, force: bool = False, request_id: str = "", expected_revision: int | None = None
    ) -> task_pb2.Task:
        """Make a new task like a failed, cancelled or expired one. `force` does so even if a later task has delivered
        to the destination."""
        request = arguments.message(
            pb.RetryTaskRequest,
            task_id=task_id,
            request_id=request_id or new_request_id(),
            force=force,
            expected_revision=expected_revision,
        )
        answer = await self._call(lambda to: to.tasks.RetryTask, request)
        return answer.task

    async def stats(self) -> admin_service_pb2.GetStatsResponse:
        """Return figures of queues, targets, spool and fleet."""
        return await self._call(lambda to: to.admin.GetStats, admin_service_pb2.GetStatsRequest())

    async def workers(self, *, include_ended: bool = False) -> Sequence[admin_service_pb2.Worker]:
        """Return the workers, sorted by name. `include_ended` adds the sessions that ended in the last hour, and those
        that were the last to serve a target that live tasks name."""
        request = admin_service_pb2.ListWorkersRequest(include_ended=include_ended)
        workers: list[admin_service_pb2.Worker] = []
        while True:
            answer = await self._call(lambda to: to.admin.ListWorkers, request)
            workers += answer.workers
            if not answer.next_page_token:
                return tuple(workers)
            request.page_token = answer.next_page_token

    async def drain_worker(self, session_id: str) -> admin_service_pb2.Worker:
        """Tell a worker to take no more work, finish and leave. Returns the worker as it then is. Idempotent."""
        request = arguments.message(admin_service_pb2.DrainWorkerRequest, session_id=session_id)
        answer = await self._call(lambda to: to.admin.DrainWorker, request)
        return answer.worker

    async def pause_queue(self, queue: str, *, create: bool = False) -> None:
        """Start no more tasks of a queue; accepting goes on. Idempotent. Raises NotFound (QUEUE_NOT_FOUND) for a queue
        that is not there, unless `create` says to make it."""
        request = arguments.message(admin_service_pb2.PauseQueueRequest, queue=queue, create=create)
        await self._call(lambda to: to.admin.PauseQueue, request)

    async def resume_queue(self, queue: str) -> None:
        """Start tasks of a queue again. Idempotent. Raises NotFound (QUEUE_NOT_FOUND) for a queue that is not there."""
        request = arguments.message(admin_service_pb2.ResumeQueueRequest, queue=queue)
        await self._call(lambda to: to.admin.ResumeQueue, request)

    async def settle(self, task_id: str, *, settlement: admin_service_pb2.Settlement.ValueType) -> task_pb2.Task:
        """Say what became of a commit that no worker could settle. Returns the task as it then is."""
        request = arguments.message(admin_service_pb2.SettleTaskRequest, task_id=task_id, settlement=settlement)
        answer = await self._call(lambda to: to.admin.SettleTask, request)
        return answer.task

    async def _all_of(self, shown: Sequence[task_pb2.Task], ids: Sequence[str]) -> Sequence[task_pb2.Task]:
        """Return all tasks of an answer: those that it has, and those that it only names, which are read one by one.

        A server of an older version names none.
        """
        named = ids[len(shown) :]
        left = iter(named)
        read: dict[str, task_pb2.Task] = {}

        async def reader() -> None:
            for each in left:
                read[each] = await self.get(each)

        await all_of(reader() for _ in range(min(_READ_AT_ONCE, len(named))))
        return (*shown, *(read[each] for each in named))

    def _servers(self) -> Servers:
        """Return the servers. They are made when first needed, because only then is there a loop to open connections
        in."""
        if self._closed:
            raise RuntimeError("the client is closed")
        self._check_place()
        if self._opened is None:
            self._opened = Servers(self._endpoints, self._access)
        return self._opened

    def _check_place(self) -> None:
        """Raise ConfigurationError in another process or another event loop than that of the first use."""
        check_not_forked(self._pid)
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ConfigurationError(
                "this AsyncClient is in use in another event loop, and its connections belong to that one: open a "
                "client in each loop (one in each asyncio.run), or use the blocking Client",
                reason="OTHER_LOOP",
            )

    def _patient(self, patience: float | None) -> float:
        """Return the seconds of patience for one call: those that were given with it, else the client's."""
        if patience is None:
            return self._patience
        return arguments.seconds("patience", patience, zero=True, endless=True)

    async def _call(
        self,
        method: Callable[[Connection], UnaryMethod[_Request, _Response]],
        request: _Request,
        *,
        patience: float | None = None,
    ) -> _Response:
        """Make one call, and try it again while that may help."""
        limit = min(self._patience, self._timeout) if patience is None else self._patient(patience)
        tour = Tour(self._servers)
        trying = Patience(limit=limit, route=tour, on_wait=self._on_wait)

        async def once() -> _Response:
            connection = await tour.connection()
            seconds = min(self._timeout, _FIRST_ANSWER) if tour.elsewhere else self._timeout
            return await connection.call(method(connection), request, seconds=seconds)

        return await trying.run(once)


def _not_done(task_id: str, seconds: float, task: task_pb2.Task | None) -> str:
    """Make the message about a task that was not done in time."""
    seen = task_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_").lower() if task is not None else "not seen"
    why = f": {task.wait_detail}" if task is not None and task.wait_detail else ""
    return f"the task {task_id} is {seen} after {seconds:g} s, and goes on{why}"
