"""P11 over servers: a watch at one sees every revision of what happens at another, once and in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from longshore.client import Client, job_spec
from longshore.client.errors import Unavailable
from longshore.v1 import task_pb2
from tests.support.servers.cluster import ServerFleet, fleet_of
from tests.support.servers.processes import eventually
from tests.support.stores.postgres import Cluster


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres: Cluster) -> Iterator[ServerFleet]:
    """Two servers; the only worker is at the second."""
    root = tmp_path_factory.mktemp("watch")
    with fleet_of(root, postgres, "--lease", "4s") as fleet, fleet.handlers(at=[1]):
        yield fleet


def test_every_revision_once_and_in_order_at_each_server(fleet: ServerFleet) -> None:
    ids = [fleet[0].client.submit(spec=job_spec("flaky", attempt_limit=100))[0].id for _ in range(3)]
    seen: dict[tuple[int, str], list[task_pb2.Task]] = {(at, one): [] for at in (0, 1) for one in ids}

    def watch(at: int, task_id: str) -> None:
        seen[at, task_id].extend(fleet[at].client.watch(task_id, after_revision=0))

    watchers = [threading.Thread(target=watch, args=each) for each in seen]
    for each in watchers:
        each.start()
    for each in watchers:
        each.join(60)
    for one in ids:
        here, there = seen[0, one], seen[1, one]
        assert [task.revision for task in here] == list(range(1, len(here) + 1))
        assert [task.state for task in here] == [task.state for task in there]
        assert here[-1].state == task_pb2.TASK_STATE_SUCCEEDED
        assert [state.value for state in fleet.history(one)] == [task.state for task in here]
        assert len(here) > 60


def test_a_watch_goes_on_at_another_server_when_its_own_is_killed(fleet: ServerFleet) -> None:
    (task,) = fleet[1].client.submit(spec=job_spec("flaky", attempt_limit=100))
    seen: list[int] = []

    def until_it_breaks(client: Client) -> None:
        for update in client.watch(task.id, after_revision=0):
            seen.append(update.revision)
            if len(seen) == 20:
                fleet.servers[0].kill()

    with fleet.client(0, patience=0) as client, pytest.raises(Unavailable):
        until_it_breaks(client)
    assert 20 <= len(seen) < 60
    seen += [update.revision for update in fleet[1].client.watch(task.id, after_revision=seen[-1])]
    fleet.servers[0].start()
    eventually(lambda: fleet[0].client.get(task.id).done, what="the killed one is back")
    assert seen == list(range(1, fleet[0].client.get(task.id).revision + 1))
