"""`longshore push` delivers files into instances."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal, cast

import typer

from longshore.client.aio import PATIENCE, AsyncClient
from longshore.client.cli.command import Commands, command
from longshore.client.cli.commands import complete, ids, options
from longshore.client.cli.commands.stdin import stdin_content
from longshore.client.cli.follow import follow, in_time
from longshore.client.cli.input import checks
from longshore.client.cli.output import render
from longshore.client.cli.output.display import Display
from longshore.client.cli.output.exits import ExitCode, code_for_tasks
from longshore.client.cli.output.jsonform import in_one_line
from longshore.client.cli.session import CommandSession
from longshore.client.cli.waiting import Waits, told_why
from longshore.client.errors import ConfigurationError, LongshoreError, SourceError, WaitTimedOut
from longshore.client.runtime.together import all_of
from longshore.client.transfer.content import Changing, Content
from longshore.client.values.arguments import shown
from longshore.client.values.specs import parse_destination, push_spec
from longshore.contract.request_ids import new_request_id
from longshore.program.durations import format_duration
from longshore.v1 import task_pb2

MOST_ID: Final = (1 << 32) - 2
"""The largest id of a user or a group is this number; the next one means "no change" to the kernel."""
STDIN: Final = "-"
_AT_LAST: Final = 2.0
"""Seconds for a last look at a task that was not done in time."""
_AT_ONCE: Final = 4
"""Uploads under way at the same time; more would only share the same disk and the same connection."""


class WhenStoppedOption(StrEnum):
    """The values of --when-stopped."""

    DELIVER = "deliver"
    WAIT = "wait"
    FAIL = "fail"


class WhenAbsentOption(StrEnum):
    """The values of --when-absent."""

    FAIL = "fail"
    WAIT = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan of one upload: a file (or `-`), its request id, and its specification."""

    file: str
    request_id: str
    spec: task_pb2.TaskSpec


def arguments(files: list[str], to: list[str]) -> tuple[list[str], list[str]]:
    """Tell files from destinations. With `--to` every argument is a file, otherwise the last one is the destination."""
    if not to and len(files) < 2:
        raise ConfigurationError("nothing to push, or nowhere: expected FILE… [TARGET:]INSTANCE/PATH, or FILE… --to …")
    sources, destinations = (files, to) if to else (files[:-1], files[-1:])
    if sources.count(STDIN) > 1:
        raise ConfigurationError("standard input can be pushed once only")
    if len(sources) > 1 and not all(each.endswith("/") for each in destinations):
        raise _several(sources, destinations)
    if len(sources) > 1:
        names = [Path(source).name for source in sources if source != STDIN]
        if len(set(names)) < len(names):
            raise ConfigurationError("two of the files have the same name, and would go to the same place")
    if STDIN in sources and any(each.endswith("/") for each in destinations):
        raise ConfigurationError("standard input has no name: give the whole path that it gets")
    return sources, destinations


def register(app: Commands) -> None:
    """Add the command."""

    @command(app, panel="Deliver", changes=True)
    async def push(
        session: CommandSession,
        files: Annotated[
            list[str],
            typer.Argument(
                metavar="FILE… [TARGET:]INSTANCE/PATH",
                autocompletion=complete.files_and_destinations,
                help="Files to push (`-` for standard input), and their destination.",
                show_default=False,
            ),
        ],
        to: Annotated[
            list[str] | None,
            typer.Option(
                "--to",
                metavar="[TARGET:]INSTANCE/PATH",
                autocompletion=complete.destinations,
                help="Destination. Repeatable. With it, every argument is a file.",
                rich_help_panel=options.DELIVERY,
            ),
        ] = None,
        project: Annotated[
            str,
            typer.Option(
                "--project",
                metavar="NAME",
                help="LXD or Incus project of the instance. Default: the target's own.",
                rich_help_panel=options.DELIVERY,
            ),
        ] = "",
        mode: options.ModeOption = None,
        uid: Annotated[
            int | None,
            typer.Option(
                min=0, max=checks.OWNERS, help="Owner's user id inside the instance.", rich_help_panel=options.DELIVERY
            ),
        ] = None,
        gid: Annotated[
            int | None,
            typer.Option(
                min=0, max=checks.OWNERS, help="Owner's group id inside the instance.", rich_help_panel=options.DELIVERY
            ),
        ] = None,
        create_dirs: Annotated[
            bool,
            typer.Option(
                "--create-dirs", "-p", help="Create missing parent directories.", rich_help_panel=options.DELIVERY
            ),
        ] = False,
        dir_mode: options.DirModeOption = None,
        in_place: Annotated[
            bool,
            typer.Option(
                "--in-place",
                help="Write into the existing file, for a mount point. Readers may see a part of the new content.",
                rich_help_panel=options.DELIVERY,
            ),
        ] = False,
        no_replace: Annotated[
            bool,
            typer.Option("--no-replace", help="Fail if the file exists.", rich_help_panel=options.DELIVERY),
        ] = False,
        when_stopped: Annotated[
            WhenStoppedOption,
            typer.Option(help="What to do if the instance is not running.", rich_help_panel=options.DELIVERY),
        ] = WhenStoppedOption.DELIVER,
        when_absent: Annotated[
            WhenAbsentOption,
            typer.Option(help="What to do if the instance does not exist.", rich_help_panel=options.DELIVERY),
        ] = WhenAbsentOption.FAIL,
        latest_wins: options.LatestWinsOption = False,
        read_back: Annotated[
            bool,
            typer.Option(
                "--read-back",
                help="Read the new file back and compare it before it becomes visible.",
                rich_help_panel=options.DELIVERY,
            ),
        ] = False,
        *,
        terms: options.TermsGroup,
        snapshot: options.SnapshotOption = False,
        as_of_now: options.AsOfNowOption = False,
        sha256: options.Sha256Option = None,
        request_id: options.RequestIdOption = "",
        wait: options.WaitOption = False,
        within: options.TimeoutOption = None,
        patience: options.PatienceOption = PATIENCE,
    ) -> ExitCode:
        """Push files into instances.

        Each file is uploaded, and one task for each destination is accepted, durably; workers then deliver it: the old
        file stays in place until the whole new one takes it over in one step.

        A path that ends in / is a directory, and the file keeps its name there. Prints the tasks; with --wait as each
        is done. Ctrl-C leaves accepted tasks running.

            longshore push app.conf web/etc/app/ --mode 600 --wait

            longshore push *.html --to web1/srv/ --to east:web2/srv/

            pg_dump shop | longshore push - backup/srv/shop.sql
        """
        sources, destinations = arguments(files, to or [])
        changing = options.changing_of(snapshot=snapshot, as_of_now=as_of_now)
        if in_place and no_replace:
            raise ConfigurationError(
                "--in-place is for a file that exists, and --no-replace refuses one: give one of them"
            )
        if dir_mode is not None and not create_dirs:
            raise ConfigurationError("--dir-mode is for the directories that --create-dirs (-p) creates: give both")
        if len(sources) > 1 and (request_id or isinstance(sha256, bytes)):
            raise ConfigurationError("--request-id and a given --sha256 are for one file at a time")
        plans = [
            Plan(
                file=source,
                request_id=request_id or new_request_id(),
                spec=push_spec(
                    *(_destination(each, project=project, source=source) for each in destinations),
                    mode=_mode(source, mode),
                    uid=uid,
                    gid=gid,
                    create_parents=create_dirs,
                    parents_mode=dir_mode,
                    in_place=in_place,
                    if_exists=task_pb2.IF_EXISTS_FAIL if no_replace else task_pb2.IF_EXISTS_REPLACE,
                    when_stopped=_WHEN_STOPPED[when_stopped],
                    when_absent=_WHEN_ABSENT[when_absent],
                    read_back=read_back,
                    on_pending="supersede" if latest_wins else "queue",
                    **terms.spec(),
                ),
            )
            for source in sources
        ]
        digest = cast('bytes | Literal["compute"] | None', sha256)
        return await deliver(
            session, plans, sha256=digest, wait=wait, within=within, patience=patience, changing=changing
        )


async def deliver(
    session: CommandSession,
    plans: list[Plan],
    *,
    sha256: bytes | Literal["compute"] | None,
    wait: bool,
    within: float | None,
    patience: float,
    changing: Changing = Changing.REFUSE,
) -> ExitCode:
    """Upload the files, a few at a time, and follow their tasks if the user wants that."""
    check_timeout(within, wait=wait)
    room = asyncio.Semaphore(_AT_ONCE)
    display = Display(session.err, quiet=session.output.quiet)
    going = {plan.request_id: plan for plan in plans}
    session.interrupted.append(lambda: _unfinished(going.values()))

    async def one(client: AsyncClient, waits: Waits, plan: Plan) -> list[task_pb2.Task]:
        title = "↑ standard input" if plan.file == STDIN else f"↑ {shown(Path(plan.file).name)}"
        async with room:
            await ids.dependencies(client, plan.spec)
            bar = display.bar(title)
            content: Content | AsyncIterator[bytes] = stdin_content(session) if plan.file == STDIN else plan.file
            tasks = await client.upload(
                content,
                spec=plan.spec,
                request_id=plan.request_id,
                sha256=sha256,
                progress=bar.uploaded,
                patience=patience,
                changing=changing,
            )
            bar.end()
        del going[plan.request_id]
        return await after_acceptance(session, client, waits, list(tasks), wait=wait, within=within)

    async with session.client(patience=patience, on_wait=display.waiting) as client:
        with display:
            async with told_why(client, display) as waits:
                done = await all_of([one(client, waits, plan) for plan in plans])
    return code_after(session, [task for tasks in done for task in tasks], wait=wait, within=within)


def check_timeout(within: float | None, *, wait: bool) -> None:
    """Raise ConfigurationError for a time-out where there is nothing to wait for."""
    if within is not None and not wait:
        raise ConfigurationError("--timeout says how long to wait: give --wait too")


async def after_acceptance(
    session: CommandSession,
    client: AsyncClient,
    waits: Waits,
    tasks: list[task_pb2.Task],
    *,
    wait: bool,
    within: float | None,
) -> list[task_pb2.Task]:
    """Print what was accepted, or follow it and print how it ended; what is not done after `within` seconds, as it
    then is."""
    display = waits.display
    if not wait:
        with display.aside():
            for task in tasks:
                session.result(task, text=partial(render.line, task), identity=task.id)
        return tasks
    still = {task.id for task in tasks}
    session.interrupted.append(lambda: _going_on(still))
    ended: dict[str, task_pb2.Task] = {}

    async def one(task: task_pb2.Task) -> None:
        # The caller asked for the outcome; `watch` shows the changes on the way.
        title = f"→ {render.where(task)}"
        done = await follow(client, task.id, waits=waits, title=title, changed=lambda _: None)
        ended[task.id] = done
        still.discard(task.id)
        with display.aside():
            session.result(done, text=partial(render.line, done), identity=done.id)
            if done.HasField("result"):
                session.data(in_one_line(done.result))

    if not await in_time(all_of([one(task) for task in tasks]), within):
        for task in tasks:
            if task.id not in ended:
                now = ended[task.id] = await as_it_is(client, task)
                with display.aside():
                    session.result(now, text=partial(render.line, now), identity=now.id)
    return [ended[task.id] for task in tasks]


async def as_it_is(client: AsyncClient, task: task_pb2.Task) -> task_pb2.Task:
    """Return the task as it is now, or as it was last known if no server answers at once."""
    try:
        async with asyncio.timeout(_AT_LAST):
            return await client.get(task.id)
    except (TimeoutError, LongshoreError):
        return task


def code_after(
    session: CommandSession, tasks: Sequence[task_pb2.Task], *, wait: bool, within: float | None
) -> ExitCode:
    """Return the exit code for these tasks, whether the command waited for them or not. For tasks that are not done it
    prints what to do."""
    left = [task for task in tasks if not task.done]
    if not wait or not left or within is None:
        return code_for_tasks(tasks)
    why = next((f": {said}" for task in left if (said := render.waits(task))), "")
    code = session.fail(WaitTimedOut(f"not done after {format_duration(within)}{why}", task=left[0]))
    for line in _going_on([task.id for task in left]):
        session.say(line)
    return code


def _unfinished(plans: Iterable[Plan]) -> Iterator[str]:
    """Say what is left of uploads that Ctrl-C has ended, and how to continue them."""
    for plan in plans:
        if plan.file == STDIN:
            yield "standard input was not accepted, and no task was made"
        else:
            yield f"{shown(plan.file)} was not accepted, and no task was made; what the server has is kept for a while:"
            yield f"  continue with the same command and --request-id {plan.request_id}"


def _going_on(task_ids: Collection[str]) -> Iterator[str]:
    """Say which accepted tasks go on after Ctrl-C, and how to watch or cancel them."""
    if task_ids:
        ids = " ".join(sorted(task_ids))
        yield "1 accepted task goes on:" if len(task_ids) == 1 else f"{len(task_ids)} accepted tasks go on:"
        yield f"  longshore watch {ids}"
        yield f"  longshore cancel {ids}"


def _destination(text: str, *, project: str, source: str) -> task_pb2.Destination:
    """Return the destination, checked as far as that goes without a server."""
    return checks.destination(text, parse_destination(text, project=project, default_name=_name(source)))


def _name(source: str) -> str:
    return "" if source == STDIN else Path(source).name


def _mode(source: str, mode: object) -> int | None:
    """Return `--mode` as the spec has it. None means the server's default, and the upload brings the mode that a new
    file gets."""
    if mode != "source":
        return cast("int | None", mode)
    if source == STDIN:
        raise ConfigurationError("standard input has no mode: give --mode as octal digits")
    try:
        return stat.S_IMODE(Path(source).stat().st_mode) & 0o777
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise SourceError(f"cannot read {shown(source)}: {reason}", reason="SOURCE_UNREADABLE") from error


def _several(sources: list[str], destinations: list[str]) -> ConfigurationError:
    """Make the error for several files without a directory to put them in. If the others look like destinations, it
    says how to name those."""
    first, *others = sources
    meant = [each for each in others if _is_destination(each) and not Path(each).exists()]
    if others and meant == others:
        said = " ".join(f"--to {shown(each)}" for each in (*others, *destinations))
        return ConfigurationError(
            f"there is no file {shown(others[0])} here. One file for several destinations: "
            f"longshore push {shown(first)} {said}"
        )
    file = next(each for each in destinations if not each.endswith("/"))
    return ConfigurationError(f"several files go into a directory: write {shown(file)}/ with a slash at the end")


def _is_destination(text: str) -> bool:
    try:
        parse_destination(text, default_name="x")
    except ConfigurationError:
        return False
    return True


_WHEN_STOPPED: Final = {
    WhenStoppedOption.DELIVER: task_pb2.WHEN_STOPPED_DELIVER,
    WhenStoppedOption.WAIT: task_pb2.WHEN_STOPPED_WAIT,
    WhenStoppedOption.FAIL: task_pb2.WHEN_STOPPED_FAIL,
}
_WHEN_ABSENT: Final = {
    WhenAbsentOption.FAIL: task_pb2.WHEN_ABSENT_FAIL,
    WhenAbsentOption.WAIT: task_pb2.WHEN_ABSENT_WAIT,
}
