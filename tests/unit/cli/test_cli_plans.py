"""The file of a plan, key by key."""

from __future__ import annotations

from pathlib import Path

import pytest

from longshore.client.cli.input import planfile
from longshore.client.errors import ConfigurationError
from longshore.v1 import task_pb2


def read(tmp_path: Path, text: str) -> list[planfile.FileStep]:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return planfile.read(path)


def test_a_step_says_what_may_run_beside_it_and_what_it_overtakes(tmp_path: Path) -> None:
    push, job, plain = read(
        tmp_path,
        """
        [[step]]
        push = "motd"
        to = "web/etc/motd"
        on_pending = "supersede"

        [[step]]
        job = "restart"
        target = "default"
        instance = "web"
        key = "restart"
        access = "exclusive"
        on_pending = "supersede"

        [[step]]
        job = "look"
        """,
    )
    assert push.spec.file_push.pushes[0].on_pending == task_pb2.ON_PENDING_SUPERSEDE
    found = job.spec.job
    assert (found.key, found.access, found.on_pending) == (
        "restart",
        task_pb2.ACCESS_EXCLUSIVE,
        task_pb2.ON_PENDING_SUPERSEDE,
    )
    assert (plain.spec.job.access, plain.spec.job.on_pending) == (0, 0)


@pytest.mark.parametrize(
    ("key", "value"), [("access", '"alone"'), ("access", "true"), ("on_pending", '"latest"'), ("exclusive", "true")]
)
def test_another_word_is_refused_with_the_step(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"step 1 .*{key}"):
        read(tmp_path, f'[[step]]\njob = "look"\n{key} = {value}\n')
