"""These tests run the examples of docs/client.md and docs/cli.md, and check that the pages' lists are complete."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import longshore.client as package
from longshore.client.cli.output.exits import ExitCode
from tests.support.servers.stage import staged


def test_the_examples_run(tree: Path, tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", (tree / "docs/client.md").read_text(), re.DOTALL)
    # One is about machines that are not here.
    [elsewhere] = [example for example in examples if "example.org" in example]
    examples.remove(elsewhere)
    (tmp_path / "motd").write_text("hello\n")
    printed: dict[str, list[str]] = {}
    with staged(tmp_path / "s") as stage, stage.worker():
        environment = {"LONGSHORE_SERVER": stage.server.address, "LONGSHORE_DATA_DIR": str(stage.server.data)}
        for number, example in enumerate(examples):
            # As files: a process that is spawned imports the one that started it.
            script = tmp_path / f"example{number}.py"
            script.write_text(example)
            done = subprocess.run(
                [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
            )
            assert (done.returncode, done.stderr) == (0, ""), example
            printed[example] = done.stdout.splitlines()
        assert (stage.instances / "web/etc/motd").read_text() == "hello\n"
        assert (stage.instances / "web/etc/motd.d/motd").read_text() == "hello\n"
        assert len(list(stage.client.list(kind="resize"))) == 10_000
        assert len(list(stage.client.list(kind="file_push"))) == 109

    def lines_of(mark: str) -> list[str]:
        [found] = [lines for example, lines in printed.items() if mark in example]
        return found

    assert len(printed) == 10
    revisions = [line.split() for line in lines_of("client.watch(")]
    numbers = [int(number) for number, _ in revisions]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert revisions[-1][1] == "SUCCEEDED"
    assert lines_of("create_parents") == ["SUCCEEDED /etc/motd.d/motd", "SUCCEEDED /etc/motd"]
    assert lines_of("Thumb") == ["{'width': 320, 'formats': ['webp']}"] or lines_of("Thumb") == [
        "{'formats': ['webp'], 'width': 320}"
    ]
    assert lines_of("retry_of") == ["PARENT_MISSING 1", "FAILED PARENT_MISSING"]
    assert lines_of("pause_queue") == ["default open"]
    assert lines_of("spawn") == ["1"]


def test_every_method_is_named(tree: Path) -> None:
    text = (tree / "docs/client.md").read_text()
    methods = {name for name, _ in inspect.getmembers(package.Client, inspect.isfunction) if not name.startswith("_")}
    assert {name for name in methods if not re.search(rf"\b{name}\(", text)} == set()
    for name in ("enums", "state_of", "wait_reason_of", "result_of", "arguments_of", "push_spec", "job_spec"):
        assert name in text


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
