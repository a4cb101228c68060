"""A stage for end-to-end tests: a server, instance roots, a client, and workers that come and go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longshore.client import Client, push_spec
from longshore.v1 import task_pb2
from tests.support.servers.processes import ServerProcess, WorkerProcess, eventually

FAULTY = Path(__file__).parents[1] / "workers" / "faulty_worker.py"


class Stage:
    """Processes under one root. Its instances are folders, `web` is there already; stages of one fleet share them."""

    def __init__(self, root: Path, server: ServerProcess, client: Client, *, instances: Path | None = None) -> None:
        self.root, self.server, self.client = root, server, client
        self.instances = instances or root / "instances"
        self.mark = root / "accident"
        (self.instances / "web" / "etc").mkdir(parents=True, exist_ok=instances is not None)

    @property
    def target(self) -> str:
        return f"default=directory:{self.instances}"

    def worker(self, *options: str, name: str = "worker", **more: Any) -> WorkerProcess:
        """A worker for the directory target."""
        return WorkerProcess(self.server, *options, name=name, **({"targets": [self.target]} | more))

    def faulty(self, at: str, what: str, *options: str, name: str = "faulty", **more: Any) -> WorkerProcess:
        """One that has an accident; see tests/support/workers/faulty_worker.py."""
        accident = {"ACCIDENT_AT": at, "ACCIDENT": what, "ACCIDENT_MARK": str(self.mark)}
        return self.worker(*options, name=name, script=FAULTY, environment=accident, **more)

    def push(self, content: Any, to: str = "web/etc/motd", **options: Any) -> str:
        """Upload to one destination; the task's id."""
        tasks: Sequence[task_pb2.Task] = self.client.upload(content, spec=push_spec(to, **options))
        return tasks[0].id

    def reaches(self, task_id: str, *states: int, within: float = 40.0) -> task_pb2.Task:
        """The task, as soon as it is in one of these states."""

        def look() -> task_pb2.Task | None:
            task = self.client.get(task_id)
            return task if task.state in states else None

        names = [task_pb2.TaskState.Name(state) for state in states]  # type: ignore[arg-type]
        found: task_pb2.Task = eventually(look, within=within, what=f"{names} of {task_id}")
        return found

    def outcomes(self, task_id: str) -> list[str]:
        """Return how each attempt ended."""
        return [attempt.outcome for attempt in self.client.attempts(task_id)]


@contextmanager
def staged(root: Path, *options: str) -> Iterator[Stage]:
    """A stage whose server has these options."""
    with (
        ServerProcess(root, *options) as server,
        Client(server=server.address, token_file=server.token_file) as client,
    ):
        yield Stage(root, server, client)


def ended(client: Client, task_id: str) -> task_pb2.Task:
    """The task when it is done, however it ended."""
    *_, last = client.watch(task_id)
    return last
