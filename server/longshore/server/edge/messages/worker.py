"""The session's messages of the contract as the engine's values, checked, and back. Protobuf stops here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from google.protobuf.duration_pb2 import Duration

from longshore.contract import limits, names, paths
from longshore.contract.version import PROTOCOL_VERSION, REVISION
from longshore.server.edge.messages import translate
from longshore.server.engine.sessions.messages import (
    Assignment,
    AttemptRef,
    CancelOrder,
    DebtOrder,
    Hello,
    ParkedInstances,
    Ready,
    ServerSays,
    WorkerSays,
)
from longshore.server.engine.watch import Progress
from longshore.server.model.errors import InvalidField, ProtocolVersion
from longshore.server.model.events import Reported
from longshore.server.model.task import AnyValue, Failure, Grant
from longshore.server.model.values import PARKED, DeliveryMethod, Outcome, WaitReason
from longshore.server.store.commands import BeginAnswer, GrantAnswer
from longshore.v1 import task_pb2, task_service_pb2
from longshore.v1 import worker_service_pb2 as pb

MOST_CREDITS: Final = 1000
MOST_HELD: Final = 4 * MOST_CREDITS
"""Attempts that run, and ended ones whose reports are not acknowledged."""
MOST_NAMES: Final = 1000
"""Targets, kinds, dead sessions, each."""
MOST_ENTRIES: Final = 10_000
"""Entries of each list in one message. A message of 4 MiB has room for two million empty ones, which take seconds."""
LONGEST_TEXT: Final = 4000
"""Characters of an error's message that are kept."""
LONGEST_TYPE: Final = 4000
"""Characters of a result's type URL: the name of a message."""
LARGEST_EPOCH: Final = 1 << 40

_OUTCOMES: Final = {int(outcome): outcome for outcome in Outcome}
_METHODS: Final = {int(method): method for method in DeliveryMethod}
_FAILING: Final = frozenset({Outcome.TRANSIENT, Outcome.PERMANENT, Outcome.NOT_READY, Outcome.UNKNOWN})


# From the worker ---------------------------------------------------------------------------------------------------


def hello(message: pb.WorkRequest) -> Hello:
    """Read the first message of a connection. Raises InvalidField, ProtocolVersion."""
    if not message.HasField("hello"):
        raise InvalidField("hello", "must be in the first message of a stream.")
    said = message.hello
    if said.protocol_version != PROTOCOL_VERSION:
        raise ProtocolVersion(
            f"The worker speaks version {said.protocol_version} of the protocol and this server speaks "
            f"{PROTOCOL_VERSION}: upgrade the older one.",
            server=str(PROTOCOL_VERSION),
            worker=str(said.protocol_version),
        )
    _check(names.wrong_session_id, said.session_id, "hello.session_id")
    _check(names.wrong_worker, said.worker, "hello.worker")
    for field, count, most in (
        ("targets", len(said.targets), MOST_NAMES),
        ("kinds", len(said.kinds), MOST_NAMES),
        ("held", len(said.held), MOST_HELD),
        ("dead_sessions", len(said.dead_sessions), MOST_NAMES),
    ):
        if count > most:
            raise InvalidField(f"hello.{field}", f"has {count} entries; at most {most} may be there.")
    targets = {one.name: one.identity for one in said.targets}
    kinds = {one.name: one.settles for one in said.kinds}
    _names("hello.targets", [one.name for one in said.targets])
    _names("hello.kinds", [one.name for one in said.kinds])
    for index, one in enumerate(said.targets):
        if len(one.identity) > names.LONGEST_IDENTITY:
            raise InvalidField(
                f"hello.targets[{index}].identity", f"is longer than {names.LONGEST_IDENTITY} characters."
            )
    for index, dead in enumerate(said.dead_sessions):
        _check(names.wrong_session_id, dead, f"hello.dead_sessions[{index}]")
    if said.session_id in said.dead_sessions:
        raise InvalidField("hello.dead_sessions", "names this very session.")
    if said.epoch > LARGEST_EPOCH:
        raise InvalidField("hello.epoch", f"is {said.epoch}; count from 1.")
    return Hello(
        session_id=said.session_id,
        worker=said.worker,
        targets=targets,
        kinds=kinds,
        held=tuple(dict.fromkeys(_ref(one, f"hello.held[{index}]") for index, one in enumerate(said.held))),
        version=said.version[:100],
        dead_sessions=tuple(dict.fromkeys(said.dead_sessions)),
        epoch=said.epoch,
        begins=said.begins,
        revision=said.revision,
    )


def worker_says(message: pb.WorkRequest, *, session_id: str, first: bool = False) -> WorkerSays:
    """Read everything of a message but the hello. Raises InvalidField."""
    if message.HasField("hello") and not first:
        raise InvalidField("hello", "must be in the first message only; open a new stream to say it again.")
    credits_ = message.credits if message.HasField("credits") else None
    if credits_ is not None and credits_ > MOST_CREDITS:
        raise InvalidField("credits", f"is {credits_}; at most {MOST_CREDITS} may be offered.")
    for field in ("progress", "reports", "begins", "grant_requests", "ready", "debts"):
        if len(getattr(message, field)) > MOST_ENTRIES:
            raise InvalidField(field, f"has more than {MOST_ENTRIES} entries; send them in several messages.")
    return WorkerSays(
        credits=credits_,
        heartbeat=message.heartbeat.sequence if message.HasField("heartbeat") else None,
        progress=tuple(
            (one.attempt.task_id, Progress(one.attempt.attempt, one.done, one.total)) for one in message.progress
        ),
        reports=tuple([_report(one, index, session_id) for index, one in enumerate(message.reports)]),
        begins=tuple(_ref(one.attempt, f"begins[{index}].attempt") for index, one in enumerate(message.begins)),
        grants=tuple(_grant_request(one, index, session_id) for index, one in enumerate(message.grant_requests)),
        ready=tuple(
            Ready(one.instance.target, one.instance.project, one.instance.instance, one.running)
            for one in message.ready
        ),
        debts=tuple((one.debt_id, one.paid) for one in message.debts),
        targets=tuple(_condition(one, index) for index, one in enumerate(message.targets)),
        goodbye=message.HasField("goodbye"),
    )


def attempt_ref(message: pb.AttemptRef, field: str) -> AttemptRef:
    """Read a reference to an attempt, as `field` of a request. Raises InvalidField."""
    return _ref(message, field)


def _check(rule: Callable[[str], str | None], value: str, field: str) -> None:
    if wrong := rule(value):
        raise InvalidField(field, f"is {value[:80]!r}; {wrong}.")


def _names(field: str, given: list[str]) -> None:
    for index, name in enumerate(given):
        _check(names.wrong_name, name, f"{field}[{index}].name")
        if name in given[:index]:
            raise InvalidField(f"{field}[{index}].name", f"is {name!r} once more; name each once.")


def _ref(message: pb.AttemptRef, field: str) -> AttemptRef:
    _check(names.wrong_reported_id, message.task_id, f"{field}.task_id")
    if not 1 <= message.attempt <= limits.LARGEST_ATTEMPT:
        raise InvalidField(f"{field}.attempt", f"is {message.attempt}; attempts count from 1.")
    return AttemptRef(message.task_id, message.attempt)


def _report(message: pb.Report, index: int, session_id: str) -> tuple[str, Reported]:
    ref = message.attempt
    task_id, attempt = ref.task_id, ref.attempt
    if names.wrong_reported_id(task_id) or not 1 <= attempt <= limits.LARGEST_ATTEMPT:
        _ref(ref, f"reports[{index}].attempt")  # which says what is wrong
    outcome = _OUTCOMES.get(message.outcome)
    if outcome is None:
        raise InvalidField(f"reports[{index}].outcome", "says nothing that this server knows.")
    result = None
    if message.HasField("result"):
        if len(message.result.value) > limits.LARGEST_RESULT or len(message.result.type_url) > LONGEST_TYPE:
            raise InvalidField(
                f"reports[{index}].result",
                f"is larger than {limits.LARGEST_RESULT} bytes, or its type has a long name; upload what is large.",
            )
        result = AnyValue(message.result.type_url, message.result.value)
    reported = Reported(
        session_id=session_id,
        attempt=attempt,
        outcome=outcome,
        error=_failure(message.error, outcome) if message.HasField("error") or outcome in _FAILING else None,
        result=result,
        wait_reason=_wait_reason(message.wait_reason),
        retry_after=(
            _seconds(f"reports[{index}].retry_after", message.retry_after) if message.HasField("retry_after") else None
        ),
        method=_method(message.delivery_method),
        left_temps=message.left_temps,
    )
    return task_id, reported


def _condition(message: pb.TargetCondition, index: int) -> tuple[str, Failure | None]:
    _check(names.wrong_name, message.target, f"targets[{index}].target")
    return message.target, _failure(message.problem, Outcome.TRANSIENT) if message.HasField("problem") else None


def _failure(message: task_pb2.TaskError, outcome: Outcome) -> Failure:
    # A worker's carelessness with its words must not cost it the connection: what does not fit is made to.
    reason = "UNSPECIFIED" if names.wrong_reason(message.reason) else message.reason
    text = message.message[:LONGEST_TEXT] or "The worker did not say why."
    return Failure(reason, text, message.transient or outcome is Outcome.TRANSIENT)


def _wait_reason(value: int) -> WaitReason:
    """Return the wait reason if a task can be parked for it, else NONE, of which the table makes a back-off."""
    return WaitReason(value) if value and value in PARKED else WaitReason.NONE


def _method(value: int) -> DeliveryMethod:
    return _METHODS.get(value, DeliveryMethod.UNKNOWN)


def _seconds(field: str, message: Duration) -> float:
    """Cut a duration that is too long: a handler chooses it, and must not cost its worker the connection."""
    if message.seconds < 0 or not 0 <= message.nanos < 1_000_000_000:
        raise InvalidField(field, "is no duration of 0 s or more, with 0 to 999,999,999 nanos; leave it unset instead.")
    return min(message.seconds + message.nanos / 1e9, limits.LONGEST_WAIT)


def _grant_request(message: pb.GrantRequest, index: int, session_id: str) -> tuple[str, Grant]:
    field = f"grant_requests[{index}]"
    ref = _ref(message.attempt, f"{field}.attempt")
    temp = message.temp
    if temp and (wrong := paths.wrong_temp(temp)):
        raise InvalidField(f"{field}.temp", f"is {temp[:80]!r}; {wrong}.")
    grant = Grant(
        attempt=ref.attempt,
        session_id=session_id,
        temp=temp,
        method=_method(message.delivery_method),
        granted_at=0.0,
        crc32c=message.crc32c if message.HasField("crc32c") else None,
        mode=message.mode if message.HasField("mode") else None,
        uid=message.uid if message.HasField("uid") else None,
        gid=message.gid if message.HasField("gid") else None,
    )
    return ref.task_id, grant


# To the worker -----------------------------------------------------------------------------------------------------


def server_says(says: ServerSays, *, version: str) -> pb.WorkResponse:
    """Translate one message to a worker."""
    message = pb.WorkResponse(heartbeat_ack=says.heartbeat_ack or 0)
    # Lists that are sent thousands of times a second are put together in their place, and not elsewhere first.
    for assignment in says.assignments:
        _fill_assignment(message.assignments.add(), assignment)
    for ack in says.acks:
        _fill_ref((added := message.acks.add()).attempt, ack.ref)
        added.accepted = ack.accepted
    message.begun.extend([_begun(one) for one in says.begun])
    message.grants.extend([_grant(one) for one in says.grants])
    message.cancels.extend([_cancel(one) for one in says.cancels])
    message.revocations.extend([pb.Revocation(attempt=_to_ref(one.ref), reason=one.reason) for one in says.revocations])
    message.parked.extend([_parked(one) for one in says.parked])
    message.debts.extend([_debt(one) for one in says.debts])
    if says.welcome is not None:
        message.welcome.epoch = says.welcome.epoch
        message.welcome.lease.CopyFrom(translate.duration(says.welcome.lease))
        message.welcome.held.extend(_refs(says.welcome.held))
        message.welcome.version = version
        message.welcome.begins = True
        message.welcome.revision = REVISION
    if says.drain is not None:
        message.drain.reason = says.drain
        message.drain.SetInParent()
    if says.go_away is not None:
        message.go_away.CopyFrom(task_service_pb2.GoAway(reason=says.go_away))
    return message


def _to_ref(ref: AttemptRef) -> pb.AttemptRef:
    return pb.AttemptRef(task_id=ref.task_id, attempt=ref.attempt)


def _fill_ref(message: pb.AttemptRef, ref: AttemptRef) -> None:
    message.task_id, message.attempt = ref


def _refs(refs: Iterable[AttemptRef]) -> list[pb.AttemptRef]:
    return [_to_ref(ref) for ref in refs]


def _fill_assignment(message: pb.Assignment, one: Assignment) -> None:
    status = one.task.status
    translate.fill_task(message.task, one.task)
    message.attempt = status.attempt
    if one.settles:
        if status.grant is not None:
            message.settle.CopyFrom(_settle_order(status.grant))
    elif status.alone:
        message.alone = True
    if one.payload_path:
        message.payload_path = one.payload_path
    if one.content:
        message.payload = one.content


def _settle_order(grant: Grant) -> pb.SettleOrder:
    return pb.SettleOrder(
        granted_attempt=grant.attempt,
        temp=grant.temp,
        crc32c=grant.crc32c,
        mode=grant.mode,
        uid=grant.uid,
        gid=grant.gid,
        delivery_method=task_pb2.DeliveryMethod.ValueType(grant.method),
    )


def _begun(one: BeginAnswer) -> pb.Begun:
    return pb.Begun(attempt=pb.AttemptRef(task_id=one.task_id, attempt=one.attempt), begun=one.begun, reason=one.reason)


def _grant(one: GrantAnswer) -> pb.Grant:
    return pb.Grant(
        attempt=pb.AttemptRef(task_id=one.task_id, attempt=one.attempt), granted=one.granted, reason=one.reason
    )


def _cancel(one: CancelOrder) -> pb.Cancel:
    return pb.Cancel(attempt=_to_ref(one.ref), grace=translate.duration(one.grace))


def _parked(one: ParkedInstances) -> pb.ParkedInstances:
    return pb.ParkedInstances(
        target=one.target,
        instances=[
            pb.InstanceRef(target=each.target, project=each.project, instance=each.instance) for each in one.instances
        ],
    )


def _debt(one: DebtOrder) -> pb.Debt:
    destination = one.destination
    return pb.Debt(
        debt_id=one.debt_id,
        instance=pb.InstanceRef(target=destination.target, project=destination.project, instance=destination.instance),
        temps=one.temps,
    )
