"""ListTasks: filters and page tokens that are checked."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from longshore.server.edge.messages.listing import PAGE_DEFAULT, query_of
from longshore.server.model.errors import InvalidField
from longshore.server.model.values import State
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb


def test_defaults() -> None:
    query = query_of(pb.ListTasksRequest(), scope=None)
    assert (query.limit, query.before, query.where.creator) == (PAGE_DEFAULT, None, "")


def test_a_submitter_sees_only_its_own_tasks_with_any_filter() -> None:
    request = pb.ListTasksRequest(filter=pb.TaskFilter(creator="somebody-else"))
    assert query_of(request, scope="me").where.creator == "me"


def test_every_field_arrives() -> None:
    wanted = pb.TaskFilter(
        states=[task_pb2.TASK_STATE_FAILED],
        kinds=["file_push"],
        queue="q",
        target="t",
        instance="i",
        labels={"a": "b"},
        created_after=Timestamp(seconds=10),
        created_before=Timestamp(seconds=20, nanos=500_000_000),
        request_id="r",
        id_prefix="d3t",
    )
    where = query_of(pb.ListTasksRequest(filter=wanted), scope=None).where
    assert where.states == {State.FAILED}
    assert where.kinds == {"file_push"}
    assert (where.queue, where.target, where.instance, where.request_id) == ("q", "t", "i", "r")
    assert where.labels == {"a": "b"}
    assert where.id_prefix == "D3T"
    assert (where.created_after, where.created_before) == (10.0, 20.5)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ListTasksRequest(page_size=1001), "page_size"),
        (pb.ListTasksRequest(filter=pb.TaskFilter(states=[task_pb2.TASK_STATE_UNSPECIFIED])), "filter.states"),
        (pb.ListTasksRequest(filter=pb.TaskFilter(states=[77])), "filter.states"),  # type: ignore[list-item]
        (pb.ListTasksRequest(filter=pb.TaskFilter(created_after=Timestamp(nanos=-1))), "filter.created_after"),
        (pb.ListTasksRequest(filter=pb.TaskFilter(id_prefix="0" * 27)), "filter.id_prefix"),
        (pb.ListTasksRequest(page_token="garbage"), "page_token"),
        (pb.ListTasksRequest(page_token="\N{SNOWMAN}"), "page_token"),
        (pb.ListTasksRequest(page_token="WzEsMl0"), "page_token"),
    ],
)
def test_wrong_values_are_named(request_: pb.ListTasksRequest, field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        query_of(request_, scope=None)
    assert refused.value.field.startswith(field)
