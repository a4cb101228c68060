"""This module opens an address of the server: a port, or a unix socket that no other process has."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from longshore.server.config.settings import SettingsError

_UNIX: Final = "unix:"
_PROBE: Final = 1.0
"""Seconds to wait for another process to take a connection."""


def bind(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None = None) -> str:
    """Open the address that `check_listen` returned, and return the address that it got: a port 0 is filled in.

    With `credentials` a port speaks TLS. A unix socket never does: it is for this user only, and the token is the
    second lock. Raises SettingsError.
    """
    if not listen.startswith(_UNIX):
        port = _add(server, listen, credentials)
        return f"{listen.rpartition(':')[0]}:{port}"
    path = Path(listen.removeprefix(_UNIX))
    with _alone(path, listen):
        _vacate(path, listen)
        # The mode from the first moment on: a chmod after it would come too late for who connects in between.
        mask = os.umask(0o177)
        try:
            _add(server, listen, None)
        finally:
            os.umask(mask)
    return listen


def _add(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is not None:
            return server.add_secure_port(listen, credentials)
        return server.add_insecure_port(listen)
    except RuntimeError:
        raise SettingsError(f"--listen {listen}: {_why_not(listen)}") from None


def _why_not(listen: str) -> str:
    """Say why gRPC could not bind the address, in the kernel's words: gRPC keeps them to itself."""
    try:
        _try(listen)
    except OSError as error:
        return (
            f"the address cannot be bound: {error.strerror}. {_REMEDIES.get(error.errno or 0, 'Give another address.')}"
        )
    return "the address cannot be bound just now. Start again."


_REMEDIES: Final = {
    errno.EADDRINUSE: "Is another server on it? `longshore stats` would tell; or give another address.",
    errno.EACCES: "This user may not bind it: ports below 1024 need the capability CAP_NET_BIND_SERVICE, and a unix "
    "socket a folder that the user may write.",
    errno.EADDRNOTAVAIL: "No network interface of this machine has the address.",
}


def _try(listen: str) -> None:
    """Bind the address as gRPC does, and give it back. Raises OSError."""
    if listen.startswith(_UNIX):
        path = listen.removeprefix(_UNIX)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.bind(path)
            Path(path).unlink()
        return
    host, _, port = listen.rpartition(":")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)


@contextlib.contextmanager
def _alone(path: Path, listen: str) -> Iterator[None]:
    """Let one starting server at a time into the socket's folder, which is made where it is missing. Two that look at
    the same time would both find no server there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SettingsError(f"--listen {listen}: {path.parent} cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _vacate(path: Path, listen: str) -> None:
    """Raise SettingsError unless the path is free, or holds what a killed server left.

    gRPC removes whatever socket it finds at the path, without a word, a running server's too: that one would go on,
    and nobody would reach it any more.
    """
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise SettingsError(f"--listen {listen}: something that is no socket stands there. Give another path.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return  # nobody listens
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                raise SettingsError(
                    f"--listen {listen}: another user's socket stands there. Give another path."
                ) from error
            # Too many wait there already, or it is of another sort: somebody has it.
    raise SettingsError(f"--listen {listen}: another process listens there. Stop that one, or give another path.")
