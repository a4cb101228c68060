"""Huey on a SQLite file that is synced with each commit."""

from __future__ import annotations

import time
from typing import Any

from huey import SqliteHuey

from bench.peers.record import SLOW, broker, ran

huey = SqliteHuey("bench", filename=broker(), fsync=True, results=False)


@huey.task()
def noop(number: int, sent: int, pad: str) -> None:
    ran(number, sent)


@huey.task()
def slow(number: int, sent: int, pad: str) -> None:
    time.sleep(SLOW)
    ran(number, sent)


def send(kind: str, number: int, sent: int, pad: str) -> Any:
    return {"noop": noop, "slow": slow}[kind](number, sent, pad)
