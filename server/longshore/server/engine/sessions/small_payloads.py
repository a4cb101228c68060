"""Contents of small uploads are kept for a moment: they go to a worker with its assignment, which saves a download."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

LARGEST: Final = 16 * 1024
"""Bytes of one content. A worker may have a thousand assignments under way, and nobody else bounds what they hold."""
ROOM: Final = 8 << 20
"""Bytes of all contents together."""


class SmallPayloads:
    """Keeps the newest contents by payload id, as a best effort. A worker downloads any payload that has left it."""

    def __init__(self, *, largest: int = LARGEST, room: int = ROOM) -> None:
        self._largest = largest
        self._room = room
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._contents)

    def put(self, payload_id: str, content: bytes) -> None:
        """Keep a content for a while, if it is small enough. It need not be durable yet: nobody is assigned a payload
        before it is."""
        if len(content) > self._largest:
            return
        # One that came before under this id was refused, by a cut say, and these are the bytes that count.
        self._bytes -= len(self._contents.pop(payload_id, b""))
        self._contents[payload_id] = content
        self._bytes += len(content)
        while self._bytes > self._room:
            _, oldest = self._contents.popitem(last=False)
            self._bytes -= len(oldest)

    def get(self, payload_id: str) -> bytes:
        """Return the content. Empty means that it is not here."""
        return self._contents.get(payload_id, b"")
