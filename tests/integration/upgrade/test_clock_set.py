"""The wall clock is set, back or ahead, while a SQLite server runs or while it is down: durations are kept."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from longshore.client import Client, push_spec
from longshore.server.model.clock import Clock
from longshore.server.store.commands.servers import NoteClock
from longshore.server.store.handlers.clock_steps import LEAST, MOVED, ClockSteps
from longshore.server.store.tables import schema
from longshore.v1 import task_pb2
from tests.support.servers.processes import ServerProcess, WorkerProcess, eventually
from tests.support.skewed import skewed_by

HOUR = 3600.0
DAY = 24 * HOUR


@dataclass
class Scene:
    """A server whose wall clock `set_clock` sets, and what it takes to deliver."""

    root: Path
    server: ServerProcess
    skew: Path

    def set_clock(self, seconds: float) -> None:
        fresh = self.skew.with_name("skew.new")
        fresh.write_text(repr(seconds))
        fresh.rename(self.skew)

    def client(self) -> Client:
        return Client(server=self.server.address, token_file=self.server.token_file)

    def worker(self) -> WorkerProcess:
        return WorkerProcess(self.server, targets=[f"default=directory:{self.root}/instances"])


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    (tmp_path / "instances" / "web" / "etc").mkdir(parents=True)
    skew = tmp_path / "skew"
    skew.write_text("0.0")
    database = f"sqlite:///{tmp_path}/data/longshore.db"
    with ServerProcess(tmp_path, "--database", database, environment=skewed_by(skew)) as server:
        yield Scene(tmp_path, server, skew)


def at_run_time(scene: Scene, seconds: float) -> None:
    scene.set_clock(seconds)
    eventually(lambda: list(scene.server.events("clock_set")), what="a server that has noticed")


def while_it_is_down(scene: Scene, seconds: float) -> None:
    scene.server.terminate()
    scene.set_clock(seconds)
    scene.server.start()


WHEN = [at_run_time, while_it_is_down]


@pytest.mark.parametrize("when", WHEN)
def test_a_clock_set_back_makes_nothing_wait_longer(scene: Scene, when: Callable[[Scene, float], None]) -> None:
    with scene.client() as client:
        (task,) = client.upload(b"x", spec=push_spec("web/etc/motd", not_before=10.0))
        when(scene, -6 * HOUR)
        with scene.worker():
            began = time.monotonic()
            client.wait(task.id)
            assert time.monotonic() - began < 60.0
        found = client.get(task.id)
        # People read times of the clock as it is now.
        assert abs(found.finish_time.seconds - (time.time() - 6 * HOUR)) < 60.0
        assert found.create_time.seconds <= found.start_time.seconds <= found.finish_time.seconds


@pytest.mark.parametrize("when", WHEN)
def test_a_clock_set_ahead_ends_nothing_early(scene: Scene, when: Callable[[Scene, float], None]) -> None:
    with scene.client() as client:
        client.pause_queue("default", create=True)
        (waiting,) = client.upload(b"x", spec=push_spec("web/etc/waits", expire_after=HOUR))
        (later,) = client.upload(b"x", spec=push_spec("web/etc/later", not_before=DAY))
        (ended,) = client.upload(os.urandom(100_000), spec=push_spec("web/etc/cancelled"))
        client.cancel(ended.id)
        when(scene, 30 * DAY)
        # Timers have fired: a new task of another queue is done meanwhile.
        with scene.worker():
            (other,) = client.upload(b"x", spec=push_spec("web/etc/other", queue="other", not_before=1.0))
            client.wait(other.id)
        assert client.get(waiting.id).state == task_pb2.TASK_STATE_QUEUED
        assert client.get(later.id).state == task_pb2.TASK_STATE_SCHEDULED
        # Its payload is kept for a retry as long as was promised.
        client.retry(ended.id)


def test_a_clock_that_runs_on_moves_nothing(scene: Scene) -> None:
    with scene.client() as client:
        client.pause_queue("default", create=True)
        (task,) = client.upload(b"x", spec=push_spec("web/etc/motd"))
        before = client.get(task.id)
        for _ in range(2):
            scene.server.kill()
            scene.server.start()
        assert client.get(task.id).create_time == before.create_time
        assert client.get(task.id).expire_time == before.expire_time
        assert not list(scene.server.events("clock_set"))


def test_a_restore_is_reported_by_the_current_clock(scene: Scene) -> None:
    with scene.client() as client:
        client.pause_queue("default", create=True)
        client.upload(b"x", spec=push_spec("web/etc/motd"))
        scene.server.terminate()
        shutil.rmtree(scene.server.data / "generation")
        scene.server.start()
        before = client.stats().restored.notice_time.seconds
        at_run_time(scene, -6 * HOUR)
        assert client.stats().restored.notice_time.seconds == pytest.approx(before - 6 * HOUR, abs=60.0)


# Decisions ---------------------------------------------------------------------------------------------------------


class Hands(Clock):
    """Clocks that a test sets."""

    def __init__(self, wall: float, ticks: float) -> None:
        self.wall, self.boot_time = wall, ticks

    def now(self) -> float:
        return self.wall

    def ticks(self) -> float:
        return self.boot_time

    def jitter(self) -> float:
        return 0.5


def _known(hands: Hands, boot: int) -> ClockSteps:
    steps = ClockSteps(hands, boot=boot)
    steps.noted(NoteClock(boot=boot, ticks=hands.ticks(), wall=hands.now(), step=0.0))
    return steps


@pytest.mark.parametrize(
    ("wall", "ticks", "step"),
    [
        pytest.param(1100.0, 600.0, 0.0, id="both go on"),
        pytest.param(4700.0, 600.0, 3600.0, id="set ahead by an hour"),
        pytest.param(-2500.0, 600.0, -3600.0, id="set back by an hour"),
        pytest.param(1100.0 + LEAST / 2, 600.0, 0.0, id="read one after the other"),
        pytest.param(1000.0, 20.0, 0.0, id="rebooted at once"),
        pytest.param(9000.0, 20.0, 0.0, id="rebooted after hours"),
        pytest.param(400.0, 20.0, -600.0, id="rebooted with a clock that is behind"),
    ],
)
def test_a_clock_step_is_the_difference_of_wall_clock_and_boot_time(wall: float, ticks: float, step: float) -> None:
    hands = Hands(1000.0, 500.0)
    steps = _known(hands, boot=1)
    hands.wall, hands.boot_time = wall, ticks
    if ticks < 500.0:
        steps = ClockSteps(hands, boot=2)
        steps.noted(NoteClock(boot=1, ticks=500.0, wall=1000.0, step=0.0))
    due = steps.due()
    assert (0.0 if due is None else due.step) == pytest.approx(step)


def test_every_stored_time_moves() -> None:
    """A time that stays behind would keep what it dates for too long, or forget it at once."""
    tables = [
        table for table in schema.metadata.sorted_tables if table not in (schema.tokens, schema.homes, schema.servers)
    ]
    times = {
        column for table in tables for column in table.columns if column.name.endswith(("_at", "_until", "until_at"))
    }
    assert times == set(MOVED)


def test_many_small_steps_add_up() -> None:
    hands = Hands(1000.0, 500.0)
    steps = _known(hands, boot=1)
    total = 0.0
    for _ in range(10):
        hands.boot_time += 10.0
        hands.wall += 10.0 - LEAST * 0.4
        due = steps.due()
        assert due is not None
        total += due.step
        steps.noted(due)
    assert total == pytest.approx(-LEAST * 4, abs=LEAST)
