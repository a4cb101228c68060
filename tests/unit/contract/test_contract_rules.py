"""Server, worker and client take the same names, paths and ranges, and temps are called the same."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import example, given
from hypothesis import strategies as st

from longshore.client.cli.commands import options
from longshore.client.cli.input import checks
from longshore.client.errors import ConfigurationError
from longshore.client.values import specs
from longshore.contract.limits import DAY, LARGEST_ATTEMPT, LONGEST_RUN, LONGEST_WAIT
from longshore.contract.names import worker_name
from longshore.contract.temps import TRIES_PER_ATTEMPT, is_temp, temps_of
from longshore.contract.version import PROTOCOL_VERSION
from longshore.server.edge.messages import fields, validate
from longshore.server.edge.messages import worker as edge
from longshore.server.engine.submissions import Defaults
from longshore.server.model.errors import InvalidField
from longshore.v1 import task_pb2, task_service_pb2
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.attempts.handlers import Registry
from longshore.worker.errors import AttemptError, PermanentError
from longshore.worker.file_push.model import Push, validated
from longshore.worker.process.config import ConfigError, WorkerConfig
from longshore.worker.targets.paths import check_instance, check_mode, normalise, parents, temp_path
from longshore.worker.targets.spec import parse_target


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
def test_an_accepted_path_is_safe_and_unchanged(path: str) -> None:
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
        temps = [temp_path(path, task_id, attempt, number) for number in range(1, TRIES_PER_ATTEMPT + 1)]
    except AttemptError:
        return
    assert len(set(temps)) == TRIES_PER_ATTEMPT
    # A worker makes the temps that a server orders to be removed after the worker was lost.
    assert tuple(temps) == temps_of(path, task_id, attempt)
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
    for number in (0, TRIES_PER_ATTEMPT + 1):
        with pytest.raises(ValueError, match="not in 1"):
            temp_path("/etc/motd", "01JC", 3, number)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "/.longshore-x.tmp", "/.longshore-a-1-1.tmp.bak", "/longshore-a-1-1.tmp"]
)
def test_other_names_are_never_taken_for_temps(name: str) -> None:
    assert not is_temp(name)


# Server, worker and client -------------------------------------------------------------------------------------------

REFUSALS = (AttemptError, InvalidField, ConfigurationError, ConfigError, ValueError)
NAMES = st.text(alphabet=st.sampled_from("aZ0-._/ \n\0ü~="), max_size=5) | st.text(
    alphabet="a-", min_size=60, max_size=66
)


def accepts(check: Callable[[], object]) -> bool:
    try:
        check()
    except REFUSALS:
        return False
    return True


def hello(**said: Any) -> ws.Hello:
    return ws.Hello(**{"protocol_version": PROTOCOL_VERSION, "session_id": "s" * 16, "worker": "w", **said})


def greets(said: ws.Hello) -> bool:
    return accepts(lambda: edge.hello(ws.WorkRequest(hello=said)))


def push(**changed: Any) -> Push:
    return Push(
        **{
            "task_id": "t",
            "attempt": 1,
            "project": "",
            "instance": "web",
            "path": "/f",
            "size": 0,
            "crc32c": 0,
            **changed,
        }
    )


def to(**changed: str) -> task_pb2.Destination:
    return task_pb2.Destination(**{"instance": "web", "path": "/f", **changed})


@given(NAMES)
def test_all_take_the_same_instance_names(name: str) -> None:
    server = accepts(lambda: fields.instance("instance", name))
    assert accepts(lambda: check_instance(name)) == server
    # An empty name stands for no instance on the command line.
    assert not name or accepts(lambda: checks.instance(name)) == server
    assert not name or accepts(lambda: checks.destination("", to(instance=name))) == server


@given(NAMES)
@example(".")
@example("..")
def test_all_take_the_same_names_of_queues_targets_and_kinds(name: str) -> None:
    """A worker that called its target or kind `.` was let in, and no task could be meant for it."""
    server = accepts(lambda: fields.name("name", name))
    assert accepts(lambda: Registry().add(name, print)) == server
    assert greets(hello(kinds=[ws.ServedKind(name=name)])) == server
    assert greets(hello(targets=[ws.ServedTarget(name=name)])) == server
    assert "=" in name or accepts(lambda: parse_target(f"{name}=directory:/roots")) == server
    assert not name or accepts(lambda: checks.name(name)) == server
    assert not name or accepts(lambda: checks.destination("", to(target=name))) == server


@given(NAMES)
@example("..")
def test_all_take_the_same_projects(name: str) -> None:
    """The command line and the worker let every project pass."""
    server = accepts(lambda: fields.project("project", name))
    assert accepts(lambda: validated(push(project=name))) == server
    assert accepts(lambda: checks.destination("", to(project=name))) == server


@given(NAMES)
def test_server_and_worker_take_the_same_names_of_workers(name: str) -> None:
    # An empty name stands for the host's name.
    assert not name or accepts(lambda: WorkerConfig(name=name).checked()) == greets(hello(worker=name))
    assert greets(hello(worker=worker_name(name)))


@given(NAMES, NAMES | st.text(alphabet="ü", min_size=254, max_size=257))
@example("key", "\0")
def test_server_and_client_take_the_same_labels(key: str, value: str) -> None:
    """The command line let a NUL pass."""
    assert accepts(lambda: checks.label(key, value)) == accepts(lambda: fields.label("labels", key, value))


@given(NAMES | st.text(alphabet="~", min_size=126, max_size=130))
def test_server_and_client_take_the_same_request_ids(text: str) -> None:
    # An empty id stands for a new one.
    assert not text or accepts(lambda: checks.request_id(text)) == accepts(lambda: fields.request_id("id", text))


@given(st.integers(-1, 0o1100))
def test_all_take_the_same_modes(mode: int) -> None:
    # The contract has no negative modes.
    server = mode >= 0 and accepts(lambda: fields.mode("mode", mode))
    assert accepts(lambda: check_mode(mode)) == server
    assert accepts(lambda: specs.push_spec("web/f", mode=mode)) == server


@given(st.integers(2**32 - 4, 2**32 - 1) | st.integers(0, 2**32 - 1))
@example(2**32 - 1)
def test_server_and_client_take_the_same_owners(owner: int) -> None:
    """The client library let the id pass that means "leave it" to chown."""
    server = accepts(lambda: fields.owner("uid", owner))
    assert accepts(lambda: specs.push_spec("web/f", uid=owner)) == server
    assert accepts(lambda: specs.push_spec("web/f", gid=owner)) == server
    assert (owner <= checks.OWNERS) == server


SECONDS = st.sampled_from([0, 1, LONGEST_RUN - 1, LONGEST_RUN, LONGEST_RUN + 1, LONGEST_WAIT, LONGEST_WAIT + 1])


@given(SECONDS | st.integers(0, 400).map(lambda days: days * DAY))
@example(0)
@example(8 * DAY)
def test_server_and_client_take_the_same_durations(seconds: float) -> None:
    """The client library let an attempt of eight days pass, and a task that expires at once."""
    length = Duration(seconds=int(seconds))
    runs = accepts(lambda: fields.seconds("run_timeout", length, longest=LONGEST_RUN))
    expires = accepts(lambda: fields.seconds("expire_after", length, longest=LONGEST_WAIT))
    waits = accepts(lambda: fields.seconds("not_before", length, longest=LONGEST_WAIT, zero=True))
    assert accepts(lambda: specs.job_spec("k", run_timeout=seconds)) == runs
    assert accepts(lambda: specs.job_spec("k", stall_timeout=seconds)) == runs
    assert accepts(lambda: specs.job_spec("k", expire_after=seconds)) == expires
    assert accepts(lambda: specs.job_spec("k", not_before=seconds)) == waits
    assert accepts(lambda: checks.runs(seconds)) == runs
    assert accepts(lambda: checks.expires(seconds)) == expires
    assert accepts(lambda: checks.waits(seconds)) == waits


@given(st.text(max_size=3) | st.integers(498, 502).map(lambda size: "é" * size))
@example("\0")
def test_server_and_client_take_the_same_descriptions(text: str) -> None:
    spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="k"), description=text)
    request = task_service_pb2.SubmitTaskRequest(spec=spec)
    server = accepts(lambda: validate.submit_request(request, Defaults()))
    assert accepts(lambda: specs.job_spec("k", description=text)) == server
    assert accepts(lambda: specs.push_spec("web/f", description=text)) == server
    assert accepts(lambda: options._check_description(text)) == server


@given(st.text(max_size=3) | st.integers(126, 130).map(lambda size: "é" * (size // 2) + "x" * (size % 2)))
@example("\0")
def test_server_and_client_take_the_same_keys(text: str) -> None:
    spec = task_pb2.TaskSpec(job=task_pb2.JobSpec(kind="k", key=text))
    request = task_service_pb2.SubmitTaskRequest(spec=spec)
    server = accepts(lambda: validate.submit_request(request, Defaults()))
    assert accepts(lambda: specs.job_spec("k", key=text)) == server
    assert accepts(lambda: checks.key(text)) == server


COMPONENT = st.sampled_from(
    ["", ".", "..", "...", "a", "ü", "\0", "n" * 254, "n" * 255, "n" * 256, "ü" * 127, "ü" * 128]
)
LONG = st.integers(3700, 4110).map(lambda size: ("/" + "n" * 99) * (size // 100) + "/" + "n" * (size % 100))
LONG_FOLDER = st.tuples(LONG, st.integers(1, 255)).map(lambda both: f"{both[0]}/{'x' * both[1]}")


@given(st.lists(COMPONENT, max_size=20).map("/".join) | LONG | LONG_FOLDER)
@example("/" + "n" * 99 + ("/" + "n" * 99) * 39 + "/" + "x" * 20 + "/f")
def test_all_take_the_same_paths_and_spell_them_alike(path: str) -> None:
    """A path that the worker refused for want of room for its temp was accepted, and failed only then."""

    def of_worker() -> str:
        normal = validated(push(path=path)).path
        temp_path(normal, "0" * 26, LARGEST_ATTEMPT, 1)
        return normal

    server = accepts(lambda: fields.path("path", path))
    assert accepts(of_worker) == server
    assert accepts(lambda: checks.destination("", to(path=path))) == server
    if server:
        assert fields.path("path", path) == of_worker()


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
