"""This module puts the parts of a worker process together, from the first hello to the goodbye."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
import uuid
from collections.abc import Mapping
from enum import IntEnum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import structlog

from longshore.client.servers.access import ServerAccess
from longshore.client.servers.endpoint import Token, find_credential, parse_servers
from longshore.client.servers.tls import find_tls
from longshore.contract.version import PROTOCOL_VERSION, REVISION
from longshore.program import signals
from longshore.v1 import worker_service_pb2 as ws
from longshore.worker.agent.earlier_sessions import Slot
from longshore.worker.agent.housekeeping import Housekeeping
from longshore.worker.agent.link import ServerLink
from longshore.worker.agent.outbox import Outbox
from longshore.worker.agent.route import ServerRoute
from longshore.worker.agent.session import Agent, AgentLimits
from longshore.worker.agent.target_conditions import TargetConditions
from longshore.worker.attempts.context import AttemptResources
from longshore.worker.attempts.handlers import Registry
from longshore.worker.attempts.mailbox import Mailbox
from longshore.worker.attempts.payloads import GrpcDownloads, PayloadFolder
from longshore.worker.attempts.runner import Runner
from longshore.worker.attempts.threads import Threads
from longshore.worker.process import config as settings
from longshore.worker.process import log
from longshore.worker.process.config import ConfigError, WorkerConfig
from longshore.worker.process.parent_watch import stop_with
from longshore.worker.targets import Target, open_target

_log: Final = structlog.stdlib.get_logger("longshore.worker")

_TICK_S: Final = 0.1
_IDENTITY_S: Final = 3.0
"""Seconds that the first hello waits for targets to tell their identities."""
_IDENTITY_AGAIN_S: Final = 10.0
_ACKNOWLEDGE_S: Final = 5.0
"""Seconds that a leaving worker waits for its last reports to be acknowledged."""
_FAREWELL_S: Final = 5.0
_CLOSE_S: Final = 3.0
_SAME_SIGNAL: Final = 1.0
"""Seconds within which a second signal is the first one's echo."""


class Exit(IntEnum):
    """A worker process ends with one of these exit codes."""

    LEFT = 0
    """The worker was told to leave, and left."""
    REFUSED = 1
    """Every server refused its first hello: another start may go better, once the server or a token is put right."""
    SETTINGS = 2
    """A setting is wrong: another start helps nobody."""
    WORN_OUT = 75
    """Too many handlers hang (EX_TEMPFAIL): start it anew."""


class Worker:
    """Runs the handlers of a registry, and `file_push`, for a Longshore server.

    `run` is for a process of its own, `serve` for an event loop that is there already. One use each.
    """

    def __init__(self, registry: Registry | None = None, config: WorkerConfig | None = None) -> None:
        """Raises ConfigError and ConfigurationError for settings that cannot be used. Connects to nothing yet."""
        self._config: Final = (config or WorkerConfig()).checked()
        self._specs = self._config.target_specs()
        self._registry = Registry()
        if registry is not None:
            self._registry.update(registry)
        if self._specs:
            _add_file_push(self._registry)
        self._servers = parse_servers(self._config.server)
        self._shown: Token | None = None
        self._read_token()
        self._access = ServerAccess(tls=self._config.tls or find_tls(), token=lambda: self._shown)
        self._access.check(self._servers)
        self._agent: Agent | None = None
        self._link: ServerLink | None = None
        self._stops = 0
        self._signalled: float | None = None
        self.session_id: Final = str(uuid.uuid4())
        self._epochs: Final = itertools.count(1)
        """Count the epochs, so that a server that reads a hello late does not take it for the newest one."""

    @property
    def name(self) -> str:
        """Return the worker's name."""
        return self._config.name

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds that this worker runs."""
        return tuple(handler.kind for handler in self._registry)

    def statistics(self) -> dict[str, int]:
        """Count the attempts that are waiting, running, wedged, and unacknowledged."""
        return self._agent.statistics() if self._agent is not None else {}

    def run(self) -> Exit:
        """Serve until SIGTERM or SIGINT, or the server's drain; a second signal stops what runs at once."""
        if not structlog.is_configured():
            log.configure(worker=self.name)
        return asyncio.run(self.run_here())

    def stop(self, *, grace: float | None = None) -> None:
        """Leave: hand back what has not begun, let the rest finish, say goodbye.

        `grace` is in seconds. None means the setting's, and 0 at the second call. Call it from the loop's thread.
        """
        self._stops += 1
        if grace is None:
            grace = self._config.grace if self._stops == 1 else 0.0
        _log.info("worker_leaving", grace=grace)
        if self._agent is not None:
            self._agent.leave(grace=grace)

    def _on_signal(self) -> None:
        # A supervisor may signal a process and its group: the echo is not a second wish.
        now = time.monotonic()
        if self._signalled is None or now - self._signalled > _SAME_SIGNAL:
            self._signalled = self._signalled or now
            self.stop()

    async def run_here(self, *, parent_pid: int | None = None) -> Exit:
        """`serve` in the main thread of a process that is ours, its signals included. With `parent_pid` it leaves, at
        once, when that process ends."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        # The server that started us is told of its terminal's end itself, and reloads nothing through us.
        reload, leave = (self._reload, self._on_signal) if parent_pid is None else (_nothing, _nothing)
        signals.listen(reload=reload, leave=leave, tell=lambda state: _log.warning("process_state", **state))
        if parent_pid is None:
            return await self.serve()
        watch = asyncio.create_task(stop_with(parent_pid, partial(self.stop, grace=0.0)))
        try:
            return await self.serve()
        finally:
            watch.cancel()

    def _reload(self) -> None:
        """Connect anew, with the token and the certificates that are in the files now. What runs goes on."""
        _log.info("reloading")
        if self._link is not None:
            self._link.renew()

    async def serve(self) -> Exit:
        """Serve until `stop`, or the server's drain.

        Raises LongshoreError if the first hello is refused, ConfigError if the state folder cannot be used.
        Cancellation ends the session without a goodbye: what runs is lost when its lease ends.
        """
        state = settings.state_dir(self._config)
        try:
            slot = Slot.take(state, self._config.name, self.session_id)
        except OSError as error:
            raise ConfigError(
                f"--state-dir {state}: {error.strerror}; name a folder that this user may write"
            ) from error
        folder = PayloadFolder(settings.temp_dir(self._config), self.session_id)
        folder.sweep(slot.dead_sessions)
        targets: dict[str, Target] = {spec.name: open_target(spec) for spec in self._specs}
        mailbox, outbox = Mailbox(asyncio.get_running_loop()), Outbox()
        conditions = TargetConditions(targets, mailbox=mailbox, outbox=outbox)
        housekeeping = Housekeeping(targets, conditions=conditions, mailbox=mailbox, outbox=outbox)
        limits = AgentLimits(
            concurrency=self._config.concurrency,
            max_wedged=self._config.max_wedged or 0,
            stop_grace=self._config.stop_grace,
        )
        agent = self._agent = Agent(
            registry=self._registry, limits=limits, mailbox=mailbox, outbox=outbox, housekeeper=housekeeping
        )
        downloads = GrpcDownloads(self._access, lambda: link.endpoint, self.session_id)
        threads = Threads("longshore-handler")
        resources = AttemptResources(downloads=downloads, folder=folder, threads=threads, targets=targets)
        runner = Runner(resources, agent.ended)
        agent.attach(runner)
        link = self._link = ServerLink(
            route=ServerRoute(self._servers),
            access=self._access,
            agent=agent,
            outbox=outbox,
            hello=lambda: self._hello(agent, slot, conditions),
            welcomed=lambda hello: slot.told(tuple(hello.dead_sessions)),
            rehome=self._config.rehome,
        )
        if self._stops:
            agent.leave(grace=self._config.grace)
        said_goodbye = False
        try:
            await _learn(conditions)
            said_goodbye = await self._go(agent, link, conditions)
        finally:
            housekeeping.close()
            conditions.close()
            runner.close()
            downloads.close()
            folder.close()
            slot.close(ended=said_goodbye)
            await _close_all(targets, threads)
        ended = Exit.WORN_OUT if agent.worn_out else Exit.LEFT
        _log.info("worker_left", code=int(ended), said_goodbye=said_goodbye)
        return ended

    async def _go(self, agent: Agent, link: ServerLink, conditions: TargetConditions) -> bool:
        tasks = (
            asyncio.create_task(self._leave_when_done(agent), name="leave"),
            asyncio.create_task(link.run(), name="link"),
            asyncio.create_task(_tick(agent), name="tick"),
            asyncio.create_task(_keep_learning(conditions, link), name="conditions"),
            asyncio.create_task(link.rehome(), name="rehome"),
        )
        try:
            done, _ = await asyncio.wait(tasks[:3], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            connected = link.connected
            await link.goodbye(patience=_FAREWELL_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return connected

    async def _leave_when_done(self, agent: Agent) -> None:
        await agent.leaving.wait()
        while not agent.finished.is_set():
            deadline = agent.deadline
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                break
            await _wait(agent.finished, 0.2 if deadline is None else min(0.2, deadline - now))
            if agent.deadline is None and not agent.busy:
                break  # Drained by the server, and only reports are left.
        if agent.busy:
            _log.error("worker_gave_up", attempts=[f"{task}/{number}" for task, number in agent.give_up()])
        await _wait(agent.finished, _ACKNOWLEDGE_S)

    def _hello(self, agent: Agent, slot: Slot, conditions: TargetConditions) -> ws.Hello:
        self._read_token()
        known = conditions.known()
        return ws.Hello(
            protocol_version=PROTOCOL_VERSION,
            begins=True,
            revision=REVISION,
            session_id=self.session_id,
            worker=self._config.name,
            targets=[ws.ServedTarget(name=spec.name, identity=known.get(spec.name, "")) for spec in self._specs],
            kinds=[ws.ServedKind(name=h.kind, settles=h.settle is not None) for h in self._registry],
            held=agent.held(),
            version=_version(),
            dead_sessions=slot.dead_sessions,
            epoch=next(self._epochs),
        )

    def _read_token(self) -> None:
        """Anew for each connection: the server makes its token at its first start, which may come after ours."""
        self._shown = find_credential(
            token=self._config.token, token_file=self._config.token_file, data_dir=self._config.data_dir
        )


def _nothing() -> None:
    pass


async def _close_all(targets: Mapping[str, Target], threads: Threads) -> None:
    """Close targets side by side, without waiting long for a daemon that hangs."""
    closing = [asyncio.create_task(threads.call(target.close)) for target in targets.values()]
    if closing:
        done, late = await asyncio.wait(closing, timeout=_CLOSE_S)
        for task in late:
            task.cancel()
        for task in done:
            if (error := task.exception()) is not None:
                _log.warning("target_not_closed", error=str(error))
    threads.close()


async def _tick(agent: Agent) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        agent.tick()


async def _learn(conditions: TargetConditions) -> None:
    """Give targets a while to tell their identities, so that the first hello has them."""
    learned = asyncio.Event()
    conditions.on_identity(learned.set)
    conditions.ask()
    deadline = time.monotonic() + _IDENTITY_S
    while conditions.missing and (left := deadline - time.monotonic()) > 0:
        learned.clear()
        await _wait(learned, left)
    conditions.fell_silent(_IDENTITY_S)


async def _keep_learning(conditions: TargetConditions, link: ServerLink) -> None:
    """Announce a target that was down at the start as soon as it has told its identity."""
    conditions.on_identity(link.renew)
    while True:
        await asyncio.sleep(_IDENTITY_AGAIN_S)
        conditions.ask()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _add_file_push(registry: Registry) -> None:
    # Here and not at the top: file_push imports the public names, which come from here.
    from longshore.worker.file_push.handler import register

    register(registry)


def _version() -> str:
    try:
        return version("longshore")
    except PackageNotFoundError:
        return "0"
