"""The command line reads what people type, and writes figures for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.client import ConfigurationError, parse_destination
from longshore.client.cli.commands.push import arguments
from longshore.client.cli.input import grammar
from longshore.client.values.specs import duration, push_spec, states
from longshore.program import durations
from longshore.v1 import task_pb2

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("7d", 604800),
        ("1w", 604800),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("0", 0),
        ("500ms", 0.5),
        ("5 m", 300),
        ("36500d", 36500 * 86400),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert grammar.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "5y", "1h30", "h1", "1h0", "5m 3", "1e3s"])
def test_invalid_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="30s"):
        grammar.parse_duration(text)


@pytest.mark.parametrize(("text", "mode"), [("644", 0o644), ("0600", 0o600), ("0o755", 0o755), ("0", 0), ("7", 7)])
def test_modes(text: str, mode: int) -> None:
    assert grammar.parse_mode(text) == mode


@pytest.mark.parametrize("text", ["", "4755", "8", "rw", "-1", "0x1ff", "0o"])
def test_invalid_modes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="777"):
        grammar.parse_mode(text)


def test_labels() -> None:
    assert grammar.parse_label("a=b=c") == ("a", "b=c")
    assert grammar.parse_label("a=") == ("a", "")
    for text in ("a", "=b", ""):
        with pytest.raises(ValueError, match="KEY=VALUE"):
            grammar.parse_label(text)


def test_sha256() -> None:
    assert grammar.parse_sha256("aB" * 32) == b"\xab" * 32
    assert grammar.parse_sha256("compute") == "compute"
    with pytest.raises(ValueError, match="64"):
        grammar.parse_sha256("ab")


def test_a_duration_may_be_too_long() -> None:
    for text in ("36501d", "9" * 400 + "s"):
        with pytest.raises(ValueError, match="36500d"):
            grammar.parse_duration(text)
        with pytest.raises(ValueError, match="36500d"):
            grammar.parse_moment(text, now=NOW)


def test_moments() -> None:
    assert grammar.parse_moment("2h", now=NOW) == NOW - timedelta(hours=2)
    assert grammar.parse_moment("2026-01-31T08:00+01:00", now=NOW) == datetime(2026, 1, 31, 7, tzinfo=UTC)
    assert grammar.parse_moment("2026-01-31", now=NOW).tzinfo is UTC
    with pytest.raises(ValueError, match="two hours ago"):
        grammar.parse_moment("yesterday", now=NOW)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (20 << 20, "20 MiB"),
        ((1 << 30) - 1, "1.0 GiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert grammar.format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0123, "12ms"),
        (1.44, "1.4s"),
        (59.9, "1m"),
        (185, "3m05s"),
        (7800, "2h10m"),
        (86400 * 7 + 3 * 3600, "7d3h"),
        (3600, "1h"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert durations.format_duration(seconds) == text


@given(st.floats(min_value=1, max_value=1e8))
def test_a_span_for_people_is_read_back_nearly(seconds: float) -> None:
    again = grammar.parse_duration(durations.format_duration(seconds))
    assert abs(again - seconds) <= max(0.05 * seconds, 0.06)


@pytest.mark.parametrize(
    ("text", "target", "instance", "path"),
    [
        ("web/etc/motd", "", "web", "/etc/motd"),
        ("east:web/etc/motd", "east", "web", "/etc/motd"),
        ("web/etc/a:b", "", "web", "/etc/a:b"),
        ("web/etc/", "", "web", "/etc/NAME"),
        ("web/", "", "web", "/NAME"),
    ],
)
def test_destinations(text: str, target: str, instance: str, path: str) -> None:
    assert parse_destination(text, default_name="NAME") == task_pb2.Destination(
        target=target, instance=instance, path=path
    )


@pytest.mark.parametrize("text", ["web", "/etc/motd", ":web/etc", "east:/etc", ""])
def test_invalid_destinations_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="TARGET"):
        parse_destination(text)


def test_a_directory_needs_a_name() -> None:
    with pytest.raises(ConfigurationError, match="is a directory"):
        parse_destination("web/etc/")


def test_arguments_of_push() -> None:
    assert arguments(["a", "web/x"], []) == (["a"], ["web/x"])
    assert arguments(["a", "b", "web/x/"], []) == (["a", "b"], ["web/x/"])
    assert arguments(["a"], ["web/x", "db/x"]) == (["a"], ["web/x", "db/x"])
    assert arguments(["-", "web/x"], []) == (["-"], ["web/x"])


@pytest.mark.parametrize(
    ("files", "to", "remedy"),
    [
        (["a"], [], "nothing to push"),
        (["a", "b", "web/x"], [], "slash at the end"),
        (["a", "b"], ["web/x/", "web/y"], "slash at the end"),
        (["-", "-", "web/x/"], [], "once only"),
        (["-", "web/x/"], [], "no name"),
        (["d/a", "e/a", "web/x/"], [], "same name"),
    ],
)
def test_ambiguous_push_arguments_are_refused(files: list[str], to: list[str], remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy):
        arguments(files, to)


def test_states() -> None:
    assert states(["RUNNING", "failed"]) == [task_pb2.TASK_STATE_RUNNING, task_pb2.TASK_STATE_FAILED]
    assert sorted(states(["live"]) + states(["done"])) == sorted(v for v in task_pb2.TaskState.values() if v)
    with pytest.raises(ConfigurationError, match="there is no state 'nope'"):
        states(["nope"])


def test_specs_leave_missing_values_unset() -> None:
    spec = push_spec("web/x", not_before=timedelta(minutes=1), expire_after=1.5)
    [push] = spec.file_push.pushes
    assert not push.HasField("mode")
    assert (spec.not_before.seconds, spec.expire_after.seconds, spec.expire_after.nanos) == (60, 1, 500_000_000)
    assert not spec.HasField("run_timeout")
    assert duration(None) is None
    [push] = push_spec("web/x", mode=0, uid=0, gid=0).file_push.pushes
    assert (push.HasField("mode"), push.HasField("uid"), push.HasField("gid")) == (True, True, True)
