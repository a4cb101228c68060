"""Every field of a request against what the contract says of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from longshore.contract.enums import IfExists, WhenAbsent, WhenStopped
from longshore.server.edge.messages import fields
from longshore.server.edge.messages.validate import check_request_id, plan_request, submit_request, upload_request
from longshore.server.engine.submissions import Defaults, PlanRequest, UploadRequest
from longshore.server.model.errors import InvalidField
from longshore.server.model.task import AnyValue, Destination, FilePush, Job, Terms
from longshore.v1 import task_pb2 as pb
from longshore.v1 import task_service_pb2 as service_pb

DEFAULTS = Defaults()


def header() -> service_pb.UploadHeader:
    """The least that is valid."""
    return service_pb.UploadHeader(
        request_id="r1",
        spec=pb.TaskSpec(
            file_push=pb.FilePushSpec(pushes=[pb.FilePush(destination=pb.Destination(instance="c1", path="/etc/motd"))])
        ),
    )


def job_header() -> service_pb.UploadHeader:
    return service_pb.UploadHeader(request_id="r1", spec=pb.TaskSpec(job=pb.JobSpec(kind="resize")))


def accepted(message: service_pb.UploadHeader) -> UploadRequest:
    return upload_request(message, DEFAULTS)


def test_the_least_request_gets_the_contracts_defaults() -> None:
    request = accepted(header())
    assert request.task.terms == Terms()
    assert request.size is None
    assert request.sha256 == b""
    assert request.task.work == (FilePush(Destination("default", "", "c1", "/etc/motd")),)
    assert request.task.left_open == {"attempt_limit", "run_timeout", "expire_after"}


def test_everything_that_is_given_arrives() -> None:
    message = header()
    message.size = 0
    message.sha256 = bytes(range(32))
    message.take_over = True
    spec = message.spec
    spec.queue, spec.priority, spec.attempt_limit = "nightly", -100, 100
    spec.labels["team/a"] = "x"
    spec.not_before.FromMilliseconds(1500)
    spec.expire_after.FromSeconds(60)
    spec.run_timeout.FromSeconds(7)
    spec.stall_timeout.FromNanoseconds(500)
    spec.description = "é" * 500
    push = spec.file_push.pushes[0]
    push.mode, push.uid, push.gid, push.create_parents, push.read_back = 0, 0, 5, True, True
    push.destination.target, push.destination.project = "site-1", "web"
    push.if_exists, push.when_stopped, push.when_absent = (
        pb.IF_EXISTS_FAIL, pb.WHEN_STOPPED_WAIT, pb.WHEN_ABSENT_WAIT,
    )  # fmt: skip
    request = accepted(message)
    assert (request.size, request.sha256, request.take_over) == (0, bytes(range(32)), True)
    task, terms = request.task, request.task.terms
    assert (terms.queue, terms.priority, terms.attempt_limit, terms.labels) == ("nightly", -100, 100, {"team/a": "x"})
    assert terms.description == "é" * 500
    assert (task.not_before, terms.expire_after, terms.run_timeout, terms.stall_timeout) == (1.5, 60.0, 7.0, 5e-7)
    assert task.work == (
        FilePush(
            Destination("site-1", "web", "c1", "/etc/motd"),
            mode=0,
            uid=0,
            gid=5,
            create_parents=True,
            if_exists=IfExists.FAIL,
            when_stopped=WhenStopped.WAIT,
            when_absent=WhenAbsent.WAIT,
            read_back=True,
        ),
    )


def test_a_job_arrives_unopened() -> None:
    message = job_header()
    message.spec.job.arguments.CopyFrom(AnyMessage(type_url="type.googleapis.com/team.Resize", value=b"\x08\x01"))
    message.spec.job.target, message.spec.job.instance = "site-1", "c1"
    arguments = AnyValue("type.googleapis.com/team.Resize", b"\x08\x01")
    assert accepted(message).task.work == Job("resize", arguments, "site-1", "c1")
    message.spec.job.project, message.spec.job.key = "shop", "é" * 64
    assert accepted(message).task.work == Job("resize", arguments, "site-1", "c1", "shop", "é" * 64)


def test_the_latest_wins_only_if_said_and_for_jobs_with_a_key() -> None:
    message = header()
    for said in (pb.ON_PENDING_UNSPECIFIED, pb.ON_PENDING_QUEUE, pb.ON_PENDING_SUPERSEDE):
        _push(message).on_pending = said
        assert isinstance(works := accepted(message).task.work, tuple)
        assert works[0].latest_wins is (said == pb.ON_PENDING_SUPERSEDE)
    message = job_header()
    message.spec.job.on_pending = pb.ON_PENDING_SUPERSEDE
    with pytest.raises(InvalidField) as caught:
        accepted(message)
    assert caught.value.field == "header.spec.job.key"
    message.spec.job.key = "a"
    assert isinstance(work := accepted(message).task.work, Job)
    assert work.latest_wins


def test_access_is_shared_unless_said() -> None:
    message = job_header()
    message.spec.job.target, message.spec.job.instance = "site-1", "c1"
    for access in (pb.ACCESS_UNSPECIFIED, pb.ACCESS_SHARED, pb.ACCESS_EXCLUSIVE):
        message.spec.job.access = access
        assert isinstance(work := accepted(message).task.work, Job)
        assert work.exclusive is (access == pb.ACCESS_EXCLUSIVE)


@pytest.mark.parametrize(("name", "value"), [("project", "shop"), ("access", pb.ACCESS_EXCLUSIVE)])
def test_a_project_and_exclusive_access_need_an_instance(name: str, value: object) -> None:
    message = job_header()
    message.spec.job.target = "site-1"
    _set(f"spec.job.{name}", value)(message)
    with pytest.raises(InvalidField) as caught:
        accepted(message)
    assert caught.value.field == "header.spec.job.instance"


def _push(message: service_pb.UploadHeader) -> pb.FilePush:
    return message.spec.file_push.pushes[0]


def _set(name: str, value: object) -> Callable[[service_pb.UploadHeader], None]:
    """Set a field by its path below the header, as `spec.queue`."""

    def change(message: service_pb.UploadHeader) -> None:
        *parents, last = name.replace("pushes[0]", "pushes").split(".")
        at: object = message
        for parent in parents:
            at = getattr(at, parent)
            if parent == "pushes":
                at = at[0]  # type: ignore[index]
        if isinstance(value, Duration):
            getattr(at, last).CopyFrom(value)
        else:
            setattr(at, last, value)

    return change


def test_in_place_and_must_not_exist_are_not_both() -> None:
    message = header()
    push = _push(message)
    push.in_place, push.parents_mode = True, 0o700
    assert isinstance(work := accepted(message).task.work, tuple)
    assert (work[0].in_place, work[0].parents_mode) == (True, 0o700)
    push.if_exists = pb.IF_EXISTS_FAIL
    with pytest.raises(InvalidField, match="in_place"):
        accepted(message)


PUSH = "spec.file_push.pushes[0]"
DESTINATION = f"{PUSH}.destination"

WRONG: list[tuple[str, object]] = [
    ("request_id", "x" * 129),
    ("request_id", "käse"),
    ("request_id", "a\nb"),
    ("size", 2**63),
    ("sha256", b""),
    ("sha256", bytes(31)),
    (f"{PUSH}.parents_mode", 0o1777),
    ("spec.queue", "Upper"),
    ("spec.queue", "x" * 64),
    ("spec.queue", ".."),
    ("spec.description", "x" * 501),
    ("spec.description", "\0"),
    ("spec.priority", 101),
    ("spec.priority", -101),
    ("spec.attempt_limit", 101),
    ("spec.not_before", Duration(seconds=-1)),
    ("spec.not_before", Duration(seconds=367 * 86400)),
    ("spec.not_before", Duration(seconds=1, nanos=-1)),
    ("spec.not_before", Duration(seconds=1, nanos=1_000_000_000)),
    ("spec.expire_after", Duration()),
    ("spec.expire_after", Duration(seconds=-5)),
    ("spec.expire_after", Duration(seconds=366 * 86400 + 1)),
    ("spec.run_timeout", Duration()),
    ("spec.run_timeout", Duration(seconds=7 * 86400 + 1)),
    ("spec.stall_timeout", Duration()),
    ("spec.stall_timeout", Duration(seconds=8 * 86400)),
    (f"{PUSH}.mode", 0o1000),
    (f"{PUSH}.mode", 0o4755),
    (f"{PUSH}.uid", 2**32 - 1),
    (f"{PUSH}.gid", 2**32 - 1),
    (f"{PUSH}.if_exists", 3),
    (f"{PUSH}.when_stopped", 9),
    (f"{PUSH}.when_absent", -1),
    (f"{DESTINATION}.target", "a b"),
    (f"{DESTINATION}.target", "."),
    (f"{DESTINATION}.project", "x" * 64),
    (f"{DESTINATION}.project", "a/b"),
    (f"{DESTINATION}.project", ".."),
    (f"{DESTINATION}.instance", ""),
    (f"{DESTINATION}.instance", ".."),
    (f"{DESTINATION}.instance", "a/b"),
    (f"{DESTINATION}.instance", "x" * 64),
    (f"{DESTINATION}.path", ""),
    (f"{DESTINATION}.path", "etc/motd"),
    (f"{DESTINATION}.path", "/"),
    (f"{DESTINATION}.path", "/etc/"),
    (f"{DESTINATION}.path", "/etc/."),
    (f"{DESTINATION}.path", "/etc/../motd"),
    (f"{DESTINATION}.path", "/.."),
    (f"{DESTINATION}.path", "/etc/mo\0td"),
    (f"{DESTINATION}.path", "/" + "x" * 256),
    (f"{DESTINATION}.path", "/" + "é" * 128),
    (f"{DESTINATION}.path", "/x" * 2049),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda v: str(v)[:30].replace("\n", " "))
def test_a_wrong_field_is_named_by_its_path(name: str, value: object) -> None:
    message = header()
    _set(name, value)(message)
    with pytest.raises(InvalidField) as caught:
        accepted(message)
    assert caught.value.field == f"header.{name}"
    assert re.search(r"\b(give|at most|leave|unset|no file name)\b", caught.value.message), "what is to be done?"


@pytest.mark.parametrize(
    ("given_path", "kept"),
    [
        ("//etc//motd", "/etc/motd"),
        ("/./etc/././motd", "/etc/motd"),
        ("/etc/...", "/etc/..."),
        ("/etc/.hidden", "/etc/.hidden"),
        ("/" + "x" * 255, "/" + "x" * 255),
        ("/été\n", "/été\n"),
    ],
)
def test_paths_are_normalised(given_path: str, kept: str) -> None:
    assert fields.path("p", given_path) == kept


@given(st.lists(st.sampled_from(["", ".", "..", "a", "b c", "..."]), max_size=6).map("/".join))
def test_an_accepted_path_is_absolute_and_leads_nowhere_else(value: str) -> None:
    try:
        kept = fields.path("p", value)
    except InvalidField:
        return
    parts = kept.split("/")
    assert parts[0] == ""
    assert not {"", ".", ".."} & set(parts[1:])
    assert fields.path("p", kept) == kept


def test_the_same_destination_twice_is_refused_also_when_spelt_differently() -> None:
    message = header()
    for path in ("/etc/hosts", "//etc/./motd"):
        message.spec.file_push.pushes.add().destination.MergeFrom(pb.Destination(instance="c1", path=path))
    with pytest.raises(InvalidField, match=re.escape("pushes[0]")) as caught:
        accepted(message)
    assert caught.value.field == "header.spec.file_push.pushes[2].destination"


def test_a_thousand_destinations_and_no_more() -> None:
    message = header()
    del message.spec.file_push.pushes[:]
    with pytest.raises(InvalidField) as caught:
        accepted(message)
    assert caught.value.field == "header.spec.file_push.pushes"
    for number in range(1001):
        message.spec.file_push.pushes.add().destination.MergeFrom(pb.Destination(instance=f"c{number}", path="/x"))
    with pytest.raises(InvalidField):
        accepted(message)
    del message.spec.file_push.pushes[-1]
    assert len(accepted(message).task.works) == 1000


@pytest.mark.parametrize(
    ("labels", "field"),
    [
        ({f"k{n}": "" for n in range(33)}, "header.spec.labels"),
        ({"": "x"}, "header.spec.labels"),
        ({"UP": "x"}, "header.spec.labels"),
        ({"k" * 64: "x"}, "header.spec.labels"),
        ({"k": "x" * 256}, "header.spec.labels[k]"),
        ({"k": "\0"}, "header.spec.labels[k]"),
    ],
)
def test_labels_are_few_and_short(labels: dict[str, str], field: str) -> None:
    message = header()
    message.spec.labels.update(labels)
    with pytest.raises(InvalidField) as caught:
        accepted(message)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("clear", "field"),
    [("spec", "header.spec"), ("work", "header.spec"), ("destination", "header.spec.file_push.pushes[0].destination")],
)
def test_missing_fields_are_named(clear: str, field: str) -> None:
    message = header()
    owner = {"spec": message, "work": message.spec, "destination": _push(message)}[clear]
    owner.ClearField(clear)
    with pytest.raises(InvalidField) as caught:
        accepted(message)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spec.job.kind", ""),
        ("spec.job.kind", "file_push"),
        ("spec.job.kind", "Resize"),
        ("spec.job.target", "A"),
        ("spec.job.project", "a b"),
        ("spec.job.project", "x" * 64),
        ("spec.job.key", "x" * 129),
        ("spec.job.key", "é" * 65),
        ("spec.job.key", "a\0"),
        ("spec.job.access", 3),
        ("spec.job.on_pending", 3),
    ],
)
def test_a_wrong_job_is_refused(name: str, value: object) -> None:
    message = job_header()
    message.spec.job.target, message.spec.job.instance = "site-1", "c1"
    _set(name, value)(message)
    with pytest.raises(InvalidField) as caught:
        accepted(message)
    assert caught.value.field == f"header.{name}"


def test_a_job_on_an_instance_names_its_target() -> None:
    message = job_header()
    message.spec.job.instance = "c1"
    with pytest.raises(InvalidField) as caught:
        accepted(message)
    assert caught.value.field == "header.spec.job.target"


def test_arguments_of_a_job_are_bounded() -> None:
    message = job_header()
    message.spec.job.arguments.value = bytes(64 * 1024 - 4)
    assert message.spec.job.arguments.ByteSize() == 64 * 1024
    accepted(message)
    message.spec.job.arguments.value += b"x"
    with pytest.raises(InvalidField, match="Upload more as a payload"):
        accepted(message)


@pytest.mark.parametrize("expire_after", [None, 3600])
def test_a_task_that_would_expire_unstarted_is_refused(expire_after: int | None) -> None:
    message = header()
    message.spec.not_before.FromSeconds(7 * 86400)
    if expire_after is not None:
        message.spec.expire_after.FromSeconds(expire_after)
    with pytest.raises(InvalidField) as caught:
        accepted(message)
    assert caught.value.field == "header.spec.expire_after"
    message.spec.expire_after.FromSeconds(8 * 86400)
    accepted(message)


def test_without_a_request_id_one_is_made_up() -> None:
    made = {check_request_id("request_id", "") for _ in range(10)}
    assert len(made) == 10
    assert check_request_id("request_id", "mine 1") == "mine 1"


def test_a_submission_needs_a_payload_for_files_and_none_for_jobs() -> None:
    files = service_pb.SubmitTaskRequest(spec=header().spec)
    with pytest.raises(InvalidField) as caught:
        submit_request(files, DEFAULTS)
    assert caught.value.field == "payload_id"
    files.payload_id = "../x"
    with pytest.raises(InvalidField):
        submit_request(files, DEFAULTS)
    files.payload_id = "a1" * 16
    assert submit_request(files, DEFAULTS).payload_id == "a1" * 16
    assert submit_request(service_pb.SubmitTaskRequest(spec=job_header().spec), DEFAULTS).payload_id == ""
    with pytest.raises(InvalidField) as caught:
        submit_request(service_pb.SubmitTaskRequest(), DEFAULTS)
    assert caught.value.field == "spec"


def planned(*steps: service_pb.PlanStep, **more: Any) -> PlanRequest:
    return plan_request(service_pb.SubmitPlanRequest(steps=steps, **more), DEFAULTS)


def job_step(*after: int, **more: Any) -> service_pb.PlanStep:
    return service_pb.PlanStep(spec=pb.TaskSpec(job=pb.JobSpec(kind="reload")), after_steps=after, **more)


def test_steps_of_a_plan_are_checked_and_named_by_their_place() -> None:
    pushed = service_pb.PlanStep(spec=header().spec, content=b"abc")
    plan = planned(pushed, job_step(0, 0), request_id="r", dry_run=True)
    assert (plan.request_id, plan.dry_run) == ("r", True)
    assert [step.after_steps for step in plan.steps] == [(), (0,)]
    assert plan.steps[0].submission.content == b"abc"
    two = service_pb.PlanStep(spec=header().spec, content=b"abc", name="both")
    two.spec.file_push.pushes.add().CopyFrom(two.spec.file_push.pushes[0])
    two.spec.file_push.pushes[1].destination.path = "/etc/other"
    wrong: list[tuple[tuple[service_pb.PlanStep, ...], str]] = [
        ((), "steps"),
        ((job_step(),) * 1001, "steps"),
        ((*(job_step() for _ in range(100)), *(job_step(*range(100)) for _ in range(101))), "steps"),
        ((job_step(), service_pb.PlanStep()), "steps[1].spec"),
        ((service_pb.PlanStep(spec=header().spec),), "steps[0].payload_id"),
        ((pushed, two), "steps[1].spec.file_push.pushes"),
        ((job_step(0),), "steps[0].after_steps"),
        ((job_step(), job_step(2)), "steps[1].after_steps"),
        ((job_step(name="x" * 101),), "steps[0].name"),
        ((*(job_step(),) * 101, job_step(*range(101))), "steps[101].after_steps"),
    ]
    for steps, field in wrong:
        with pytest.raises(InvalidField) as refused:
            planned(*steps)
        assert refused.value.field == field
    with pytest.raises(InvalidField, match="step 'both'"):
        planned(two)


def test_a_payload_without_tasks_has_no_spec() -> None:
    alone = service_pb.UploadHeader(request_id="r", payload_only=True)
    assert accepted(alone).task.works == ()
    alone.spec.CopyFrom(header().spec)
    with pytest.raises(InvalidField, match=r"header\.spec"):
        accepted(alone)


def test_tasks_to_come_after_are_named_once_and_not_too_many() -> None:
    message = header()
    message.spec.after.extend(["T1", "T2", "T1"])
    message.spec.after_any_end = True
    terms = accepted(message).task.terms
    assert (terms.after, terms.after_any_end) == (("T1", "T2"), True)
    message.spec.after.extend(["T3"] * 98)
    with pytest.raises(InvalidField, match=r"spec\.after"):
        accepted(message)
