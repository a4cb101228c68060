"""Roles, names and tokens as values; and the table of roles against the contract."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc_reflection.v1alpha import reflection_pb2

from longshore.server.edge.auth.roles import ROLES, check_role
from longshore.server.model.access import (
    ALL_ROLES,
    LocalToken,
    Role,
    Token,
    check_name,
    new_secret,
    parse_roles,
    read_secret,
    roles_text,
)
from longshore.server.model.errors import Forbidden
from longshore.v1 import admin_service_pb2, task_service_pb2, worker_service_pb2

METHODS: list[MethodDescriptor] = [
    method
    for module in (task_service_pb2, worker_service_pb2, admin_service_pb2, reflection_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


def path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def test_every_rpc_of_the_contract_has_its_roles_and_nothing_else_has() -> None:
    assert set(ROLES) == {path(method) for method in METHODS}
    assert all(ROLES.values())


def test_an_rpc_without_a_role_is_refused_for_all() -> None:
    with pytest.raises(Forbidden, match="No role"):
        check_role("/longshore.v1.TaskService/Newest", ALL_ROLES)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_refusal_names_the_missing_role(method: MethodDescriptor) -> None:
    wanted = ROLES[path(method)]
    for role in Role:
        if role in wanted:
            check_role(path(method), {role})
        else:
            with pytest.raises(Forbidden, match=method.name) as refused:
                check_role(path(method), {role})
            assert all(name in refused.value.message for name in wanted)
            assert refused.value.metadata["missing_role"] == roles_text(wanted)


def test_the_page_says_the_same() -> None:
    page = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    said = {
        name: parse_roles(row[2].split(","))
        for row in re.finditer(r"^\| ((?:`[A-Za-z]+`,? ?)+)\| ([a-z, ]+) \|$", page, re.MULTILINE)
        for name in re.findall(r"`([A-Z]\w+)`", row[1])
    }
    assert said == {method.rpartition("/")[2]: roles for method, roles in ROLES.items()}


def test_admin_is_for_operators_only_and_sessions_for_workers_only() -> None:
    for method, wanted in ROLES.items():
        if "AdminService" in method:
            assert wanted == {Role.OPERATE}
        if "WorkerService" in method:
            assert wanted == {Role.WORK}


def test_roles_are_read_and_written_in_one_order() -> None:
    assert parse_roles(["work", " submit "]) == {Role.SUBMIT, Role.WORK}
    assert roles_text([Role.OPERATE, Role.SUBMIT]) == "submit,operate"
    for wrong in ([], ["admin"], [""], ["submit,work"]):
        with pytest.raises(ValueError, match=r"submit, work, operate|No role"):
            parse_roles(wrong)


@pytest.mark.parametrize("name", ["ci", "w1.example.org", "spiffe://example.org/ns/a", "a@b", "9", "x" * 200])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "local", " ci", "a b", "-x", "a\n", "é", "x" * 201, "a,b", "a=b"])
def test_invalid_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        check_name(name)


def test_a_token_is_read_as_shown_and_its_repr_hides_the_secret() -> None:
    secret = new_secret()
    assert read_secret(str(secret)) == secret
    assert len(secret.digest) == 32
    assert secret.secret not in repr(secret)
    assert new_secret() != secret


@pytest.mark.parametrize("text", ["", "ls_", "ls_0123456789abcdef_", "ls_0123456789ABCDEF_" + "a" * 43, "x" * 63])
def test_malformed_tokens_are_refused(text: str) -> None:
    assert read_secret(text) is None


def test_when_a_token_is_over() -> None:
    def token(expires: float | None, revoked: float | None) -> Token:
        return Token(
            id="i",
            name="n",
            digest=b"",
            roles=ALL_ROLES,
            created_at=1.0,
            expires_at=expires,
            revoked_at=revoked,
        )

    assert token(None, None).refused(1e12) == ""
    assert token(10.0, None).refused(9.9) == ""
    assert token(10.0, None).refused(10.0) == "expired"
    assert token(10.0, 5.0).refused(20.0) == "revoked"


def test_the_local_token() -> None:
    local = LocalToken("x" * 20)
    assert local.matches("x" * 20)
    assert not local.matches("x" * 19)
    assert not local.matches("")
