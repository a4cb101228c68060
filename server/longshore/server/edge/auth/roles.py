"""This table says which roles open each RPC. Every RPC of the contract has a row; an RPC without a row is refused.

A role opens the RPC; whose tasks, sessions and payloads it then sees is decided where they are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Final

from longshore.server.model.access import Role, roles_text
from longshore.server.model.errors import Forbidden

OPEN_SERVICES: Final = ("/grpc.health.v1.Health/",)
"""Services that everybody may call, without a token."""

_SUBMIT: Final = frozenset({Role.SUBMIT})
_OPERATE: Final = frozenset({Role.OPERATE})
_WORK: Final = frozenset({Role.WORK})
_OWNERS: Final = _SUBMIT | _OPERATE
"""Submitters may call it for their own tasks, operators for all tasks."""
_READERS: Final = _OWNERS | _WORK
"""Workers may call it too, for tasks that one of their sessions holds."""

ROLES: Final[Mapping[str, frozenset[Role]]] = {
    "/longshore.v1.TaskService/Upload": _SUBMIT,
    "/longshore.v1.TaskService/CreateUpload": _SUBMIT,
    "/longshore.v1.TaskService/GetUpload": _SUBMIT,
    "/longshore.v1.TaskService/SubmitTask": _SUBMIT,
    "/longshore.v1.TaskService/SubmitTasks": _SUBMIT,
    "/longshore.v1.TaskService/SubmitPlan": _SUBMIT,
    "/longshore.v1.TaskService/GetBatch": _OWNERS,
    "/longshore.v1.TaskService/CancelBatch": _OWNERS,
    "/longshore.v1.TaskService/GetTask": _READERS,
    "/longshore.v1.TaskService/ListTasks": _OWNERS,
    "/longshore.v1.TaskService/ListAttempts": _READERS,
    "/longshore.v1.TaskService/WatchTask": _READERS,
    "/longshore.v1.TaskService/CancelTask": _OWNERS,
    "/longshore.v1.TaskService/RetryTask": _OWNERS,
    "/longshore.v1.WorkerService/Work": _WORK,
    "/longshore.v1.WorkerService/DownloadPayload": _WORK,
    "/longshore.v1.AdminService/GetStats": _OPERATE,
    "/longshore.v1.AdminService/ListWorkers": _OPERATE,
    "/longshore.v1.AdminService/DrainWorker": _OPERATE,
    "/longshore.v1.AdminService/PauseQueue": _OPERATE,
    "/longshore.v1.AdminService/ResumeQueue": _OPERATE,
    "/longshore.v1.AdminService/SettleTask": _OPERATE,
    # The list of RPCs is no secret, but none of a stranger's business.
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": frozenset(Role),
}


def check_role(method: str, roles: Set[Role]) -> None:
    """Raise Forbidden unless one of the roles opens the method."""
    wanted = ROLES.get(method)
    if wanted is None:
        raise Forbidden(f"No role may call {method}.", method=method)
    if wanted.isdisjoint(roles):
        needed = roles_text(wanted).replace(",", " or ")
        name = method.rpartition("/")[2]
        raise Forbidden(
            f"{name} needs the role {needed}, and yours: {roles_text(roles)}. An operator of the server can make a "
            "token with it: `longshored token create NAME --role ROLE`.",
            method=method,
            missing_role=roles_text(wanted),
        )
