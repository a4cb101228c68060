"""Which paths, instance names and modes are taken, and how temps are called."""

from __future__ import annotations

import posixpath
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.client.cli.input import checks
from longshore.server.edge.messages import fields
from longshore.server.model.errors import InvalidField
from longshore.worker.attempts.handlers import Registry
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


def accepts(check: Callable[[str], object], value: str) -> bool:
    try:
        check(value)
    except (AttemptError, InvalidField, ValueError):
        return False
    return True


@given(
    st.text(alphabet=st.sampled_from("aZ0-._/ \n\0ü"), max_size=5) | st.text(alphabet="a-", min_size=60, max_size=66)
)
def test_server_and_worker_take_the_same_instance_names(name: str) -> None:
    assert accepts(lambda value: fields.instance("instance", value), name) == accepts(check_instance, name)
    # The command line's own check comes first; an empty name is no name there.
    assert not name or accepts(checks.instance, name) == accepts(check_instance, name)


@given(st.text(alphabet=st.sampled_from("a0-._/ü"), max_size=5) | st.text(alphabet="a", min_size=60, max_size=66))
def test_server_and_worker_take_the_same_kinds(kind: str) -> None:
    assert accepts(lambda value: fields.name("kind", value), kind) == accepts(
        lambda value: Registry().add(value, print), kind
    )


@given(st.integers(-1, 0o1100))
def test_server_and_worker_take_the_same_modes(mode: int) -> None:
    # The contract has no negative modes.
    assert (mode >= 0 and accepts(lambda _: fields.mode("mode", mode), "")) == accepts(lambda _: check_mode(mode), "")


COMPONENT = st.sampled_from(
    ["", ".", "..", "...", "a", "ü", "\0", "n" * 254, "n" * 255, "n" * 256, "ü" * 127, "ü" * 128]
)
LONG = st.integers(3700, 4110).map(lambda size: ("/" + "n" * 99) * (size // 100) + "/" + "n" * (size % 100))
LONG_FOLDER = st.tuples(LONG, st.integers(1, 255)).map(lambda both: f"{both[0]}/{'x' * both[1]}")


@given(st.lists(COMPONENT, max_size=20).map("/".join) | LONG | LONG_FOLDER)
def test_server_and_worker_take_the_same_paths_and_spell_them_alike(path: str) -> None:
    """A path that the worker refused for want of room for its temp was accepted, and failed only then."""

    def of_worker(value: str) -> str:
        normal = normalise(value)
        temps_of(normal, "0" * 26, 2**31 - 1)
        return normal

    assert accepts(lambda value: fields.path("path", value), path) == accepts(of_worker, path)
    if accepts(of_worker, path):
        assert fields.path("path", path) == of_worker(path)


@pytest.mark.parametrize("name", ["c1", "web-01", "_x", "a.b", "x" * 63])
def test_instance_names(name: str) -> None:
    assert check_instance(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "-web", "a-", "-", ".a", "x" * 64, "a b", "a\n", "ü"])
def test_instance_names_that_are_refused(name: str) -> None:
    with pytest.raises(PermanentError):
        check_instance(name)
    with pytest.raises(InvalidField, match="no '-'") as caught:
        fields.instance("spec.file_push.pushes[0].destination.instance", name)
    assert caught.value.field == "spec.file_push.pushes[0].destination.instance"


@pytest.mark.parametrize("mode", [-1, 0o1000, 0o4755])
def test_modes_that_cannot_be_kept_are_refused(mode: int) -> None:
    with pytest.raises(PermanentError):
        check_mode(mode)
