"""Dramatiq on Redis."""

from __future__ import annotations

import time
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.peers.record import REDELIVERY, SLOW, broker, ran

dramatiq.set_broker(RedisBroker(url=broker(), heartbeat_timeout=1000 * (REDELIVERY or 60)))


@dramatiq.actor
def noop(number: int, sent: int, pad: str) -> None:
    ran(number, sent)


@dramatiq.actor
def slow(number: int, sent: int, pad: str) -> None:
    time.sleep(SLOW)
    ran(number, sent)


def send(kind: str, number: int, sent: int, pad: str) -> Any:
    return {"noop": noop, "slow": slow}[kind].send(number, sent, pad)
