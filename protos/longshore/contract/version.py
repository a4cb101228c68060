"""The version of the protocol between worker and server."""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = 1
"""A worker states this number in its hello, and a server refuses every other number."""

REVISION: Final = 2
"""The revision of the contract that this version knows: `Hello.revision` and `Welcome.revision`."""
