"""This module reads the value of `--target`.

::

    NAME=lxd:/var/lib/lxd/unix.socket[?project=P&files_api=allow]
    NAME=incus:/var/lib/incus/unix.socket
    NAME=https://host:8443?cert=client.crt&key=client.key[&server_cert=server.crt&project=P&files_api=allow]
    NAME=directory:/var/lib/machines
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from longshore.contract.names import wrong_name
from longshore.worker.targets.base import Target
from longshore.worker.targets.transport import DaemonEndpoint, Timeouts

_SUN_PATH_MAX: Final = 107
_DEFAULT_PORT: Final = 8443
_SOCKET_OPTIONS: Final = frozenset({"project", "files_api"})
_TLS_OPTIONS: Final = _SOCKET_OPTIONS | {"cert", "key", "server_cert"}
_FORMS: Final = "lxd:SOCKET, incus:SOCKET, https://HOST:PORT?cert=...&key=..., or directory:PATH"


class SpecError(ValueError):
    """A `--target` that cannot be used; the message says why and what to write instead."""


@dataclass(frozen=True, slots=True)
class LxdSpec:
    """An LXD or Incus daemon."""

    name: str
    endpoint: DaemonEndpoint
    project: str = ""
    allow_files_api: bool = False


@dataclass(frozen=True, slots=True)
class DirectorySpec:
    """A folder of instance roots."""

    name: str
    path: str


TargetSpec = LxdSpec | DirectorySpec


def parse_target(text: str) -> TargetSpec:
    """Parse NAME=WHERE.

    Raises `SpecError`. Files are not looked at, so that a worker may start before they are there.
    """
    name, equals, where = text.partition("=")
    if not equals or not where:
        raise SpecError(f"--target {text!r}: write NAME=WHERE, where WHERE is {_FORMS}")
    if wrong := wrong_name(name):
        raise SpecError(f"--target {text!r}: the name {name!r}: {wrong}")
    scheme = where.partition(":")[0]
    if scheme in ("lxd", "incus"):
        return _socket(text, name, where.partition(":")[2])
    if scheme == "https":
        return _https(text, name, where)
    if scheme == "directory":
        path = where.partition(":")[2]
        if not path.startswith("/"):
            raise SpecError(
                f"--target {text!r}: the folder must be an absolute path, as in {name}=directory:/var/lib/machines"
            )
        return DirectorySpec(name, path)
    raise SpecError(f"--target {text!r}: {scheme!r} is no kind of target: write {_FORMS}")


def open_target(spec: TargetSpec, *, timeouts: Timeouts | None = None) -> Target:
    """Make the target itself. Nothing is connected yet."""
    if isinstance(spec, DirectorySpec):
        from longshore.worker.targets.directory.target import DirectoryTarget

        return DirectoryTarget(spec.name, spec.path)
    # Here and not at the top: a worker with directories only needs no pylxd.
    from longshore.worker.targets.lxd.target import LxdTarget

    return LxdTarget(
        spec.name, spec.endpoint, project=spec.project, allow_files_api=spec.allow_files_api, timeouts=timeouts
    )


def _socket(text: str, name: str, rest: str) -> LxdSpec:
    path, _, query = rest.partition("?")
    if not path.startswith("/"):
        raise SpecError(
            f"--target {text!r}: the socket must be an absolute path, as in {name}=lxd:/var/lib/lxd/unix.socket"
        )
    if len(path.encode()) > _SUN_PATH_MAX:
        raise SpecError(
            f"--target {text!r}: the socket's path is longer than {_SUN_PATH_MAX} bytes, which no socket can have"
        )
    options = _options(text, query, _SOCKET_OPTIONS)
    return LxdSpec(name, DaemonEndpoint(socket_path=path), options.get("project", ""), _files_api(text, options))


def _https(text: str, name: str, where: str) -> LxdSpec:
    try:
        url = urlsplit(where)
        host, port = url.hostname, url.port or _DEFAULT_PORT
    except ValueError as error:
        raise SpecError(f"--target {text!r}: {error}: write https://HOST:PORT") from error
    if not host or url.path not in ("", "/") or url.username is not None:
        raise SpecError(f"--target {text!r}: write https://HOST:PORT?cert=...&key=..., without a path or a user")
    options = _options(text, url.query, _TLS_OPTIONS)
    if not options.get("cert") or not options.get("key"):
        raise SpecError(f"--target {text!r}: the daemon knows a worker by its certificate: add ?cert=FILE&key=FILE")
    endpoint = DaemonEndpoint(
        host=host, port=port, cert=options["cert"], key=options["key"], server_cert=options.get("server_cert", "")
    )
    return LxdSpec(name, endpoint, options.get("project", ""), _files_api(text, options))


def _options(text: str, query: str, allowed: frozenset[str]) -> dict[str, str]:
    # parse_qsl would turn a '+' in a file's name into a space.
    pairs = [(key, unquote(value)) for key, _, value in (item.partition("=") for item in query.split("&") if item)]
    options = dict(pairs)
    if len(options) < len(pairs):
        raise SpecError(f"--target {text!r}: an option is given twice")
    for key in options:
        if key not in allowed:
            raise SpecError(f"--target {text!r}: unknown option {key!r}; there are {', '.join(sorted(allowed))}")
    return options


def _files_api(text: str, options: dict[str, str]) -> bool:
    value = options.get("files_api", "refuse")
    if value not in ("allow", "refuse"):
        raise SpecError(
            f"--target {text!r}: files_api is 'allow' or 'refuse'; 'allow' gives up atomic delivery without SFTP"
        )
    return value == "allow"
