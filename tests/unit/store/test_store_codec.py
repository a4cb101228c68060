"""Values that are kept as text: what is written by hand is the JSON that it stands for, and reads as what it was."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from longshore.contract.enums import IfExists, WhenAbsent, WhenStopped
from longshore.server.model.task import AnyValue, Destination, Failure, FilePush, Grant, Job, Status
from longshore.server.model.values import DeliveryMethod, State, WaitReason
from longshore.server.store.tables import codec

STRANGE = 'naïve " \\ \u2028 \0 \n \x7f \U0001f6a2 %s {}'
WORDS = ("", "s", STRANGE)
TIMES = (0.0, 1.0, 1e22, 1732651234.123456, 0.1 + 0.2, 5e-324)


def some_status(chance: random.Random) -> Status:
    def of(*what: object) -> object:
        return chance.choice(what)

    values = {
        "wait_reason": of(*WaitReason),
        "due_at": of(None, *TIMES),
        "attempt": of(0, 1, 2**31),
        "tries": of(0, 3),
        "crashes": of(0, 2),
        "solo_crashes": of(0, 1),
        "alone": of(True, False),
        "session_id": of(*WORDS),
        "worker": of(*WORDS),
        "started_at": of(None, *TIMES),
        "deadline_ticks": of(None, *TIMES),
        "grant": of(None, *GRANTS),
        "cancel_requested": of(True, False),
        "cancel_reason": of(*WORDS),
        "error": of(None, Failure("R", STRANGE, transient=True)),
        "result": of(None, AnyValue(STRANGE, bytes(range(256)))),
        "method": of(*DeliveryMethod),
        "updated_at": of(*TIMES),
        "finished_at": of(None, *TIMES),
        "retryable_until": of(None, *TIMES),
        "superseded_by": of(*WORDS),
    }
    status = Status(revision=chance.randrange(1, 2**40), state=chance.choice(list(State)), head=chance.random() < 0.5)
    return replace(status, **values)  # type: ignore[arg-type]


GRANTS = (
    Grant(1, "s", "/srv/.tmp", DeliveryMethod.SFTP, 1.5, 7, 0o644, 0, 0),
    Grant(2, STRANGE, STRANGE, DeliveryMethod.DIRECTORY, 1e9),
)
WORKS = (
    Job("report", AnyValue("t", b"x"), "target", "web1"),
    Job(STRANGE, None),
    Job("report", None, "target", "web1", "shop", STRANGE),
    Job("report", None, "target", "web1", exclusive=True),
    Job("report", None, key="a", latest_wins=True),
    FilePush(Destination("t", "p", "i", "/a"), latest_wins=True),
    FilePush(Destination("default", "", "web1", STRANGE)),
    FilePush(
        Destination("t", "p", "i", "/a"),
        mode=0,
        uid=1,
        gid=0,
        create_parents=True,
        if_exists=IfExists.FAIL,
        when_stopped=WhenStopped.WAIT,
        when_absent=WhenAbsent.WAIT,
        read_back=True,
    ),
    FilePush(Destination("t", "p", "i", "/a"), parents_mode=0, in_place=True),
)


def test_a_status_survives_the_round_trip() -> None:
    chance = random.Random(5)
    for _ in range(500):
        status = some_status(chance)
        assert codec.decode_status(codec.encode_status(status)) == status


@pytest.mark.parametrize("grant", GRANTS)
def test_a_grant_survives_the_round_trip(grant: Grant) -> None:
    assert codec.decode_grant(codec.encode_grant(grant)) == grant


def test_older_encodings_are_read_and_written_in_a_form_that_older_versions_read() -> None:
    plain = FilePush(Destination("t", "", "i", "/a"))
    text = (
        '{"push":["t","","i","/a"],"mode":null,"uid":null,"gid":null,"create_parents":false,"if_exists":1,'
        '"when_stopped":1,"when_absent":1,"read_back":false}'
    )
    assert codec.encode_work(plain) == text
    assert codec.decode_work(text, None) == plain


@pytest.mark.parametrize("work", WORKS)
def test_work_survives_the_round_trip(work: Job | FilePush) -> None:
    arguments = work.arguments if isinstance(work, Job) else None
    assert codec.decode_work(codec.encode_work(work), arguments) == work


def test_texts_are_compact_json() -> None:
    """The texts are those of the version before, to the letter."""
    chance = random.Random(6)
    texts = [codec.encode_status(some_status(chance)) for _ in range(100)]
    texts += [codec.encode_grant(grant) for grant in GRANTS] + [codec.encode_work(work) for work in WORKS]
    for text in texts:
        assert json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")) == text
