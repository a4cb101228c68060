"""Contents kept at hand for assignments: bounded, the newest, and never those of an upload that was refused."""

from __future__ import annotations

from longshore.server.engine.sessions.small_payloads import SmallPayloads


def test_only_small_payloads_are_kept() -> None:
    small = SmallPayloads(largest=10)
    small.put("a", b"x" * 10)
    small.put("b", b"x" * 11)
    assert (small.get("a"), small.get("b"), small.get("c")) == (b"x" * 10, b"", b"")


def test_the_oldest_make_room() -> None:
    small = SmallPayloads(largest=10, room=30)
    for name in "abcd":
        small.put(name, name.encode() * 10)
    assert (small.get("a"), small.get("b"), len(small)) == (b"", b"b" * 10, 3)


def test_the_last_content_of_an_upload_counts() -> None:
    small = SmallPayloads(largest=10, room=30)
    for _ in range(100):
        small.put("a", b"first")
        small.put("a", b"second one")
    assert small.get("a") == b"second one"
    small.put("b", b"x" * 10)
    small.put("c", b"x" * 10)
    assert len(small) == 3
