from __future__ import annotations

from collections.abc import Callable

from longshore.server.engine.sessions.progress import ProgressBoard
from longshore.server.engine.watch import Progress


def test_only_the_newest_is_kept_and_watchers_are_told() -> None:
    board = ProgressBoard()
    rung: list[str] = []
    stop = board.subscribe("task-1", lambda: rung.append("one"))
    board.subscribe("task-1", lambda: rung.append("two"))
    board.subscribe("task-2", lambda: rung.append("other"))
    for done in range(1000):
        board.update("task-1", Progress(1, done, 1000))
    assert board.latest("task-1") == Progress(1, 999, 1000)
    assert len(board) == 1
    assert rung.count("one") == rung.count("two") == 1000
    assert "other" not in rung
    stop()
    stop()
    board.update("task-1", Progress(1, 1000, 1000))
    assert rung.count("one") == 1000
    assert rung.count("two") == 1001


def test_an_ended_attempt_is_forgotten_and_a_newer_one_is_not() -> None:
    board = ProgressBoard()
    board.update("task-1", Progress(2, 5, 10))
    board.forget("task-1", 1)
    assert board.latest("task-1") == Progress(2, 5, 10)
    board.forget("task-1", 2)
    assert board.latest("task-1") is None
    assert len(board) == 0
    board.forget("task-1", 2)


def test_a_watcher_may_leave_during_a_notification() -> None:
    board = ProgressBoard()
    stops: list[Callable[[], None]] = []

    def leave() -> None:
        for stop in stops:
            stop()

    stops.append(board.subscribe("task-1", leave))
    stops.append(board.subscribe("task-1", leave))
    board.update("task-1", Progress(1, 1, 2))
    assert board.latest("task-1") == Progress(1, 1, 2)
