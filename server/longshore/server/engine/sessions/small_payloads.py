"""Contents of small uploads of a moment ago: they go to a worker with its assignment, which saves it a download."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

LARGEST: Final = 16 * 1024
"""Bytes of one content. A worker may have a thousand assignments under way, and nobody else bounds what they hold."""
ROOM: Final = 8 << 20
"""Bytes of all of them."""


class SmallPayloads:
    """The newest ones, by payload id. Only a short way: what is not here any more is downloaded."""

    def __init__(self, *, largest: int = LARGEST, room: int = ROOM) -> None:
        self._largest = largest
        self._room = room
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._contents)

    def put(self, payload_id: str, content: bytes) -> None:
        """Keep it for a while, if it is small enough. Not yet durable is fine: nobody is assigned what is not."""
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
        """The content; empty where it is not here."""
        return self._contents.get(payload_id, b"")
