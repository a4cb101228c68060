"""Fingerprints: equal exactly for the same request. They are in databases, so what they are made of may not drift."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.contract.enums import IfExists, WhenAbsent, WhenStopped
from longshore.server.engine.submissions import (
    NO_TASK,
    Defaults,
    PlanRequest,
    StepRequest,
    SubmitRequest,
    TaskRequest,
    UploadRequest,
    plan_fingerprint,
    plans,
    submit_fingerprint,
    upload_fingerprint,
)
from longshore.server.model.task import AnyValue, Destination, FilePush, Job, Terms
from longshore.server.store.commands import TaskPlan

PUSH = FilePush(Destination("default", "", "c1", "/etc/motd"), mode=0o640)
OPEN = ("expire_after", "run_timeout", "attempt_limit")


def asked(
    *,
    work: tuple[FilePush, ...] | Job,
    not_before: float = 0.0,
    defaults: Defaults = Defaults(),  # noqa: B008  frozen
    **terms: Any,
) -> TaskRequest:
    """A request as it is made of what a caller says. A term of OPEN that is None is left to the server's defaults."""
    left = {name for name in OPEN if terms.get(name) is None}
    known = terms | {name: getattr(defaults, name) for name in left}
    return TaskRequest(work, Terms(**known), not_before, frozenset(left))


TASK = asked(work=(PUSH,), labels={"a": "1", "b": "2"})
UPLOAD = UploadRequest(request_id="r1", task=TASK)
JOB = Job("resize", AnyValue("type.googleapis.com/x.Y", b"\x01"), "pool", "c1")


def test_fingerprints_of_the_first_version_are_unchanged() -> None:
    """A changed value here means that a server after an upgrade refuses every retry of before. Add v2 instead."""
    assert upload_fingerprint(UPLOAD) == "v1:a4b0c84ef1c71a2aeb9ef7f0a5b360e2a871a7519b6e6e3bfb4ffaa572e17968"
    assert (
        upload_fingerprint(replace(UPLOAD, size=3, sha256=bytes(32)))
        == "v1:b1391144c78512b929ced0a5721e877db84253509181c0824cf15a546f5e059b"
    )
    assert (
        submit_fingerprint(SubmitRequest(request_id="r", task=asked(work=JOB)))
        == "v1:4255ce4b7d7b5eb5e8d8dd62a190ce5ff8e5d17de307dbd4edab532497e69f44"
    )


@pytest.mark.parametrize(
    "other",
    [
        replace(UPLOAD, request_id="r2"),
        replace(UPLOAD, take_over=True),
        replace(UPLOAD, task=asked(work=(PUSH,), labels={"b": "2", "a": "1"})),
        replace(UPLOAD, task=replace(TASK, not_before=0.0000001)),
    ],
)
def test_equal_requests_have_equal_fingerprints(other: UploadRequest) -> None:
    assert upload_fingerprint(other) == upload_fingerprint(UPLOAD)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SECONDS = st.floats(0, 4e7, allow_nan=False)
PUSHES = st.builds(
    FilePush,
    st.builds(Destination, TEXT, TEXT, TEXT, TEXT),
    mode=st.none() | st.integers(0, 0o777),
    uid=st.none() | st.integers(0, 2**32 - 1),
    gid=st.none() | st.integers(0, 2**32 - 1),
    create_parents=st.booleans(),
    if_exists=st.sampled_from(IfExists),
    when_stopped=st.sampled_from(WhenStopped),
    when_absent=st.sampled_from(WhenAbsent),
    read_back=st.booleans(),
    parents_mode=st.none() | st.integers(0, 0o777),
    in_place=st.booleans(),
    latest_wins=st.booleans(),
)
JOBS = st.builds(
    Job,
    TEXT,
    st.none() | st.builds(AnyValue, TEXT, st.binary(max_size=20)),
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    st.booleans(),
    st.booleans(),
)
TASKS = st.builds(
    asked,
    work=st.lists(PUSHES, min_size=1, max_size=3).map(tuple) | JOBS,
    queue=TEXT,
    priority=st.integers(-100, 100),
    labels=st.dictionaries(TEXT, TEXT, max_size=4),
    not_before=SECONDS,
    expire_after=st.none() | SECONDS,
    run_timeout=st.none() | SECONDS,
    stall_timeout=st.none() | SECONDS,
    attempt_limit=st.none() | st.integers(1, 100),
    description=TEXT,
    after=st.lists(TEXT, max_size=3).map(tuple),
    after_any_end=st.booleans(),
)


def canonical(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return "v1:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def micros(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e6)


def values_of(request: TaskRequest) -> dict[str, Any]:
    work: Any
    if isinstance(request.work, Job):
        job = request.work
        packed = None if job.arguments is None else [job.arguments.type_url, job.arguments.value.hex()]
        work = {"kind": job.kind, "arguments": packed, "target": job.target, "instance": job.instance}
        # Younger than the fingerprints of before.
        work |= {
            name: value for name in ("project", "key", "exclusive", "latest_wins") if (value := getattr(job, name))
        }
    else:
        work = [
            {
                "destination": [getattr(one.destination, name) for name in ("target", "project", "instance", "path")],
                **{name: int(getattr(one, name)) for name in ("if_exists", "when_stopped", "when_absent")},
                **{name: getattr(one, name) for name in ("mode", "uid", "gid", "create_parents", "read_back")},
                # Younger than the fingerprints of before, which must stay: they count where they are asked for.
                **({} if one.parents_mode is None else {"parents_mode": one.parents_mode}),
                **({"in_place": True} if one.in_place else {}),
                **({"latest_wins": True} if one.latest_wins else {}),
            }
            for one in request.work
        ]
    terms = {name: getattr(request.terms, name) for name in ("queue", "priority", "attempt_limit")}
    terms |= {name: micros(getattr(request.terms, name)) for name in ("expire_after", "run_timeout", "stall_timeout")}
    terms |= dict.fromkeys(request.left_open)
    # Younger than the fingerprints of before: they count where they are asked for.
    terms |= {"description": request.terms.description} if request.terms.description else {}
    terms |= {"after": list(request.terms.after)} if request.terms.after else {}
    terms |= {"after_any_end": True} if request.terms.after_any_end else {}
    return {"work": work, "labels": dict(request.terms.labels), "not_before": micros(request.not_before), **terms}


@given(TASKS, TEXT, st.none() | st.integers(0, 2**63 - 1), st.binary(max_size=32))
def test_a_fingerprint_is_made_of_canonical_json(
    task: TaskRequest, payload: str, size: int | None, sha256: bytes
) -> None:
    submit = {"call": "submit", "task": values_of(task), "payload": payload}
    assert submit_fingerprint(SubmitRequest(request_id="r", task=task, payload_id=payload)) == canonical(submit)
    upload = {"call": "upload", "task": values_of(task), "size": size, "sha256": sha256.hex()}
    asked = UploadRequest(request_id="r", task=task, size=size, sha256=sha256)
    assert upload_fingerprint(asked) == canonical(upload)


DIFFERENT = [
    replace(UPLOAD, size=0),
    replace(UPLOAD, size=1),
    replace(UPLOAD, sha256=bytes(32)),
    *(
        replace(UPLOAD, task=asked(**({"work": TASK.work, "labels": TASK.terms.labels} | change)))
        for change in (
            {"queue": "other"},
            {"after": ("t1",)},
            {"after": ("t1", "t2")},
            {"after": ("t1",), "after_any_end": True},
            {"priority": 1},
            {"labels": {"a": "1"}},
            {"labels": {"a": "1", "b": "3"}},
            {"not_before": 1.0},
            {"expire_after": Defaults().expire_after},
            {"run_timeout": 3600.0},
            {"stall_timeout": 1.0},
            {"attempt_limit": 5},
            {"description": "why"},
            {"work": (PUSH, replace(PUSH, destination=replace(PUSH.destination, instance="c2")))},
            {"work": JOB},
            {"work": replace(JOB, arguments=None)},
            {"work": replace(JOB, instance="")},
        )
    ),
    *(
        replace(UPLOAD, task=replace(TASK, work=(replace(PUSH, **change),)))
        for change in (
            {"mode": None},
            {"mode": 0},
            {"uid": 0},
            {"gid": 0},
            {"create_parents": True},
            {"if_exists": IfExists.FAIL},
            {"when_stopped": WhenStopped.WAIT},
            {"when_absent": WhenAbsent.WAIT},
            {"read_back": True},
            {"parents_mode": 0},
            {"parents_mode": 0o755},
            {"in_place": True},
            {"destination": Destination("default", "p", "c1", "/etc/motd")},
            {"destination": Destination("other", "", "c1", "/etc/motd")},
            {"destination": Destination("default", "", "c1", "/etc/motd2")},
        )
    ),
]


def test_every_field_counts() -> None:
    found = [upload_fingerprint(one) for one in (UPLOAD, *DIFFERENT)]
    assert len(set(found)) == len(found)


def test_an_upload_and_a_submission_are_never_the_same() -> None:
    submit = SubmitRequest(request_id="r1", task=TASK, payload_id="p1")
    assert submit_fingerprint(submit) != upload_fingerprint(UPLOAD)
    assert submit_fingerprint(replace(submit, payload_id="p2")) != submit_fingerprint(submit)


def test_defaults_are_filled_into_plans_and_not_into_fingerprints() -> None:
    short = Defaults(run_timeout=1.0, expire_after=2.0, attempt_limit=3)
    request = asked(work=(PUSH,), defaults=short)
    assert plans(request) == (TaskPlan(PUSH, request.terms),)
    assert (request.terms.run_timeout, request.terms.expire_after, request.terms.attempt_limit) == (1.0, 2.0, 3)
    others = [replace(UPLOAD, task=one) for one in (request, asked(work=(PUSH,)))]
    assert upload_fingerprint(others[0]) == upload_fingerprint(others[1])


def test_one_plan_for_each_destination_in_their_order() -> None:
    names = [f"c{number}" for number in range(5)]
    pushes = tuple(replace(PUSH, destination=replace(PUSH.destination, instance=name)) for name in names)
    made = plans(replace(TASK, work=pushes))
    assert [one.work.destination.instance for one in made if isinstance(one.work, FilePush)] == names
    (job,) = plans(asked(work=JOB))
    assert (job.work.kind, job.work) == ("resize", JOB)


def test_inline_bytes_are_part_of_the_fingerprint_and_their_absence_is_not() -> None:
    bare = SubmitRequest(request_id="r", task=TASK)
    one = replace(bare, content=b"one", crc32c=1)
    others = [bare, replace(one, content=b"ones"), replace(one, crc32c=2), replace(bare, content=b"", crc32c=0)]
    assert len({submit_fingerprint(each) for each in (one, *others)}) == 5
    assert submit_fingerprint(replace(one, content=b"two")) == submit_fingerprint(one)  # size and CRC32C, as an upload


def test_plans_have_fingerprints_of_their_own() -> None:
    def steps(*after: int, content: bytes | None = None) -> tuple[StepRequest, ...]:
        submission = SubmitRequest(request_id="r", task=TASK, content=content)
        return StepRequest(submission), StepRequest(submission, after)

    plan = PlanRequest(request_id="r", steps=steps())
    same = [replace(plan, request_id="other"), replace(plan, dry_run=True)]
    others = [steps(0), steps(content=b"x"), steps()[:1]]
    assert {plan_fingerprint(each) for each in same} == {plan_fingerprint(plan)}
    found = {plan_fingerprint(each) for each in [plan, *(replace(plan, steps=other) for other in others)]}
    assert len(found) == 4
    kept = UploadRequest(request_id="r", task=NO_TASK)
    assert upload_fingerprint(kept) != upload_fingerprint(replace(kept, task=TASK))
