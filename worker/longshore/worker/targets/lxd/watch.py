"""This module watches a daemon's instances by its event stream, with a slow poll beside it.

The events wake parked tasks at once; the poll makes sure that none sleeps for ever when an event was lost. An event
only says where to look: the state reported is the one asked for afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from longshore.worker.errors import AttemptError
from longshore.worker.targets.base import InstanceChange, InstanceState
from longshore.worker.targets.lxd.client import EventStream, LxdClient
from longshore.worker.targets.paths import check_instance

_TICK_S: Final = 0.5
_RETRY_S: Final = 2.0
_EVERYTHING: Final = "*"


class LxdWatch:
    """A thread that reports. Errors of the daemon never end it; a callback that raises does."""

    def __init__(
        self,
        client: LxdClient,
        callback: Callable[[InstanceChange], None],
        *,
        project: str,
        poll_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._callback = callback
        self._project = project
        self._poll_s = poll_s
        self._clock = clock
        self._scope = _EVERYTHING
        self._known: set[tuple[str, str]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="longshore-lxd-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the watch. Returns when no callback can begin any more, or after a daemon's time-out."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                # The stream first and the listing second: what happens in between is in the stream.
                stream = self._client.events(self._scope)
            except AttemptError:
                self._poll_without_stream()
                continue
            try:
                self._follow(stream)
            except AttemptError:
                self._stop.wait(_RETRY_S)
            finally:
                stream.close()

    def _poll_without_stream(self) -> None:
        """Go on without events: the daemon is down, or the certificate may see one project only."""
        self._scope = self._project if self._scope == _EVERYTHING else _EVERYTHING
        try:
            self._list()
        except AttemptError:
            pass  # The daemon is down. Its return is noticed here, by the next round.
        self._stop.wait(min(_RETRY_S, self._poll_s))

    def _follow(self, stream: EventStream) -> None:
        self._list()
        due = self._clock() + self._poll_s
        while not self._stop.is_set():
            for event in stream.next(_TICK_S):
                for project, instance in subjects(event):
                    self._report(project, instance, self._client.state(project, instance))
            if self._clock() >= due:
                self._list()
                due = self._clock() + self._poll_s

    def _list(self) -> None:
        # Everything is reported, changed or not: a task may have been parked by a state that came and went unseen.
        now = {(info.project, info.name): info.state for info in self._client.instances(self._scope)}
        in_scope = {key for key in self._known if self._scope in (_EVERYTHING, key[0])}
        for project, instance in in_scope - now.keys():
            self._report(project, instance, InstanceState.ABSENT)
        for (project, instance), state in now.items():
            self._report(project, instance, state)

    def _report(self, project: str, instance: str, state: InstanceState) -> None:
        if self._stop.is_set():
            return
        if state is InstanceState.ABSENT:
            self._known.discard((project, instance))
        else:
            self._known.add((project, instance))
        self._callback(InstanceChange(project, instance, state))


def subjects(event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Return project and name of the instances that a lifecycle event names; of a renamed one, both names."""
    metadata = event.get("metadata")
    if event.get("type") != "lifecycle" or not isinstance(metadata, dict):
        return
    source = urlsplit(str(metadata.get("source", "")))
    parts = source.path.strip("/").split("/")
    if len(parts) != 3 or parts[1] not in ("instances", "containers", "virtual-machines"):
        return
    project = str(event.get("project") or parse_qs(source.query).get("project", ["default"])[0])
    context = metadata.get("context")
    old_name = context.get("old_name") if isinstance(context, dict) else None
    for name in (unquote(parts[2]), old_name):
        if isinstance(name, str):
            try:
                yield project, check_instance(name)
            except AttemptError:
                continue  # No task can name such an instance.
