"""The command line prints errors with their remedy and exit code, JSON, and tasks for people."""

from __future__ import annotations

import io
import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
import typer.main
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.struct_pb2 import Struct
from rich.console import Console, RenderableType
from rich.progress import Progress

from longshore.client import errors
from longshore.client.cli import app_for
from longshore.client.cli.output import render
from longshore.client.cli.output.bars import FiguresColumn
from longshore.client.cli.output.exits import ExitCode, as_json, code_for, code_for_tasks, explain
from longshore.client.cli.output.jsonform import in_one_line, to_json
from longshore.client.cli.output.wording import words_for
from longshore.client.values.job_values import packed
from longshore.v1 import admin_service_pb2, task_pb2


def tree(base: type[errors.LongshoreError] = errors.LongshoreError) -> set[type[errors.LongshoreError]]:
    return {base, *(found for kind in base.__subclasses__() for found in tree(kind))}


def test_every_argument_has_its_name_in_capitals() -> None:
    group: Any = typer.main.get_command(app_for())
    each = [one for command in group.commands.values() for one in command.params if one.param_type_name == "argument"]
    assert len(each) > 10
    assert [one.name for one in each if one.metavar is None or one.metavar != one.metavar.upper()] == []


@pytest.mark.parametrize(
    ("code", "kinds"),
    [
        (ExitCode.INTERNAL, {errors.LongshoreError, errors.Internal, errors.TaskError}),
        (ExitCode.USAGE, {errors.ConfigurationError, errors.SourceError}),
        (ExitCode.FAILED, {errors.TaskFailed}),
        (ExitCode.CANCELLED, {errors.TaskCancelled}),
        (ExitCode.EXPIRED, {errors.TaskExpired}),
        (
            ExitCode.REFUSED,
            {
                errors.InvalidArgument,
                errors.OutOfRange,
                errors.NotFound,
                errors.AlreadyExists,
                errors.ResourceExhausted,
                errors.FailedPrecondition,
                errors.Aborted,
                errors.DataLoss,
            },
        ),
        (ExitCode.UNREACHABLE, {errors.Unavailable, errors.TLSError}),
        (ExitCode.UNAUTHENTICATED, {errors.Unauthenticated, errors.PermissionDenied}),
    ],
)
def test_every_error_has_its_exit_code(code: ExitCode, kinds: set[type[errors.LongshoreError]]) -> None:
    task = task_pb2.Task()
    made = {kind: kind(task, "x") if issubclass(kind, errors.TaskError) else kind("x") for kind in tree()}
    assert {kind for kind, error in made.items() if code_for(error) is code} == kinds


def test_exit_codes_equal_the_docs() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "INTERNAL": 1,
        "USAGE": 2,
        "FAILED": 3,
        "CANCELLED": 4,
        "EXPIRED": 5,
        "REFUSED": 6,
        "UNREACHABLE": 7,
        "UNAUTHENTICATED": 8,
        "OUTPUT_LOST": 74,
        "TIMED_OUT": 124,
        "INTERRUPTED": 130,
        "BROKEN_PIPE": 141,
    }


def test_of_several_tasks_the_worst_counts() -> None:
    def tasks(*states: task_pb2.TaskState.ValueType) -> list[task_pb2.Task]:
        return [task_pb2.Task(state=state) for state in states]

    ok, failed = task_pb2.TASK_STATE_SUCCEEDED, task_pb2.TASK_STATE_FAILED
    cancelled, expired = task_pb2.TASK_STATE_CANCELLED, task_pb2.TASK_STATE_EXPIRED
    assert code_for_tasks(tasks(ok, cancelled, expired, failed)) is ExitCode.FAILED
    assert code_for_tasks(tasks(ok, cancelled, expired)) is ExitCode.EXPIRED
    assert code_for_tasks(tasks(cancelled, ok)) is ExitCode.CANCELLED
    assert code_for_tasks(tasks(ok, task_pb2.TASK_STATE_QUEUED)) is ExitCode.OK


def said(error: errors.LongshoreError) -> list[str]:
    return explain(error, server="127.0.0.1:7465", token="the token in /d/token")


def test_an_unreachable_server_and_how_to_start_one() -> None:
    cause = (
        "failed to connect to all addresses; last error: UNKNOWN: Failed to connect to remote host: Connection refused"
    )
    assert said(errors.Unavailable(cause, reason="UNAVAILABLE")) == [
        "cannot reach the server at 127.0.0.1:7465: connection refused",
        "start one with `longshored`, or name another with --server or $LONGSHORE_SERVER",
    ]


def test_remedies() -> None:
    assert "the token in /d/token" in said(errors.Unauthenticated("No token."))[0]
    violation = errors.FieldViolation(field="spec.queue", description="is wrong.")
    assert said(errors.InvalidArgument("x", field_violations=[violation])) == ["--queue: is wrong"]
    assert "--patience" in said(errors.ResourceExhausted("Full.", reason="QUEUE_FULL", retry_after=3))[1]
    assert said(errors.Internal("A defect.", metadata={"incident": "ab12"})) == ["A defect (incident ab12)"]
    assert said(errors.NotFound("No such task.", reason="NOT_FOUND", from_server=True)) == ["No such task (NOT_FOUND)"]


def test_a_refused_caller_is_told_the_servers_reason() -> None:
    revoked = errors.Unauthenticated("The token 3d6c is revoked; ask for a new one.", from_server=True)
    assert said(revoked)[1] == "The token 3d6c is revoked; ask for a new one"
    unknown = errors.Unauthenticated("No token, or a wrong one. Send `authorization: ...`.", from_server=True)
    assert "data directory" in said(unknown)[1]
    far = explain(unknown, server="s:7465", token="the token in t", local=False)
    assert "data directory" not in far[1]
    assert "--token-file" in far[1]


@pytest.mark.parametrize("kind", sorted(tree(), key=str))
def test_every_error_has_a_reason_in_json(kind: type[errors.LongshoreError]) -> None:
    error = kind(task_pb2.Task(), "x") if issubclass(kind, errors.TaskError) else kind("x")
    told = as_json(error, ExitCode.USAGE)["error"]["reason"]
    assert re.fullmatch("[A-Z][A-Z_]+", told), told


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("header.spec.file_push.pushes[0].destination.path", "the path"),
        ("header.spec.file_push.pushes[2].destination.path", "the path of destination 3"),
        ("header.spec.file_push.pushes[2].mode", "--mode"),
        ("header.spec.labels[app]", "--label"),
        ("spec.job.arguments", "--json"),
        ("filter.states[0]", "--state"),
        ("something.newer[3]", "something.newer[3]"),
    ],
)
def test_fields_have_the_command_s_words(field: str, words: str) -> None:
    assert words_for(field) == words


def test_every_field_of_a_push_has_words() -> None:
    for name in task_pb2.FilePush.DESCRIPTOR.fields_by_name:
        if name in {"create_parents", "read_back", "in_place"}:
            continue  # switches: neither value is wrong
        assert words_for(f"spec.file_push.pushes[0].{name}") != name
    for name in task_pb2.JobSpec.DESCRIPTOR.fields_by_name:
        assert words_for(f"spec.job.{name}") != f"spec.job.{name}"
    for name in task_pb2.TaskSpec.DESCRIPTOR.fields_by_name:
        if name not in {"file_push", "job"}:
            assert words_for(f"spec.{name}").startswith("--")


def test_a_cancelled_task_shows_its_reason() -> None:
    task = full_task()
    task.state, task.cancel_reason, task.done = task_pb2.TASK_STATE_CANCELLED, "web is dead", True
    task.wait_reason = task_pb2.WAIT_REASON_UNSPECIFIED
    assert render.why(task) == "web is dead"
    rows = printed(render.task_detail(task), width=120).splitlines()
    [met] = [row for row in rows if row.startswith("met before")]
    assert met.split(maxsplit=2)[2].strip() == "no space left (NO_SPACE)"


def test_attempts_and_tries_in_plain_words() -> None:
    task = task_pb2.Task(attempt=3, tries=1, crashes=1, attempt_limit=5)
    assert "3 (1 of 5 tries used, 1 lost its worker and cost no try)" in printed(render.task_detail(task), width=120)
    assert printed(render.task_list([task]), width=200).split("\n")[0].split() == [
        "ID", "STATE", "WHERE", "SIZE", "AGE", "ATTEMPTS", "WHY",
    ]  # fmt: skip


def test_a_revision_has_the_time_of_its_change() -> None:
    now = datetime.now().astimezone()
    task = task_pb2.Task(state=task_pb2.TASK_STATE_QUEUED)
    task.update_time.FromDatetime(now)
    assert render.revision(task).startswith(f"{now:%H:%M:%S}  queued")
    earlier = now - timedelta(days=2)
    task.update_time.FromDatetime(earlier)
    assert render.revision(task).startswith(f"{earlier:%Y-%m-%d %H:%M:%S}  queued")


def test_progress_in_words() -> None:
    job, push = task_pb2.Task(), full_task()
    assert render.progress_line(task_pb2.Progress(done=12, total=40), job) == "12 of 40 (30 %)"
    assert render.progress_line(task_pb2.Progress(done=12), job) == "12"
    assert render.progress_line(task_pb2.Progress(done=1024, total=2048), push) == "1.0 KiB of 2.0 KiB (50 %)"


def test_arguments_and_results_in_one_line() -> None:
    struct = Struct()
    struct.update({"steps": 4, "name": "é"})
    task = task_pb2.Task(state=task_pb2.TASK_STATE_SUCCEEDED, job=task_pb2.JobSpec(arguments=packed(struct)))
    task.result.CopyFrom(AnyMessage(type_url="type.googleapis.com/team.Secret", value=b"\0\1"))
    rows = dict(row.split(maxsplit=1) for row in printed(render.task_detail(task), width=160).splitlines())
    assert json.loads(rows["arguments"]) == {"steps": 4, "name": "é"}
    assert json.loads(rows["result"]) == {"@type": "type.googleapis.com/team.Secret", "value": "AAE="}
    known = packed(task_pb2.Progress(done=3))
    assert known is not None
    assert json.loads(in_one_line(known))["done"] == "3"
    lying = AnyMessage(type_url="type.googleapis.com/google.protobuf.Struct", value=b"\xff")
    assert json.loads(in_one_line(lying))["value"] == "/w=="


def test_figures_as_json_name_states_as_tasks_do() -> None:
    queue = admin_service_pb2.QueueStats(queue="default", live={"QUEUED": 5, "TASK_STATE_RUNNING": 1})
    fields = to_json(admin_service_pb2.GetStatsResponse(queues=[queue], finished={"FAILED": 2}))
    assert fields["queues"][0]["live"] == {"TASK_STATE_QUEUED": "5", "TASK_STATE_RUNNING": "1"}
    assert fields["finished"] == {"TASK_STATE_FAILED": "2"}


def test_an_error_as_json() -> None:
    error = errors.ResourceExhausted("full", reason="QUEUE_FULL", retry_after=2.0, metadata={"a": "b"})
    assert as_json(error, ExitCode.REFUSED) == {
        "error": {
            "reason": "QUEUE_FULL",
            "message": "full",
            "metadata": {"a": "b"},
            "field_violations": [],
            "quota_violations": [],
            "retry_after": 2.0,
            "exit_code": 6,
        }
    }


def test_json_has_the_contract_s_names_and_every_value() -> None:
    fields = to_json(task_pb2.Task(id="t", revision=3, state=task_pb2.TASK_STATE_FAILED))
    assert (fields["id"], fields["revision"], fields["state"]) == ("t", "3", "TASK_STATE_FAILED")
    assert fields["done"] is False
    assert fields["attempts"] == []
    assert "create_time" not in fields


def test_json_of_arguments_that_are_known_and_that_are_not() -> None:
    struct = Struct()
    struct["width"] = 3
    task = task_pb2.Task(job=task_pb2.JobSpec(kind="k", arguments=packed(struct, name="arguments")))
    task.result.CopyFrom(AnyMessage(type_url="type.googleapis.com/team.Secret", value=b"\0\1"))
    fields = to_json(task)
    assert fields["job"]["arguments"]["value"] == {"width": 3.0}
    assert fields["result"] == {"@type": "type.googleapis.com/team.Secret", "value": "AAE="}
    assert task.HasField("result")


def printed(what: RenderableType, *, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def full_task() -> task_pb2.Task:
    task = task_pb2.Task(
        id="01HZXK5V7N8Q4W2E6R9T0Y3U1I",
        revision=7,
        state=task_pb2.TASK_STATE_SCHEDULED,
        kind="file_push",
        queue="default",
        labels={"app": "[red]shop"},
        file_push=task_pb2.FilePush(
            destination=task_pb2.Destination(target="east", project="p", instance="web", path="/etc/[bold]motd"),
            mode=0o600,
            uid=0,
            create_parents=True,
        ),
        payload=task_pb2.Payload(id="p", size=2048, crc32c=1),
        wait_reason=task_pb2.WAIT_REASON_BACK_OFF,
        attempt=2,
        tries=2,
        attempt_limit=5,
        error=task_pb2.TaskError(reason="NO_SPACE", message="no space left."),
    )
    task.create_time.GetCurrentTime()
    task.due_time.FromSeconds(task.create_time.seconds + 30)
    return task


def test_a_task_in_full() -> None:
    text = printed(render.task_detail(full_task()), width=120)
    for part in ("east:web/etc/[bold]motd (project p)", "mode 0600, uid 0", "2.0 KiB", "app=[red]shop", "2 of 5 tries"):
        assert part in text
    assert "waits to try again, in" in text
    assert "no space left (NO_SPACE)" in text


@pytest.mark.parametrize("width", [80, 200, 10_000])
def test_ids_are_never_cut(width: int) -> None:
    assert full_task().id in printed(render.task_list([full_task()]), width=width)


def test_a_restore_stands_above_all_figures() -> None:
    figures = admin_service_pb2.GetStatsResponse(version="1")
    figures.restored.notice_time.FromSeconds(1_700_000_000)
    figures.restored.data_time.FromSeconds(1_600_000_000)
    figures.restored.live_tasks = 3
    figures.restored.advice = "cancel or resume"
    first = printed(next(iter(render.stats(figures))), width=400)
    for part in (
        "restored",
        "2023-11-1",
        "what was accepted after 2020-09-13",
        "3 live tasks would run again",
        "cancel or",
    ):
        assert part in first


def test_figures() -> None:
    queue = admin_service_pb2.QueueStats(queue="default", paused=True, live={"TASK_STATE_QUEUED": 5}, limit=100)
    queue.oldest_queued.FromSeconds(90)
    target = admin_service_pb2.TargetStats(target="east", problem="no worker serves this target", debts=2)
    figures = admin_service_pb2.GetStatsResponse(
        queues=[queue],
        targets=[target],
        spool_bytes=1024,
        spool_limit=2048,
        uploads=3,
        upload_limit=64,
        unserved_kinds=["thumbnail"],
        version="1",
    )
    lost = figures.servers.add(
        address="s2:7465", version="1", spool="abcdef0123456789", files=3, problem="no server has it"
    )
    lost.unseen.FromSeconds(90)
    text = "".join(printed(part, width=120) for part in render.stats(figures))
    for part in (
        "default (paused)",
        "1m30s",
        "no worker serves this target",
        "1.0 KiB of 2.0 KiB",
        "3 of 64 uploads",
        "DEBTS: temporary files",
        "no worker runs: thumbnail",
        "s2:7465",
        "1m30s ago",
        "abcdef01",
        "no server has it",
    ):
        assert part in text


def test_figures_of_a_bar_are_in_one_system_of_units() -> None:
    now = 0.0
    progress = Progress(get_time=lambda: now, disable=True)
    figures = FiguresColumn()
    bytes_ = progress.add_task("", total=300 << 20)
    counted = progress.add_task("", total=40, counts=True)
    unknown = progress.add_task("", total=None)

    def shown() -> list[str]:
        by_id = {task.id: task for task in progress.tasks}
        return [figures.render(by_id[each]).plain for each in (bytes_, counted, unknown)]

    assert shown() == ["0 B of 300 MiB", "0 of 40", "0 B"]
    for second in (1.0, 2.0):
        now = second
        progress.update(bytes_, completed=int(second) * (100 << 20))
        progress.update(counted, completed=int(second) * 10)
        progress.update(unknown, completed=int(second) * 2048)
    assert shown() == ["200 MiB of 300 MiB  100 MiB/s  1s left", "20 of 40  10/s  2s left", "4.0 KiB  2.0 KiB/s"]


def test_narrow_terminals_get_lines_and_lose_nothing() -> None:
    """At 80 columns `list` folded a reason into 25 lines of nine letters, and `stats` lost the names of queues."""
    task = full_task()
    wide, narrow = (printed(render.task_list([task]), width=width) for width in (160, 80))
    assert wide.splitlines()[0].split()[:2] == ["ID", "STATE"]
    assert narrow.splitlines()[0] == f"{task.id}  scheduled"
    assert len(narrow.splitlines()) <= 5
    for part in ("where east:web/etc/[bold]motd", "size 2.0 KiB", "attempts 2", "(NO_SPACE)"):
        assert part in " ".join(narrow.split())
    queue = admin_service_pb2.QueueStats(queue="default", live={"QUEUED": 5}, limit=100_000)
    figures = admin_service_pb2.GetStatsResponse(queues=[queue])
    first = printed(next(iter(render.stats(figures))), width=80)
    assert first.split() == ["default", "queued", "5", "limit", "100000"]


def test_a_parked_task_shows_its_condition_once() -> None:
    task = full_task()
    task.wait_reason, task.wait_detail = task_pb2.WAIT_REASON_INSTANCE_ABSENT, "there is no instance web"
    assert render.why(task) == "there is no instance web"


def test_whole_numbers_stay_whole() -> None:
    struct = Struct()
    struct.update({"steps": 4, "share": 0.5, "of": [1, {"a": 2}]})
    value = packed(struct)
    assert value is not None
    assert in_one_line(value) == '{"of": [1, {"a": 2}], "share": 0.5, "steps": 4}'


@pytest.mark.parametrize("width", [40, 80, 400])
def test_a_table_of_any_width_keeps_hostile_text_in_its_cell(width: int) -> None:
    task = full_task()
    task.error.CopyFrom(task_pb2.TaskError(reason="X", message="a\x07b\nqueued\rc\x1b[31m"))
    task.state = task_pb2.TASK_STATE_FAILED
    text = printed(render.task_list([task]), width=width)
    whole = "".join(text.split())
    assert r"a\x07b\nqueued\rc\x1b[31m" in whole
