"""Procrastinate on PostgreSQL. With a redelivery time, the periodic task of its documentation retries stalled jobs."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from typing import Any

import procrastinate

from bench.peers.record import REDELIVERY, SLOW, broker, ran

# Two lines for each job, with its arguments, would be a good part of its time; others are as quiet.
logging.getLogger("procrastinate").setLevel(logging.WARNING)

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=broker(), max_size=16))


@app.task(queue="bench", name="noop")
async def noop(number: int, sent: int, pad: str) -> None:
    ran(number, sent)


@app.task(queue="bench", name="slow")
async def slow(number: int, sent: int, pad: str) -> None:
    await asyncio.sleep(SLOW)
    ran(number, sent)


if REDELIVERY:

    @app.periodic(cron="* * * * * */5")  # seconds stand last
    @app.task(queue="bench", queueing_lock="stalled", pass_context=True)
    async def retry_stalled(context: procrastinate.JobContext, timestamp: int) -> None:
        for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=REDELIVERY):
            await app.job_manager.retry_job(job)


def opened() -> AbstractAsyncContextManager[Any]:
    return app.open_async()


async def send(kind: str, number: int, sent: int, pad: str) -> Any:
    return await {"noop": noop, "slow": slow}[kind].defer_async(number=number, sent=sent, pad=pad)
