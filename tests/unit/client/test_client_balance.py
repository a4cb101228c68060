"""The balance chooses the server that is asked next: pure, with a clock of its own."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from longshore.client.servers.balance import FIRST_REST, LONGEST_REST, Balance
from longshore.client.servers.endpoint import Endpoint

A, B, C = (Endpoint(host=name, port=1) for name in "abc")


class World:
    def __init__(self, *endpoints: Endpoint, chance: float = 0.0) -> None:
        self.now = 0.0
        self.balance = Balance(endpoints, clock=lambda: self.now, chance=lambda: chance)

    def picks(self, count: int) -> Counter[Endpoint | None]:
        return Counter(self.balance.pick() for _ in range(count))


def test_healthy_servers_are_asked_in_turn() -> None:
    assert World(A, B, C).picks(30) == {A: 10, B: 10, C: 10}


def test_the_first_server_is_chosen_at_random() -> None:
    chances = [number / 1000 for number in range(1000)]
    first = Counter(World(A, B, C, chance=chance).balance.pick() for chance in chances)
    assert min(first.values()) > 200


def test_a_failed_server_is_avoided_until_it_works_again() -> None:
    world = World(A, B)
    world.balance.failed(A)
    world.now += 1000
    assert world.picks(10) == {B: 10}
    assert list(world.balance.rested()) == [A]
    world.balance.worked(A)
    assert world.picks(10) == {A: 5, B: 5}
    assert list(world.balance.rested()) == []


def test_without_a_healthy_server_the_one_that_failed_first_is_asked() -> None:
    world = World(A, B)
    world.balance.failed(B)
    world.now += 0.1
    world.balance.failed(A)
    assert world.balance.pick() == B
    assert world.balance.pick(but={B}) == A
    assert world.balance.pick(but={A, B}) is None


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_rests_grow_and_are_bounded(failures: int, chance: float) -> None:
    world = World(A, B, chance=chance)
    for _ in range(failures):
        world.balance.failed(A)
    assert world.balance.rests(A)
    world.now += FIRST_REST / 2 - 0.01
    assert world.balance.rests(A)
    world.now += LONGEST_REST
    assert not world.balance.rests(A)


def test_a_servers_health_outlives_a_name_look_up() -> None:
    world = World(A, B)
    world.balance.failed(A)
    world.balance.update([C, A])
    assert world.picks(4) == {C: 4}
    world.balance.failed(B)
    assert set(world.balance.known) == {A, C}
