"""P12: a temp whose making was still on its way when the connection broke is known as a debt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from longshore.contract.temps import temps_of
from longshore.worker.errors import Reason, TransientError
from longshore.worker.file_push.push import push_file, remove_temps
from longshore.worker.targets.base import Attributes, Delivery, no_check
from longshore.worker.targets.directory.target import DirectoryTarget
from tests.support.workers.pushing import TASK, Recorder, a_push


class Broken:
    """A delivery whose connection breaks with its first request; the request is carried out when all others are."""

    def __init__(self, delivery: Delivery, late: list[str]) -> None:
        self._delivery = delivery
        self._late = late

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)

    def create_temp(self, path: str, attributes: Attributes) -> Any:
        self._late.append(path)
        raise TransientError(Reason.TARGET_TIMEOUT, "the daemon has the request, and hangs")

    def remove(self, path: str) -> bool:
        raise TransientError(Reason.TARGET_UNREACHABLE, f"nobody is there to remove {path}")

    discard = remove


class HangingTarget(DirectoryTarget):
    """Its deliveries break, those for cleaning up excepted."""

    def __init__(self, path: Path) -> None:
        super().__init__("default", str(path))
        self.late: list[str] = []

    @contextmanager
    def open(
        self, project: str, instance: str, *, check: Callable[[], None] = no_check, hurry: bool = False
    ) -> Iterator[Delivery]:
        with super().open(project, instance, check=check, hurry=hurry) as delivery:
            yield delivery if hurry else Broken(delivery, self.late)


def test_a_temp_that_is_made_after_its_removal_is_a_debt(tmp_path: Path) -> None:
    (tmp_path / "web" / "etc").mkdir(parents=True)
    target = HangingTarget(tmp_path)
    recorder = Recorder(b"content")
    with pytest.raises(TransientError) as raised:
        push_file(a_push("web", "/etc/motd", recorder.data), recorder, target)
    assert raised.value.left_temps
    (late,) = target.late
    made = tmp_path / "web" / late.lstrip("/")
    made.touch()  # the daemon gets round to it
    plain = DirectoryTarget("default", str(tmp_path))
    temps = temps_of("/etc/motd", TASK, 1)
    assert remove_temps(plain, project="", instance="web", temps=temps) == 1
    assert not made.exists()
