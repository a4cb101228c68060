"""The words of the command line for the fields of the contract that a server names in its refusals."""

from __future__ import annotations

import re
from typing import Final

_PUSH: Final = re.compile(r"spec\.file_push\.pushes\[(\d+)\]\.?(.*)")
_OF_PUSH: Final = {
    "destination": "the destination",
    "destination.target": "the target's name",
    "destination.project": "--project",
    "destination.instance": "the instance's name",
    "destination.path": "the path",
    "mode": "--mode",
    "mode_if_new": "the mode of a new file",
    "uid": "--uid",
    "gid": "--gid",
    "parents_mode": "--dir-mode",
    "if_exists": "--no-replace",
    "when_stopped": "--when-stopped",
    "when_absent": "--when-absent",
    "on_pending": "--latest-wins",
}
_TERM: Final = re.compile(r"spec\.\w+")
"""One of the terms. Its option has its name, unless the table says another one."""
_WORDS: Final = {
    "spec.labels": "--label",
    "spec.attempt_limit": "--attempts",
    "spec.file_push.pushes": "destinations",
    "spec.job.kind": "KIND",
    "spec.job.arguments": "--json",
    "spec.job.target": "--target",
    "spec.job.instance": "--instance",
    "spec.job.project": "--project",
    "spec.job.key": "--key",
    "spec.job.access": "--exclusive",
    "spec.job.on_pending": "--latest-wins",
    "request_id": "--request-id",
    "sha256": "--sha256",
    "payload_id": "--payload",
    "size": "the file's size",
    "reason": "--reason",
    "task_id": "TASK",
    "queue": "QUEUE",
    "session_id": "WORKER",
    "after_revision": "--after",
    "expected_revision": "the expected revision",
    "page_size": "--limit",
    "filter.states": "--state",
    "filter.kinds": "--kind",
    "filter.queue": "--queue",
    "filter.target": "--target",
    "filter.instance": "--instance",
    "filter.labels": "--label",
    "filter.created_after": "--since",
    "filter.created_before": "--until",
    "filter.request_id": "--request-id",
    "filter.creator": "--creator",
    "filter.id_prefix": "TASK",
}
_SUBSCRIPT: Final = re.compile(r"\[[^\]]*\]$")


def words_for(field: str) -> str:
    """Name the option or argument that sets a field. A field without one keeps its path: the server may be newer."""
    path = field.removeprefix("header.")
    push = _PUSH.fullmatch(path)
    if push is not None:
        what = _OF_PUSH.get(push[2], push[2])
        return what if push[1] == "0" or what.startswith("--") else f"{what} of destination {int(push[1]) + 1}"
    words = _WORDS.get(path) or _WORDS.get(_SUBSCRIPT.sub("", path))
    if words is None and _TERM.fullmatch(path):
        return "--" + path.removeprefix("spec.").replace("_", "-")
    return words or path
