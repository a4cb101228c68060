"""The server watches its memory and descriptors: when a trim is due, and how many connections there may be."""

from __future__ import annotations

import pytest
import structlog

from longshore.server.process import malloc_trim as memory
from longshore.server.process import openfiles
from longshore.server.process.malloc_trim import GROWTH, PATIENCE, SELDOM, SOON, WORTHWHILE, HeapTrimmer


class Machine:
    """A clock, a CPU and a heap of which `idle` bytes can be given back."""

    def __init__(self) -> None:
        self.now = 0.0
        self.used = 0.0
        self.live = 100 << 20
        self.idle = 0
        self.trims = 0

    def resident(self) -> int:
        return self.live + self.idle

    def trim(self) -> None:
        self.trims += 1
        self.idle = 0

    def made(self) -> HeapTrimmer:
        return HeapTrimmer(trim=self.trim, resident=self.resident, busy=lambda: self.used, clock=lambda: self.now)

    def looks(self, memory: HeapTrimmer, *, seconds: float, share: float = 0.0) -> int:
        """Look once a second, with so much of a core in use; answers how many trims there were."""
        before = self.trims
        for _ in range(int(seconds)):
            self.now += 1
            self.used += share
            if memory.due():
                memory.give_back()
        return self.trims - before


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_nothing_is_trimmed_while_the_server_has_not_grown(machine: Machine) -> None:
    memory = machine.made()
    machine.idle = GROWTH - 1
    assert machine.looks(memory, seconds=1000) == 0


def test_a_quiet_server_gives_back_at_once(machine: Machine) -> None:
    memory = machine.made()
    machine.idle = 500 << 20
    assert machine.looks(memory, seconds=1) == 1
    assert machine.resident() == machine.live
    assert machine.looks(memory, seconds=1000) == 0


def test_a_busy_server_waits_for_a_quiet_moment_and_not_for_ever(machine: Machine) -> None:
    memory = machine.made()
    machine.idle = 500 << 20
    assert machine.looks(memory, seconds=PATIENCE, share=0.9) == 0
    assert machine.looks(memory, seconds=1, share=0.9) == 1


def test_memory_freed_after_the_first_trim_is_returned_within_ten_seconds(machine: Machine) -> None:
    """A trim while a flood is still being worked off frees nothing; what it holds is free a moment later."""
    memory = machine.made()
    machine.live += 80 << 20
    machine.looks(memory, seconds=2)
    machine.live, machine.idle = machine.live - (80 << 20), 80 << 20
    machine.looks(memory, seconds=8)
    assert machine.idle == 0


def test_memory_in_use_is_tried_seldom(machine: Machine) -> None:
    memory = machine.made()
    machine.live += 500 << 20
    assert machine.looks(memory, seconds=3600) <= 3600 / SELDOM + 6


def test_more_growth_does_not_wait_for_the_pause(machine: Machine) -> None:
    memory = machine.made()
    machine.live += 500 << 20
    machine.looks(memory, seconds=3600)
    machine.idle = GROWTH + WORTHWHILE
    machine.looks(memory, seconds=SOON)
    assert machine.idle == 0


def test_this_process_can_trim() -> None:
    found = memory.of_this_process()
    assert found is not None
    found.give_back()
    assert memory.resident() > 1 << 20


@pytest.mark.parametrize(
    ("limit", "uploads", "listeners", "connections"),
    [
        (256, 64, 1, 128),  # at least half, although the uploads alone could take the rest
        (1024, 64, 1, 1024 - openfiles.OWN - 128),
        (1024, 64, 2, (1024 - openfiles.OWN - 128) // 2),
        (65536, 64, 1, 65536 - openfiles.OWN - 128),
        (8, 64, 8, 1),
    ],
)
def test_connections_leave_room(limit: int, uploads: int, listeners: int, connections: int) -> None:
    assert openfiles.for_connections(limit, uploads=uploads, listeners=listeners) == connections


def test_an_unlimited_process_has_a_bound_that_grpc_can_take() -> None:
    assert 1 << 20 < openfiles.for_connections(-1, uploads=64) < 1 << 31


def test_a_lack_of_descriptors_is_logged_once() -> None:
    counts = (25, 25, 100, 25 + 128, 25 + 128, 140, 25 + 128, 25 + 96 - openfiles.SLACK, 30, 25 + 128)
    counted = iter(counts)
    files = openfiles.OpenFiles(limit=256, connections=128, count=lambda: next(counted))
    with structlog.testing.capture_logs() as logs:
        for _ in counts[1:]:
            files.look()
    assert [line["event"] for line in logs] == ["connections_full", "connections_free", "connections_full"]
    assert logs[0]["log_level"] == "warning"
