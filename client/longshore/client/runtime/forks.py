"""Channels and fork: gRPC's threads do not live on in a child process, so a child must not use gRPC."""

from __future__ import annotations

import os
import weakref
from typing import Final, TypeVar

import grpc

from longshore.client.errors import ConfigurationError

_Channel = TypeVar("_Channel", grpc.Channel, grpc.aio.Channel)

_open: Final[weakref.WeakSet[grpc.Channel | grpc.aio.Channel]] = weakref.WeakSet()
"""Channels of this process that nobody has closed."""
_inherited = False
"""Whether this process was forked while its parent had channels open."""


def opened(channel: _Channel) -> _Channel:
    """Note a channel that was just opened, and return the channel."""
    _open.add(channel)
    return channel


def closed(channel: grpc.Channel | grpc.aio.Channel) -> None:
    """Note that a channel was closed. A channel that is collected needs no note."""
    _open.discard(channel)


def check_not_forked(pid: int | None = None) -> None:
    """Raise ConfigurationError where gRPC cannot work: in a child of a fork, if the parent had channels open.

    `pid` is the process that made the object to be used. None means that the object is made only now. Without this
    check a call in such a child hangs for longer than its time-out, or the child ends with a segmentation fault (both
    seen).
    """
    if _inherited or (pid is not None and pid != os.getpid()):
        raise ConfigurationError(
            "this process was forked from one that had a Longshore client or worker open, and gRPC does not work after "
            'such a fork: start the process with multiprocessing.get_context("spawn") or ("forkserver"), or close '
            "every client before the fork, and open a new client in the child",
            reason="FORKED",
        )


def _in_child() -> None:
    global _inherited
    _inherited = _inherited or len(_open) > 0


os.register_at_fork(after_in_child=_in_child)
