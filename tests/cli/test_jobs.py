"""Jobs as people see them: what they were given, how far they are, and what they answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from longshore.v1 import task_pb2
from tests.support.commandline import CommandLine
from tests.support.servers.processes import eventually
from tests.support.servers.stage import Stage

HANDLERS = """
from pathlib import Path

from google.protobuf.struct_pb2 import Struct

from longshore.worker import Context, Registry

registry = Registry()


@registry.handler("double")
def double(context: Context) -> Struct:
    given = context.unpack(Struct)
    answer = Struct()
    answer.update({"doubled": given["number"] * 2})
    return answer


@registry.handler("half-way")
def half_way(context: Context) -> None:
    context.progress(12, 40)
    go_on = Path(context.unpack(Struct)["file"])
    while not go_on.exists():
        context.sleep(0.02)
"""


@pytest.fixture
def handlers(stage: Stage, tmp_path: Path) -> Iterator[None]:
    """A worker that has these kinds."""
    (tmp_path / "jobs_of_the_test.py").write_text(HANDLERS)
    with stage.worker(
        "--handlers", "jobs_of_the_test:registry", name="jobs", environment={"PYTHONPATH": str(tmp_path)}
    ):
        yield


@pytest.mark.usefixtures("handlers")
def test_a_result_is_printed(cli: CommandLine) -> None:
    submit = ["submit", "double", "--json", '{"number": 4}', "--wait"]
    text = cli.run(*submit)
    assert text.code == 0
    line, result = text.lines
    assert line.endswith("succeeded  double")
    assert json.loads(result) == {"doubled": 8}
    task_id = line.split()[0]
    shown = cli.run("get", task_id).out
    rows = dict(row.split(maxsplit=1) for row in shown.splitlines())
    assert json.loads(rows["arguments"]) == {"number": 4}
    assert json.loads(rows["result"]) == {"doubled": 8}
    assert json.loads(cli.run("watch", task_id).lines[-1]) == {"doubled": 8}
    assert cli.run(*submit, "-o", "json").objects[0]["result"]["value"] == {"doubled": 8}
    assert len(cli.run(*submit, "-o", "id").lines) == 1


@pytest.mark.usefixtures("handlers")
def test_a_running_job_shows_its_progress(cli: CommandLine, stage: Stage, tmp_path: Path) -> None:
    arguments = json.dumps({"file": str(tmp_path / "go-on")})
    [task_id] = cli.run("submit", "half-way", "--json", arguments, "-o", "id").lines
    stage.reaches(task_id, task_pb2.TASK_STATE_RUNNING)
    # Its report may be on the way; once there, each look sees it at once.
    eventually(lambda: "12 of 40 (30 %)" in cli.run("get", task_id).out, what="the progress")
    (tmp_path / "go-on").touch()
    done = cli.run("watch", task_id)
    assert done.code == 0
    assert "progress" not in cli.run("get", task_id).out
