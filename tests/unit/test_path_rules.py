"""Which paths, instance names and modes are taken, and how temps are called."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.worker.errors import AttemptError, PermanentError
from longshore.worker.targets.paths import (
    MAX_TRIES_PER_ATTEMPT,
    check_instance,
    check_mode,
    is_temp,
    normalise,
    parents,
    temp_path,
    temps_of,
)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("/file", "/file"),
        ("//a///b", "/a/b"),
        ("/./a/./b", "/a/b"),
        ("/a/...", "/a/..."),
        ("/a/..b", "/a/..b"),
        ("/ü/é", "/ü/é"),
        ("/" + "n" * 255, "/" + "n" * 255),
    ],
)
def test_one_spelling_for_each_path(written: str, normal: str) -> None:
    assert normalise(written) == normal


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "INVALID_ARGUMENT"),
        ("relative/file", "INVALID_ARGUMENT"),
        ("/", "INVALID_ARGUMENT"),
        ("/folder/", "INVALID_ARGUMENT"),
        ("/folder/.", "INVALID_ARGUMENT"),
        ("/a\0b", "INVALID_ARGUMENT"),
        ("/\udcff", "INVALID_ARGUMENT"),
        ("/a/../b", "PATH_ESCAPES"),
        ("/..", "PATH_ESCAPES"),
        ("/" + "n" * 256, "NAME_TOO_LONG"),
        ("/" + "ü" * 128, "NAME_TOO_LONG"),
        ("/n" * 2048, "NAME_TOO_LONG"),
    ],
)
def test_paths_that_are_refused(path: str, reason: str) -> None:
    with pytest.raises(PermanentError) as caught:
        normalise(path)
    assert caught.value.reason == reason


@given(st.text(alphabet=st.sampled_from("/.ab\0ü"), max_size=20))
def test_a_path_is_refused_or_safe_and_stays_as_it_is(path: str) -> None:
    try:
        normal = normalise(path)
    except AttemptError:
        return
    assert normalise(normal) == normal
    assert normal == posixpath.normpath(normal)
    assert not {"", ".", ".."} & set(normal.split("/")[1:])
    assert [posixpath.dirname(normal)] == ["/", *parents(normal)][-1:]


@given(st.text(min_size=0, max_size=300), st.integers(1, 10**9), st.text("ab/", min_size=1, max_size=4090))
def test_temps_are_beside_their_destination_and_fit(task_id: str, attempt: int, tail: str) -> None:
    try:
        path = normalise("/" + tail)
        temps = temps_of(path, task_id, attempt)
    except AttemptError:
        return
    assert len(set(temps)) == MAX_TRIES_PER_ATTEMPT
    for temp in temps:
        assert posixpath.dirname(temp) == posixpath.dirname(path)
        assert len(posixpath.basename(temp).encode()) <= 255
        assert is_temp(temp)
        assert normalise(temp) == temp


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(1, 30), st.integers(1, 4)), unique=True, max_size=30))
def test_no_two_tries_share_a_temp(tries: list[tuple[str, int, int]]) -> None:
    names = {temp_path("/file", task_id, attempt, number) for task_id, attempt, number in tries}
    assert len(names) == len(tries)


def test_a_temp_names_its_attempt() -> None:
    assert temp_path("/etc/motd", "01JC", 3, 2) == "/etc/.longshore-01JC-3-2.tmp"
    for number in (0, MAX_TRIES_PER_ATTEMPT + 1):
        with pytest.raises(ValueError, match="not in 1"):
            temp_path("/etc/motd", "01JC", 3, number)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "/.longshore-x.tmp", "/.longshore-a-1-1.tmp.bak", "/longshore-a-1-1.tmp"]
)
def test_what_is_no_temp_is_never_taken_for_one(name: str) -> None:
    assert not is_temp(name)


@pytest.mark.parametrize("name", ["c1", "web-01", "_x", "a.b", "x" * 63])
def test_instance_names(name: str) -> None:
    assert check_instance(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", ".a", "x" * 64, "a b", "a\n", "ü"])
def test_instance_names_that_are_refused(name: str) -> None:
    with pytest.raises(PermanentError):
        check_instance(name)


@pytest.mark.parametrize("mode", [-1, 0o1000, 0o4755])
def test_modes_that_cannot_be_kept_are_refused(mode: int) -> None:
    with pytest.raises(PermanentError):
        check_mode(mode)
