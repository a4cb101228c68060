"""Celery on Redis, with the settings of somebody who wants no task lost."""

from __future__ import annotations

import time
from typing import Any

from celery import Celery

from bench.peers.record import REDELIVERY, SLOW, broker, ran

app = Celery("bench", broker=broker())
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": REDELIVERY or 3600},
)


@app.task(name="noop")
def noop(number: int, sent: int, pad: str) -> None:
    ran(number, sent)


@app.task(name="slow")
def slow(number: int, sent: int, pad: str) -> None:
    time.sleep(SLOW)
    ran(number, sent)


def send(kind: str, number: int, sent: int, pad: str) -> Any:
    return {"noop": noop, "slow": slow}[kind].apply_async((number, sent, pad))
