"""This module logs refused calls: from where they come, and how many. It does not write a line for each."""

from __future__ import annotations

from typing import Final

import structlog

from longshore.server.logs import Sparing, sparing
from longshore.server.model.errors import (
    Forbidden,
    LongshoreError,
    MalformedMessage,
    MessageTooLarge,
    Unauthenticated,
)

_log = structlog.get_logger("longshore.edge")

SAID: Final = (Unauthenticated, Forbidden, MalformedMessage, MessageTooLarge)
"""Refusals that tell an operator of a wrong key or a broken client. The others are part of a healthy day."""

_LONGEST_METHOD: Final = 100
_LONGEST_MESSAGE: Final = 300


class RefusalLog:
    """Writes one line for a caller and a second at most, with the count of the calls that it stands for.

    A caller is a principal, or the host of its connection where no principal is known. Belongs to one event loop.
    """

    def __init__(self, lines: Sparing = sparing) -> None:
        self._sparing = lines

    def refused(self, error: LongshoreError, *, method: str, peer: str, principal: str = "") -> None:
        """Log a refused call. An empty `principal` means that the caller is not known. The token that the caller showed
        is in no line."""
        if not isinstance(error, SAID):
            return
        self._sparing.say(
            _log.warning,
            "calls_refused",
            caller=principal or host_of(peer),
            reason=error.reason,
            method=method[:_LONGEST_METHOD],
            peer=peer,
            **({"principal": principal} if principal else {}),
            message=error.message[:_LONGEST_MESSAGE],
        )


def host_of(peer: str) -> str:
    """Return the peer without its port, because one machine makes many connections."""
    if peer.startswith(("ipv4:", "ipv6:")):
        return peer.rpartition(":")[0]
    return peer
