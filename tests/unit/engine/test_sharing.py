from __future__ import annotations

import itertools

import pytest

from longshore.server.model.sharing import Shares


def fill(shares: Shares, *targets: str) -> dict[str, int]:
    """Return the share of each target, one after the other, when there is no end of its tasks."""
    got = dict.fromkeys(targets, 0)
    for target in targets:
        while shares.of(target):
            shares.take(target)
            got[target] += 1
    assert shares.room >= 0
    return got


@pytest.mark.parametrize(("credits", "targets"), list(itertools.product(range(1, 9), range(1, 9))))
def test_no_target_gets_more_than_its_share_and_each_gets_one_while_there_are_credits(
    credits: int, targets: int
) -> None:
    names = [f"t{number}" for number in range(targets)]
    got = fill(Shares(room=credits, kept_for=names), *names)
    assert got["t0"] == max(1, credits - (targets - 1))
    assert list(got.values())[: min(credits, targets)].count(0) == 0, "several that hang leave the others theirs"
    assert sum(got.values()) == credits


def test_held_attempts_count_toward_the_share() -> None:
    # Of 8 credits 6 are taken by one target; two others are served and idle.
    shares = Shares(room=2, kept_for=("b", "c"))
    assert [shares.of(target) for target in ("a", "b", "c")] == [0, 1, 1]
    shares.take("b")
    assert [shares.of(target) for target in ("a", "b", "c")] == [0, 0, 1]
    shares.take("c")
    assert [shares.of(target) for target in ("a", "b", "c", "")] == [0, 0, 0, 0]


def test_a_task_without_a_target_uses_any_free_credit() -> None:
    assert Shares(room=2, kept_for=("b", "c")).of("") == 2


def test_without_credits_no_target_has_room() -> None:
    shares = Shares(room=-1, kept_for=("a", "b"))
    assert [shares.of(target) for target in ("a", "b", "c")] == [0, 0, 0]
