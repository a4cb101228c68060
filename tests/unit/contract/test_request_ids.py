"""Request ids that clients and servers make."""

from __future__ import annotations

import time
import uuid

from longshore.contract.names import wrong_request_id
from longshore.contract.request_ids import new_request_id


def test_a_new_request_id_is_a_uuid_of_version_7() -> None:
    for _ in range(1000):
        text = new_request_id()
        made = uuid.UUID(text)
        assert (str(made), made.version, made.variant) == (text, 7, uuid.RFC_4122)
        assert wrong_request_id(text) is None


def test_new_request_ids_begin_with_their_time_and_differ() -> None:
    before = time.time_ns() // 1_000_000
    made = [new_request_id() for _ in range(10_000)]
    after = time.time_ns() // 1_000_000
    times = [uuid.UUID(each).int >> 80 for each in made]
    assert before <= times[0]
    assert times[-1] <= after
    assert len(set(made)) == len(made)
    every = 0
    for each in made:
        every |= uuid.UUID(each).int
    assert f"{every & (1 << 76) - 1:019x}" == "f" * 3 + "b" + "f" * 15, "every other bit is random"
