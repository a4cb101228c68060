"""Celery's producer in the row `small-uploads`: runs in the peers' environment, where it needs nothing of ours.

    python celery_enqueue.py BROKER COUNT THREADS

Prints `ready`; for each line on stdin it enqueues COUNT tasks with 1 KiB of argument each from THREADS threads, and
prints the seconds that took.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from celery import Celery  # type: ignore[import-not-found,unused-ignore]

PAD = "x" * 1024


def main(broker: str, count: int, threads: int) -> None:
    app = Celery("bench", broker=broker)
    app.conf.update(task_ignore_result=True, task_acks_late=True)
    task = app.signature("noop", (PAD,))
    with ThreadPoolExecutor(threads) as pool:
        print("ready", flush=True)
        for _ in sys.stdin:
            began = time.perf_counter()
            for each in [pool.submit(_enqueue, task, count // threads) for _ in range(threads)]:
                each.result()
            print(time.perf_counter() - began, flush=True)


def _enqueue(task: object, count: int) -> None:
    for _ in range(count):
        task.apply_async()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
