from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration

from longshore.contract import limits
from longshore.server.edge.messages import worker as edge
from longshore.server.engine.sessions import messages as engine
from longshore.server.model.errors import InvalidField, ProtocolVersion
from longshore.server.model.events import Reported
from longshore.server.model.task import AnyValue, Destination, Failure, Grant
from longshore.server.model.values import DeliveryMethod, Outcome, State, WaitReason
from longshore.server.store.commands import BeginAnswer, GrantAnswer
from longshore.v1 import task_pb2
from longshore.v1 import worker_service_pb2 as pb
from tests.support.stores.tasks import job, pushing

SESSION = "session-of-a-test-0001"


def hello(**fields: Any) -> pb.WorkRequest:
    said: dict[str, Any] = {"protocol_version": 1, "session_id": SESSION, "worker": "worker-1"}
    return pb.WorkRequest(hello=pb.Hello(**{**said, **fields}))


def test_hello() -> None:
    said = edge.hello(
        hello(
            targets=[pb.ServedTarget(name="lxd", identity="abc")],
            kinds=[pb.ServedKind(name="file_push", settles=True)],
            held=[pb.AttemptRef(task_id="task-1", attempt=2), pb.AttemptRef(task_id="task-1", attempt=2)],
            version="1.2.3",
            dead_sessions=["session-of-a-test-0000"],
            revision=2,
        )
    )
    assert said == engine.Hello(
        session_id=SESSION,
        worker="worker-1",
        targets={"lxd": "abc"},
        kinds={"file_push": True},
        held=(engine.AttemptRef("task-1", 2),),
        version="1.2.3",
        dead_sessions=("session-of-a-test-0000",),
        revision=2,
    )


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"session_id": "short"}, "hello.session_id"),
        ({"session_id": "has_an_underscore_in_it"}, "hello.session_id"),
        ({"session_id": "x" * 65}, "hello.session_id"),
        ({"worker": ""}, "hello.worker"),
        ({"worker": "with space"}, "hello.worker"),
        ({"targets": [pb.ServedTarget(name="Upper")]}, "hello.targets[0].name"),
        ({"targets": [pb.ServedTarget(name="a"), pb.ServedTarget(name="a")]}, "hello.targets[1].name"),
        ({"targets": [pb.ServedTarget(name="a", identity="x" * 256)]}, "hello.targets[0].identity"),
        ({"kinds": [pb.ServedKind(name="")]}, "hello.kinds[0].name"),
        ({"kinds": [pb.ServedKind(name=f"k{n}") for n in range(edge.MOST_NAMES + 1)]}, "hello.kinds"),
        ({"held": [pb.AttemptRef(task_id="task-1")]}, "hello.held[0].attempt"),
        ({"held": [pb.AttemptRef(attempt=1)]}, "hello.held[0].task_id"),
        ({"dead_sessions": ["short"]}, "hello.dead_sessions[0]"),
        ({"dead_sessions": [SESSION]}, "hello.dead_sessions"),
    ],
)
def test_a_wrong_hello_names_the_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        edge.hello(hello(**fields))
    assert caught.value.field == field


def test_no_hello_and_another_version() -> None:
    with pytest.raises(InvalidField) as caught:
        edge.hello(pb.WorkRequest(credits=3))
    assert caught.value.field == "hello"
    with pytest.raises(ProtocolVersion) as version:
        edge.hello(hello(protocol_version=2))
    assert version.value.metadata == {"server": "1", "worker": "2"}


def says(**fields: Any) -> engine.WorkerSays:
    return edge.worker_says(pb.WorkRequest(**fields), session_id=SESSION)


def test_credits_are_absolute_and_bounded() -> None:
    assert says().credits is None
    assert says(credits=0).credits == 0
    assert says(credits=1000).credits == 1000
    with pytest.raises(InvalidField) as caught:
        says(credits=1001)
    assert caught.value.field == "credits"


def test_a_second_hello_is_refused() -> None:
    with pytest.raises(InvalidField) as caught:
        edge.worker_says(hello(), session_id=SESSION)
    assert caught.value.field == "hello"
    assert edge.worker_says(hello(), session_id=SESSION, first=True) == engine.WorkerSays()


def test_reports() -> None:
    attempt = pb.AttemptRef(task_id="task-1", attempt=3)
    said = says(
        reports=[
            pb.Report(
                attempt=attempt,
                outcome=pb.OUTCOME_OK,
                result=AnyMessage(type_url="t", value=b"v"),
                delivery_method=task_pb2.DELIVERY_METHOD_SFTP,
            ),
            pb.Report(
                attempt=attempt,
                outcome=pb.OUTCOME_TRANSIENT,
                error=task_pb2.TaskError(reason="BUSY", message="later", transient=True),
                retry_after=Duration(seconds=2, nanos=500_000_000),
                left_temps=True,
            ),
            pb.Report(attempt=attempt, outcome=pb.OUTCOME_NOT_READY, wait_reason=task_pb2.WAIT_REASON_INSTANCE_STOPPED),
        ]
    )
    assert said.reports[0] == (
        "task-1",
        Reported(SESSION, 3, Outcome.OK, result=AnyValue("t", b"v"), method=DeliveryMethod.SFTP),
    )
    assert said.reports[1] == (
        "task-1",
        Reported(SESSION, 3, Outcome.TRANSIENT, error=Failure("BUSY", "later", True), retry_after=2.5, left_temps=True),
    )
    assert said.reports[2][1].wait_reason is WaitReason.INSTANCE_STOPPED


def test_a_report_without_words_gets_some_and_long_ones_are_cut() -> None:
    attempt = pb.AttemptRef(task_id="task-1", attempt=1)
    bare = says(reports=[pb.Report(attempt=attempt, outcome=pb.OUTCOME_PERMANENT)]).reports[0][1]
    assert bare.error is not None
    assert (bare.error.reason, bare.error.transient) == ("UNSPECIFIED", False)
    error = task_pb2.TaskError(reason="not upper case", message="x" * 100_000)
    long = says(reports=[pb.Report(attempt=attempt, outcome=pb.OUTCOME_TRANSIENT, error=error)]).reports[0][1]
    assert long.error is not None
    assert (long.error.reason, len(long.error.message)) == ("UNSPECIFIED", edge.LONGEST_TEXT)


@pytest.mark.parametrize(
    ("report", "field"),
    [
        (pb.Report(outcome=pb.OUTCOME_OK), "reports[0].attempt.task_id"),
        (pb.Report(attempt=pb.AttemptRef(task_id="t", attempt=1)), "reports[0].outcome"),
        (
            pb.Report(
                attempt=pb.AttemptRef(task_id="t", attempt=1),
                outcome=pb.OUTCOME_OK,
                result=AnyMessage(value=bytes(limits.LARGEST_RESULT + 1)),
            ),
            "reports[0].result",
        ),
    ],
)
def test_a_wrong_report_names_the_field(report: pb.Report, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        says(reports=[report])
    assert caught.value.field == field


@pytest.mark.parametrize(
    "wrong",
    [Duration(seconds=-1), Duration(nanos=-1), Duration(nanos=1_000_000_000), Duration(seconds=-(2**63), nanos=5)],
    ids=str,
)
def test_a_back_off_that_is_no_time_names_its_field(wrong: Duration) -> None:
    ref = pb.AttemptRef(task_id="task-1", attempt=1)
    report = pb.Report(attempt=ref, outcome=pb.OUTCOME_TRANSIENT, retry_after=wrong)
    with pytest.raises(InvalidField) as caught:
        says(reports=[report])
    assert caught.value.field == "reports[0].retry_after"


def test_a_back_off_without_end_is_cut() -> None:
    ref = pb.AttemptRef(task_id="task-1", attempt=1)
    report = pb.Report(attempt=ref, outcome=pb.OUTCOME_TRANSIENT, retry_after=Duration(seconds=2**62))
    assert says(reports=[report]).reports[0][1].retry_after == limits.LONGEST_WAIT


@pytest.mark.parametrize("field", ["progress", "reports", "begins", "grant_requests", "ready", "debts"])
def test_a_list_of_a_message_has_a_bound(field: str) -> None:
    message = pb.WorkRequest()
    for _ in range(edge.MOST_ENTRIES + 1):
        getattr(message, field).add()
    with pytest.raises(InvalidField) as caught:
        edge.worker_says(message, session_id=SESSION)
    assert caught.value.field == field


def test_grant_requests_tell_nothing_from_zero() -> None:
    attempt = pb.AttemptRef(task_id="task-1", attempt=3)
    said = says(
        grant_requests=[
            pb.GrantRequest(attempt=attempt),
            pb.GrantRequest(attempt=attempt, temp="/etc/.t", crc32c=0, mode=0, uid=0, gid=0),
        ]
    )
    assert said.grants[0] == ("task-1", Grant(3, SESSION, "", DeliveryMethod.UNKNOWN, 0.0))
    assert said.grants[1] == ("task-1", Grant(3, SESSION, "/etc/.t", DeliveryMethod.UNKNOWN, 0.0, 0, 0, 0, 0))
    with pytest.raises(InvalidField) as caught:
        says(grant_requests=[pb.GrantRequest(attempt=attempt, temp="relative")])
    assert caught.value.field == "grant_requests[0].temp"


def test_the_remaining_messages_of_a_worker() -> None:
    said = says(
        heartbeat=pb.Heartbeat(sequence=0),
        progress=[pb.AttemptProgress(attempt=pb.AttemptRef(task_id="t", attempt=2), done=5, total=10)],
        ready=[pb.InstanceReady(instance=pb.InstanceRef(target="lxd", instance="c1"), running=True)],
        debts=[pb.DebtReport(debt_id="d", paid=True)],
        goodbye=pb.Goodbye(),
    )
    assert said.heartbeat == 0
    assert said.progress[0][1].done == 5
    assert said.ready == (engine.Ready("lxd", "", "c1", True),)
    assert said.debts == (("d", True),)
    assert said.goodbye
    assert says() == engine.WorkerSays()


def test_everything_a_server_says() -> None:
    granted = Grant(1, SESSION, "/etc/.t", DeliveryMethod.SFTP, 5.0, 0, 0o644, 0, None)
    destination = Destination("default", "p", "c1", "/etc/motd")
    said = edge.server_says(
        engine.ServerSays(
            welcome=engine.Welcome(4, 6.0, (engine.AttemptRef("t", 1),)),
            heartbeat_ack=9,
            assignments=(
                engine.Assignment(job(alone=True), "/spool/x"),
                engine.Assignment(pushing(state=State.SETTLING, attempt=2, grant=granted, alone=True)),
            ),
            begun=(BeginAnswer("t", 1, False, "REVOKED"),),
            grants=(GrantAnswer("t", 1, False, "CANCELLED"),),
            cancels=(engine.CancelOrder(engine.AttemptRef("t", 1), 30.0),),
            revocations=(engine.Revocation(engine.AttemptRef("t", 2), "TIMED_OUT"),),
            acks=(engine.ReportAck(engine.AttemptRef("t", 3), True),),
            parked=(engine.ParkedInstances("default", (destination,)),),
            debts=(engine.DebtOrder("d", destination, ("/a", "/b")),),
            drain="leave",
            go_away="DRAINING",
        ),
        version="1",
    )
    assert said.welcome == pb.Welcome(
        epoch=4,
        lease=Duration(seconds=6),
        held=[pb.AttemptRef(task_id="t", attempt=1)],
        version="1",
        begins=True,
        revision=2,
    )
    first, second = said.assignments
    assert (first.attempt, first.alone, first.payload_path, first.HasField("settle")) == (1, True, "/spool/x", False)
    assert second.alone is False
    assert second.settle == pb.SettleOrder(
        granted_attempt=1, temp="/etc/.t", crc32c=0, mode=0o644, uid=0, delivery_method=task_pb2.DELIVERY_METHOD_SFTP
    )
    assert second.settle.HasField("crc32c")
    assert not second.settle.HasField("gid")
    assert said.grants == [pb.Grant(attempt=pb.AttemptRef(task_id="t", attempt=1), granted=False, reason="CANCELLED")]
    assert said.begun == [pb.Begun(attempt=pb.AttemptRef(task_id="t", attempt=1), begun=False, reason="REVOKED")]
    assert said.cancels[0].grace == Duration(seconds=30)
    assert said.revocations[0].reason == "TIMED_OUT"
    assert said.acks[0].accepted
    assert said.parked[0].instances == [pb.InstanceRef(target="default", project="p", instance="c1")]
    assert list(said.debts[0].temps) == ["/a", "/b"]
    assert (said.heartbeat_ack, said.drain.reason, said.go_away.reason) == (9, "leave", "DRAINING")
    quiet = edge.server_says(engine.ServerSays(), version="1")
    assert quiet == pb.WorkResponse()
    assert edge.server_says(engine.ServerSays(drain=""), version="1").HasField("drain")
