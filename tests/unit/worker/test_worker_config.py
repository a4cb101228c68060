"""Settings: what is filled in, what is refused and how, and where state goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from longshore.worker import ConfigError, Context, Registry, WorkerConfig
from longshore.worker.agent.link import pause
from longshore.worker.attempts.handlers import is_async
from longshore.worker.process.config import state_dir, temp_dir
from longshore.worker.targets import LxdSpec


@pytest.mark.parametrize(("concurrency", "wedged"), [(1, 1), (2, 1), (3, 1), (8, 4)])
def test_half_of_the_handlers_may_hang_and_at_least_one(concurrency: int, wedged: int) -> None:
    assert WorkerConfig(concurrency=concurrency).checked().max_wedged == wedged


@pytest.mark.parametrize(
    ("config", "option"),
    [
        (WorkerConfig(concurrency=0), "--concurrency"),
        (WorkerConfig(concurrency=5000), "--concurrency"),
        (WorkerConfig(grace=-1), "--grace"),
        (WorkerConfig(stop_grace=1e9), "--stop-grace"),
        (WorkerConfig(max_wedged=-1), "--max-wedged"),
        (WorkerConfig(name="x" * 64), "--name"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_options_name(config: WorkerConfig, option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        config.checked()


def test_the_files_api_is_allowed_for_every_daemon_or_for_one() -> None:
    targets = ("a=lxd:/a", "b=lxd:/b?files_api=allow", "c=directory:/c")
    for config, allowed in (
        (WorkerConfig(targets=targets), [False, True]),
        (WorkerConfig(targets=targets, allow_files_api=True), [True, True]),
    ):
        specs = config.target_specs()
        assert [spec.allow_files_api for spec in specs if isinstance(spec, LxdSpec)] == allowed


def test_the_state_directory_belongs_to_this_user_and_machine() -> None:
    given = WorkerConfig(state_dir=Path("/given"))
    assert state_dir(given, environ={"XDG_RUNTIME_DIR": "/run/me"}) == Path("/given")
    config = WorkerConfig(data_dir=Path("/data"))
    assert state_dir(config, environ={"XDG_RUNTIME_DIR": "/run/me"}) == Path("/run/me/longshore-worker")
    assert state_dir(config, environ={"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}) == Path("/var/lib/a")
    assert state_dir(config, environ={}) == Path("/data/workers")


def test_payloads_are_not_downloaded_into_memory() -> None:
    assert temp_dir(WorkerConfig(), environ={}) == Path("/var/tmp")
    assert temp_dir(WorkerConfig(), environ={"TMPDIR": "/disk"}) == Path("/disk")


def test_kinds_have_good_names_and_one_handler_each() -> None:
    registry = Registry()

    @registry.handler("good.name-1")
    def handler(context: Context) -> None:
        """Do nothing."""

    with pytest.raises(ValueError, match="two handlers"):
        registry.add("good.name-1", handler)
    for bad in ("", "Upper", "a b", "x" * 64):
        with pytest.raises(ValueError, match="no name of a kind"):
            registry.add(bad, handler)
    other = Registry()
    other.update(registry)
    assert [one.kind for one in other] == ["good.name-1"]


def test_coroutine_functions_are_recognised_behind_objects_too() -> None:
    async def coroutine() -> None: ...

    class Callable:
        async def __call__(self) -> None: ...

    class Plain:
        def __call__(self) -> None: ...

    assert is_async(coroutine)
    assert is_async(Callable())
    assert not is_async(Plain())
    assert not is_async(len)


def test_reconnects_begin_at_once_and_are_never_more_than_five_seconds_apart() -> None:
    assert pause(0) == 0
    for failures in range(1, 100):
        assert 0.05 <= pause(failures) <= 5
    assert min(pause(50) for _ in range(20)) >= 2.5
    assert max(pause(50, most=1.5) for _ in range(20)) <= 1.5
    assert pause(100_000) <= 5  # a server that is away for days
