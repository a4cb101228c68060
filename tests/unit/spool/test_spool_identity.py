"""A spool's identity ties it to one database: a small file that is made once, and that servers of others refuse."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from longshore.server.spool.directory.files import link, made_once
from longshore.server.spool.errors import SpoolRefused
from longshore.server.spool.identity import Identity


def read(content: bytes, database: str = "0001") -> Identity:
    return Identity.read(content, where="/srv/spool", database=database)


def test_written_bytes_are_read_back() -> None:
    made = Identity.new("0001")
    assert read(made.content()) == made
    assert Identity.new("0001").spool != made.spool


def test_another_databases_is_refused_with_the_remedy() -> None:
    with pytest.raises(SpoolRefused, match=r"another database.*write .*0001.* into /srv/spool/identity"):
        read(Identity.new("0002").content())


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"{}", b'{"spool": 1, "database": "0001"}', json.dumps({"spool": "a" * 32}).encode()],
)
def test_an_unreadable_spool_identity_is_refused_with_the_remedy(content: bytes) -> None:
    with pytest.raises(SpoolRefused, match="from a backup"):
        read(content)


def test_of_many_makers_one_is_believed_by_all(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda number: made_once(path, f"number {number}".encode() * 50), range(16)))
    assert found == {path.read_bytes()}
    assert [entry.name for entry in tmp_path.iterdir()] == ["identity"]


def test_a_half_made_one_is_never_seen(tmp_path: Path) -> None:
    """A crash in the middle leaves a file of another name, and the next start makes the identity anew."""
    (tmp_path / "identity.0123456789abcdef").write_bytes(b"hal")
    assert made_once(tmp_path / "identity", b"whole") == b"whole"


def test_where_there_are_no_links_a_file_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_names: object, **_more: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    assert made_once(tmp_path / "identity", b"content") == b"content"
    (tmp_path / "one").write_bytes(b"1")
    link(tmp_path / "one", tmp_path / "two")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["identity", "two"]


def test_other_errors_of_a_link_are_raised(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        link(tmp_path / "one", tmp_path / "two")


def test_a_spool_that_is_given_to_another_database_stays_the_same_spool() -> None:
    """The refusal tells an operator to edit the file; payloads are found by the spool's identity."""
    made = Identity.new("0001")
    by_hand = made.content().replace(b'"0001"', b'"0002"')
    assert read(by_hand, "0002").spool == made.spool
