"""The route chooses the server that a session goes to, and how long it waits there: pure."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from longshore.client.servers.endpoint import Endpoint
from longshore.worker.agent.route import WELCOME, ServerRoute

A, B, C = (Endpoint(host="127.0.0.1", port=port) for port in (1, 2, 3))
LEASE = 6.0


async def test_a_round_asks_each_once() -> None:
    route = ServerRoute([A, B, C])
    for _ in range(3):
        asked = set()
        while True:
            endpoint = await route.next()
            asked.add(endpoint)
            route.ended(endpoint, stood=False)
            if route.over:
                break
        assert asked == {A, B, C}


async def test_workers_begin_anywhere() -> None:
    first = Counter([await ServerRoute([A, B, C]).next() for _ in range(300)])
    assert min(first.values()) > 50


async def test_after_a_good_connection_every_other_one_is_worth_a_try() -> None:
    route = ServerRoute([A, B])
    for _ in range(10):
        here = await route.next()
        route.welcomed(here)
        route.ended(here, stood=True)
        assert not route.over
        assert await route.next() != here


async def test_one_server_is_a_round_of_its_own() -> None:
    route = ServerRoute([A])
    assert not route.several
    for stood in (True, False):
        assert await route.next() == A
        route.ended(A, stood=stood)
        assert route.over
    assert route.silence(LEASE) is None
    assert route.welcome(lease=LEASE, left=0.0, rounds=0) == WELCOME
    assert all(route.elsewhere(A) is None for _ in range(10))


async def test_the_same_server_may_be_wanted() -> None:
    route = ServerRoute([A, B, C])
    for _ in range(10):
        here = await route.next()
        route.want(here)
        route.moved(here)
        assert await route.next() == here
        route.moved(here)


def test_silence_of_all_servers_is_tolerated_longer_each_time() -> None:
    route = ServerRoute([A, B])
    limits = []
    for _ in range(4):
        limits.append(route.silence(LEASE))
        route.fell_silent()
    assert limits == [LEASE / 2, LEASE, 2 * LEASE, 4 * LEASE]
    route.spoke()
    assert route.silence(LEASE) == LEASE / 2


async def test_the_rest_of_the_lease_is_shared_by_the_remaining_servers() -> None:
    route = ServerRoute([A, B, C])
    here = await route.next()
    route.ended(here, stood=True)
    assert route.welcome(lease=LEASE, left=5.7, rounds=0) == pytest.approx(1.9)
    route.ended(await route.next(), stood=False)
    assert route.welcome(lease=LEASE, left=3.8, rounds=0) == pytest.approx(1.9)
    # And when it is over there is time again: a database may be slow everywhere.
    waits = [route.welcome(lease=LEASE, left=0.0, rounds=rounds) for rounds in range(8)]
    assert waits[0] == LEASE / 4
    assert all(one <= two for one, two in itertools.pairwise(waits))
    assert waits[-1] == WELCOME


async def test_chance_leads_to_those_that_are_well() -> None:
    route = ServerRoute([A, B, C])
    found = Counter(route.elsewhere(A) for _ in range(300))
    assert min(found[B], found[C], found[None]) > 50
    route.unreachable(B)
    assert {route.elsewhere(A) for _ in range(300)} == {C, None}
