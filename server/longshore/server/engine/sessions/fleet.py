"""The fleet knows the connections that are open here, and rings a bell for each kind of change among them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from longshore.server.engine.sessions.connection import WorkerConnection


class Fleet:
    """Keeps at most one connection per session. Listeners are called on the loop, synchronously."""

    def __init__(self) -> None:
        self._connections: dict[str, WorkerConnection] = {}
        self._on_room: list[Callable[[WorkerConnection], None]] = []
        self._on_change: list[Callable[[], None]] = []

    def connection(self, session_id: str) -> WorkerConnection | None:
        return self._connections.get(session_id)

    def connections(self) -> Collection[WorkerConnection]:
        return tuple(self._connections.values())

    def serving(self, target: str) -> list[WorkerConnection]:
        """List the connections that can do something on a target now, the oldest first."""
        return [
            one
            for one in self._connections.values()
            if target in one.session.targets and not (one.over or one.leaving or one.draining)
        ]

    def targets(self) -> frozenset[str]:
        """Return the targets that sessions here serve."""
        return frozenset(target for one in self._connections.values() for target in one.session.targets)

    def add(self, connection: WorkerConnection) -> None:
        self._connections[connection.id] = connection
        self.changed()

    def remove(self, connection: WorkerConnection) -> None:
        """Remove the connection, unless a newer one of its session has its place already."""
        if self._connections.get(connection.id) is connection:
            del self._connections[connection.id]
            self.changed()

    def room(self, connection: WorkerConnection) -> None:
        """Tell the listeners that the connection's credits changed, or that it holds less."""
        for listener in self._on_room:
            listener(connection)

    def changed(self) -> None:
        """Tell the listeners that a connection came, went, or drains."""
        for listener in self._on_change:
            listener()

    def on_room(self, listener: Callable[[WorkerConnection], None]) -> None:
        self._on_room.append(listener)

    def on_change(self, listener: Callable[[], None]) -> None:
        self._on_change.append(listener)
