"""A client process: submits tasks as it is told on its standard input, a JSON object a line, and answers likewise;
it says "ready" first.

    python -m bench.peers.produce MODULE

MODULE has `send(kind, number, sent, pad)`, returning when the task is accepted; a coroutine function where the library
has asyncio (with `opened()`, a context around it all), else a plain one, called in threads. Where there is
`send_many(tasks, at_once)`, it takes them from an iterator and returns how many were accepted. The same program for
ours and for the peers. Commands:

    {"kind": K, "at_once": N, "seconds": S}   as many as it can for so long, N at once
    {"kind": K, "at_once": N, "count": C}     so many, N at once
    {"kind": K, "every": S, "count": C}       so many, one after the other, S seconds apart

Arguments are about 200 bytes, or "size" of them.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from bench.peers.record import pad

Send = Callable[[str, int, int, str], Any]
SendMany = Callable[[Iterator[tuple[str, int, int, str]], int], Awaitable[int]]


class Producer:
    """`send` and what it needs to run N at once."""

    def __init__(self, send: Send, send_many: SendMany | None) -> None:
        self._send = send
        self._send_many = send_many
        self._pad = pad()
        self._numbers = itertools.count()
        self._threads = ThreadPoolExecutor(256)
        self.wait: Callable[[str, Iterator[int], float, float], Awaitable[int]]
        self.wait = self._coroutine if inspect.iscoroutinefunction(send) else self._thread

    async def run(self, command: dict[str, Any]) -> dict[str, Any]:
        kind, every = command["kind"], command.get("every", 0.0)
        self._pad = pad(int(command.get("size", 0)))
        numbers = itertools.islice(self._numbers, command.get("count", sys.maxsize))
        until = time.monotonic() + command.get("seconds", 3600.0)
        began = time.monotonic()
        at_once = command.get("at_once", 1)
        if self._send_many is not None and not every:
            sent = await self._send_many(_tasks(kind, numbers, until, self._pad), at_once)
        else:
            sent = sum(await asyncio.gather(*(self.wait(kind, numbers, until, every) for _ in range(at_once))))
        return {"sent": sent, "seconds": time.monotonic() - began}

    async def _coroutine(self, kind: str, numbers: Iterator[int], until: float, every: float) -> int:
        sent, due = 0, time.monotonic()
        while time.monotonic() < until and (number := next(numbers, None)) is not None:
            await self._send(kind, number, time.monotonic_ns(), self._pad)
            sent, due = sent + 1, due + every
            if every:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        return sent

    async def _thread(self, kind: str, numbers: Iterator[int], until: float, every: float) -> int:
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._looping, kind, numbers, until, every
        )

    def _looping(self, kind: str, numbers: Iterator[int], until: float, every: float) -> int:
        sent, due = 0, time.monotonic()
        while time.monotonic() < until and (number := next(numbers, None)) is not None:
            self._send(kind, number, time.monotonic_ns(), self._pad)
            sent, due = sent + 1, due + every
            if every:
                time.sleep(max(0.0, due - time.monotonic()))
        return sent


def _tasks(kind: str, numbers: Iterator[int], until: float, padding: str) -> Iterator[tuple[str, int, int, str]]:
    while time.monotonic() < until and (number := next(numbers, None)) is not None:
        yield kind, number, time.monotonic_ns(), padding


async def main(name: str) -> None:
    module = importlib.import_module(name)
    opened: Callable[[], Any] = getattr(module, "opened", nullcontext)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with opened():
        producer = Producer(module.send, getattr(module, "send_many", None))
        print(json.dumps("ready"), flush=True)
        while line := await lines.readline():
            answer = await producer.run(json.loads(line))
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1]))
