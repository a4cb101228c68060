"""Errors over the wire: every domain error has a gRPC status and details that a program can act on."""

from __future__ import annotations

from typing import TypeVar

import grpc
import pytest
from google.rpc import error_details_pb2

from longshore.server.edge import status
from longshore.server.model import errors


def _classes(base: type[errors.LongshoreError]) -> list[type[errors.LongshoreError]]:
    return [base] + [each for sub in base.__subclasses__() for each in _classes(sub)]


T = TypeVar("T")

ALL = _classes(errors.LongshoreError)[1:]


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_every_error_has_a_code_of_its_own_making(error: type[errors.LongshoreError]) -> None:
    assert any(base in status.CODES for base in error.__mro__), f"{error.__name__} would be INTERNAL"


def test_reasons_are_upper_case_and_unique_among_leaves() -> None:
    leaves = [error for error in ALL if not error.__subclasses__()]
    reasons = [error.reason for error in leaves]
    assert all(reason.isupper() for reason in reasons)
    assert len(set(reasons)) == len(reasons)


def _detail(error: errors.LongshoreError, kind: type[T]) -> T | None:
    return next((each for each in status.details_of(error) if isinstance(each, kind)), None)


def test_a_wrong_field_is_named() -> None:
    error = errors.InvalidField("header.spec.priority", "is 500; -100 to 100.")
    assert status.code_of(error) is grpc.StatusCode.INVALID_ARGUMENT
    info = _detail(error, error_details_pb2.ErrorInfo)
    assert info is not None
    assert (info.reason, info.domain) == ("INVALID_FIELD", "longshore")
    bad = _detail(error, error_details_pb2.BadRequest)
    assert bad is not None
    assert [(one.field, one.description) for one in bad.field_violations] == [
        ("header.spec.priority", "is 500; -100 to 100.")
    ]


def test_a_full_queue_says_when_to_come_back() -> None:
    error = errors.QueueFull("The queue is full.", subject="queue:default", retry_after=2.5)
    assert status.code_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = _detail(error, error_details_pb2.RetryInfo)
    assert retry is not None
    assert retry.retry_delay.ToTimedelta().total_seconds() == 2.5
    quota = _detail(error, error_details_pb2.QuotaFailure)
    assert quota is not None
    assert quota.violations[0].subject == "queue:default"


def test_unavailable_says_when_to_come_back() -> None:
    assert _detail(errors.Draining("Leaving."), error_details_pb2.RetryInfo) is not None
    assert _detail(errors.NotFound("No."), error_details_pb2.RetryInfo) is None
