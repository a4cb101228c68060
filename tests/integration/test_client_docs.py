"""What docs/client.md and docs/cli.md show is run, and what they list is complete."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import longshore.client as package
from longshore.client import TaskFilter, TaskState
from longshore.client.cli.exits import ExitCode
from tests.support.stage import staged


def test_the_examples_run(tree: Path, tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", (tree / "docs/client.md").read_text(), re.DOTALL)
    # The third one is about machines that are not here.
    assert len(examples) == 5
    del examples[2]
    (tmp_path / "motd").write_text("hello\n")
    with staged(tmp_path / "s") as stage, stage.worker():
        environment = {"LONGSHORE_SERVER": stage.server.address, "LONGSHORE_DATA_DIR": str(stage.server.data)}
        printed = [
            subprocess.run(
                [sys.executable, "-c", example],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            ).stdout
            for example in examples
        ]
        assert (stage.instances / "web/etc/motd").read_text() == "hello\n"
        assert len(list(stage.client.list(filter=TaskFilter(kinds=["resize"])))) == 10_000
        assert len(list(stage.client.list(filter=TaskFilter(kinds=["file_push"])))) == 102
    assert (printed[0], *printed[2:]) == ("", "", "")
    revisions = [int(line.split()[0]) for line in printed[1].splitlines()]
    assert revisions == list(range(revisions[0], revisions[-1] + 1))
    assert printed[1].split()[-1] == str(TaskState.TASK_STATE_SUCCEEDED)


def test_every_error_is_in_its_table(tree: Path) -> None:
    text = (tree / "docs/client.md").read_text().partition("## Errors")[2]
    listed = set(re.findall(r"`([A-Z]\w+)`", text))
    exported = {
        name
        for name in package.__all__
        if inspect.isclass(kind := getattr(package, name)) and issubclass(kind, package.LongshoreError)
    }
    assert exported - listed == {"TaskError"}


def test_every_exit_code_is_in_its_table(tree: Path) -> None:
    text = (tree / "docs/cli.md").read_text().partition("## Exit codes")[2]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == [int(code) for code in ExitCode]
