"""Daemon threads: reused when idle, bounded when asked, and none lost to a call that raises."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from longshore.worker.attempts.mailbox import Mailbox
from longshore.worker.attempts.threads import Threads

WITHIN = 10.0


def fail() -> None:
    raise ZeroDivisionError


async def test_idle_threads_are_used_again_and_busy_ones_never_waited_for() -> None:
    threads = Threads("t")
    names = {await threads.call(lambda: threading.current_thread().name) for _ in range(20)}
    assert len(names) < 10  # A further one when those before had answered and were not idle yet.
    release = threading.Event()
    waiting = [asyncio.create_task(threads.call(lambda: release.wait(WITHIN))) for _ in range(5)]
    assert await threads.call(lambda: threading.current_thread().daemon)
    release.set()
    assert all(await asyncio.gather(*waiting))
    threads.close()


async def test_no_more_threads_than_the_limit() -> None:
    threads = Threads("t", limit=1)
    order: list[int] = []
    await asyncio.gather(*(threads.call(partial(order.append, number)) for number in range(50)))
    assert order == list(range(50))
    threads.close()


async def test_a_call_that_raises_takes_no_thread_from_the_others() -> None:
    threads = Threads("t", limit=1)
    threads.run(fail)
    assert await threads.call(lambda: "still there") == "still there"
    with pytest.raises(ZeroDivisionError):
        await threads.call(fail)
    threads.close()


async def test_posts_arrive_in_their_order_and_one_that_raises_loses_none() -> None:
    loop = asyncio.get_running_loop()
    mailbox = Mailbox(loop)
    raised: list[object] = []
    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
    got: list[int] = []
    arrived = asyncio.Event()

    def post() -> None:
        for number in range(100):
            mailbox.post(fail if number == 50 else partial(got.append, number))
        mailbox.post(arrived.set)

    thread = threading.Thread(target=post)
    thread.start()
    async with asyncio.timeout(WITHIN):
        await arrived.wait()
    thread.join()
    assert got == [number for number in range(100) if number != 50]
    assert [type(error) for error in raised] == [ZeroDivisionError]


def test_a_post_to_a_loop_that_is_gone_is_forgotten() -> None:
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop)
    loop.close()
    mailbox.post(lambda: None)
