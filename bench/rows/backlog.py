"""This row measures whether 1,000,000 live and 10,000,000 finished tasks make anything slower than 1,000 of each.

Two databases of each make, SQLite and PostgreSQL (bench/support/backlog.py and history.py fill them). Each is asked for
the same in turns, A B A B: a submission, a claim, a look at a task, what a watch reads, a page of a list by
each filter and by some together, the janitor's tick and its purge, and the figures of `longshore stats`. A round asks
each several times, and its figure is the median in milliseconds, commit included. The large database stands for ours,
the small one for the peer: only the ratio counts, at most 1.3.

`backlog` has a hundredth of that, and is measured with the other rows. `backlog-full` has all of it, takes an hour and
20 GB of disk, and is measured by its name only. `--rounds` counts for both.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

from bench.rows.claim import Make, Queue, SQLiteMake, opened, postgres
from bench.support.backlog import (
    BASE,
    Fleet,
    copy_rows,
    count_copies,
    counts_of_waiting,
    make_base,
    plan,
    submit,
    without_indexes,
)
from bench.support.figures import Goal
from bench.support.history import copy_history, leave_room, make_finished
from bench.support.run import Row, Run
from longshore.server.model.values import State
from longshore.server.store.commands import PurgeTasks, Tick
from longshore.server.store.protocol import TaskFilter
from longshore.server.store.tables.ids import task_id

GOAL: Final = Goal(at_most=1.3)
LIVE: Final = 1_000_000
FINISHED: Final = 10_000_000
SHORT: Final = 100
"""The short row has so many times less."""
ASKED: Final = 9
"""Times that each is asked in a round."""
PAGE: Final = 10
LIVE_STATES: Final = frozenset(state for state in State if not state.terminal)

FILTERS: Final[Mapping[str, TaskFilter]] = {
    "all": TaskFilter(),
    "live": TaskFilter(states=LIVE_STATES),
    "running": TaskFilter(states=frozenset({State.RUNNING})),
    "succeeded": TaskFilter(states=frozenset({State.SUCCEEDED})),
    "failed": TaskFilter(states=frozenset({State.FAILED})),
    "expired (none)": TaskFilter(states=frozenset({State.EXPIRED})),
    "kind": TaskFilter(kinds=frozenset({"report"})),
    "kind (none)": TaskFilter(kinds=frozenset({"unknown"})),
    "queue": TaskFilter(queue="nightly"),
    "queue (few)": TaskFilter(queue="rare"),
    "target": TaskFilter(target="north"),
    "instance": TaskFilter(instance="i7"),
    "target and instance": TaskFilter(target="north", instance="i7"),
    "creator": TaskFilter(creator="bob"),
    "creator (few)": TaskFilter(creator="rare"),
    "label": TaskFilter(labels={"team": "t3"}),
    "label (few)": TaskFilter(labels={"team": "rare"}),
    "request": TaskFilter(request_id="request-40"),
    "beginning of an id": TaskFilter(id_prefix="00000000"),
    "created after": TaskFilter(created_after=0.0),
    "created before": TaskFilter(created_before=4e9),
    "queue and kind": TaskFilter(queue="nightly", kinds=frozenset({"report"})),
    "creator and failed": TaskFilter(creator="bob", states=frozenset({State.FAILED})),
    "label and live": TaskFilter(labels={"team": "t3"}, states=LIVE_STATES),
}
"""Some ask for what is rare; `none` for what is not there."""


class Backlog(Queue):
    """One database, with what it is asked for."""

    finished = 0
    """The number of the newest task of the history."""

    def questions(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        some = task_id(self.finished - 10, 0)
        requests = itertools.count()
        asked: dict[str, Callable[[], Awaitable[object]]] = {
            "submit": lambda: submit(self.store, [plan(next(self._numbers))], f"one-{self.label}-{next(requests)}"),
            "look at": lambda: self.store.task(some),
            "watch": lambda: self.store.history(some, after=0),
            "tick": lambda: self.store.run(Tick()),
            "stats": self.store.figures,
            "purge": lambda: self.store.run(PurgeTasks(age=0.0, limit=1)),
        }
        return asked | {f"list {name}": partial(self._page, where) for name, where in FILTERS.items()}

    async def _page(self, where: TaskFilter) -> None:
        await self.store.list_tasks(where, before=None, limit=PAGE)


async def fill(make: Make, label: str, live: int, finished: int) -> None:
    """So many times BASE of each. Small ones are recounted."""
    async with opened(make.store(label)) as store:
        fleet = Fleet(store)
        await fleet.connect(4)
        await make_finished(store, fleet)
    database = make.database(label)
    leave_room(database, finished - 1)
    database.finish()
    async with opened(make.store(label)) as store:
        await make_base(store, Fleet(store))
        waiting = await counts_of_waiting(store)
    database = make.database(label)
    with without_indexes(database):
        if finished > 1:
            copy_history(database, finished - 1)
        if live > 1:
            copy_rows(database, live - 1, after=finished * BASE)
            count_copies(database, waiting, live - 1)
    database.finish()
    if finished <= 10:
        async with opened(make.store(label)) as store:
            wrong = await store.verify_counters()
        if wrong:
            raise AssertionError(f"the copies are not as the store makes them: {wrong[:5]}")


async def compare(run: Run, make: Make, live: int, finished: int) -> None:
    """Fill, ask in turns, print."""
    began = time.monotonic()
    await fill(make, "checked", 3, 3)
    await fill(make, "few", 1, 1)
    await fill(make, "many", live // BASE, finished // BASE)
    run.say(f"{run.row}: {make.name} filled in {time.monotonic() - began:.0f} s")
    figures: dict[str, dict[str, list[float]]] = {"few": defaultdict(list), "many": defaultdict(list)}
    async with AsyncExitStack() as stack:
        sides = {
            label: await stack.enter_async_context(opened_backlog(make, label, newest))
            for label, newest in (("few", BASE), ("many", finished))
        }
        questions = {label: side.questions() for label, side in sides.items()}
        for number in range(-1, run.rounds):
            run.loads.append(os.getloadavg()[0])
            for name in (*questions["few"], CLAIM):
                for label, took in (await asked(sides, questions, name)).items():
                    if number >= 0:
                        figures[label][name].append(took)
    for name, many in figures["many"].items():
        run.compare(
            what=f"{make.name} {name}",
            peer=f"with {BASE:,} and {BASE:,}",
            unit="ms",
            ours=many,
            theirs=figures["few"][name],
            goal=GOAL,
        )


CLAIM: Final = "claim"


async def asked(
    sides: Mapping[str, Backlog], questions: Mapping[str, Mapping[str, Callable[[], Awaitable[object]]]], name: str
) -> dict[str, float]:
    """Ask both sides the same in turns, and return the median of each in milliseconds."""
    took: dict[str, list[float]] = {label: [] for label in sides}
    for turn in range(ASKED):
        for label in list(sides)[:: 1 if turn % 2 else -1]:
            if name == CLAIM:
                sides[label].times = []
                await sides[label].round(measured=True)
                took[label] += sides[label].times
            else:
                began = time.perf_counter()
                await questions[label][name]()
                took[label].append(time.perf_counter() - began)
    return {label: 1e3 * statistics.median(times) for label, times in took.items()}


@asynccontextmanager
async def opened_backlog(make: Make, label: str, newest: int) -> AsyncIterator[Backlog]:
    """A filled database, opened. `newest`: the number of the newest finished task."""
    async with opened(make.store(label)) as store:
        fleet = Fleet(store)
        await fleet.connect(4)
        side = Backlog(store, fleet, label)
        side.finished = newest
        yield side


async def measure(run: Run, live: int = LIVE, finished: int = FINISHED) -> None:
    await compare(run, SQLiteMake(run.folder), live, finished)
    for path in run.folder.iterdir():
        path.unlink()  # before the other one takes as much
    with postgres() as make:
        await compare(run, make, live, finished)


ROWS: Final = (
    Row(
        name="backlog",
        unit="ms",
        measure=partial(measure, live=LIVE // SHORT, finished=FINISHED // SHORT),
        rounds=3,
        pairs=1,
    ),
    Row(name="backlog-full", unit="ms", measure=measure, rounds=5, pairs=1, named=True),
)
