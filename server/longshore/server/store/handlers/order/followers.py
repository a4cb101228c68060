"""The command that tells followers of tasks that have ended."""

from __future__ import annotations

from collections.abc import Callable

from longshore.server.store.commands import ReleaseFollowers
from longshore.server.store.transaction.reads import Reads
from longshore.server.store.transaction.registry import handles
from longshore.server.store.transaction.unit import UnitOfWork


def _want(reads: Reads, command: ReleaseFollowers) -> None:
    reads.tasks.wanted.update(command.ended)


@handles(ReleaseFollowers, prefetch=_want, keeps_memory=True)
def release_followers(unit: UnitOfWork, command: ReleaseFollowers) -> Callable[[], None]:
    """See ReleaseFollowers. The followers hear of it at the end of the batch, with those of its own commands."""
    found = {loaded.submission.seq: loaded for loaded in unit.reads.tasks.load(command.ended)}
    for seq in command.ended:
        loaded = found.get(seq)
        if loaded is None or loaded.status.state.terminal:
            unit.followers.has_ended(seq, loaded)
    return lambda: None
