"""Commands about tasks: submit, watch, get, list, attempts, cancel, retry."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeAlias, cast

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from longshore.client.aio import PATIENCE
from longshore.client.cli.command import Commands, command
from longshore.client.cli.commands import complete, ids, options
from longshore.client.cli.commands.many import ForEachId, ListOutput, running_progress
from longshore.client.cli.commands.push import Plan, after_acceptance, as_it_is, check_timeout, code_after, deliver
from longshore.client.cli.follow import follow, in_time
from longshore.client.cli.input import checks
from longshore.client.cli.input.grammar import parse_moment
from longshore.client.cli.output import render
from longshore.client.cli.output.display import Display
from longshore.client.cli.output.exits import ExitCode
from longshore.client.cli.output.jsonform import in_one_line
from longshore.client.cli.session import CommandSession, Output
from longshore.client.cli.waiting import told_why
from longshore.client.errors import ConfigurationError
from longshore.client.runtime.together import all_of
from longshore.client.values.specs import job_spec, states
from longshore.contract.request_ids import new_request_id
from longshore.v1 import task_pb2
from longshore.v1 import task_service_pb2 as pb

_PANEL = "Tasks"

TaskIds: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="TASK…",
        autocompletion=complete.tasks,
        help="Ids of tasks, or beginnings of ids that no other task has.",
        show_default=False,
    ),
]
ManyTaskIds: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TASK…",
        autocompletion=complete.tasks,
        help="Ids of tasks, or their beginnings. `-` reads one per line from standard input.",
        show_default=False,
    ),
]
TaskId: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="TASK", autocompletion=complete.tasks, help="Id of a task, or its beginning.", show_default=False
    ),
]
_ON_A_TERMINAL: Final = 50
"""Rows of a list without a given limit."""
_PAGE: Final = 200


def register(app: Commands) -> None:
    """Add the commands."""

    @command(app, panel="Deliver", changes=True)
    async def submit(
        session: CommandSession,
        kind: Annotated[
            str,
            typer.Argument(
                metavar="KIND",
                autocompletion=complete.kinds,
                parser=options.reads(checks.name),
                help="Kind of the task, which names its handler.",
                show_default=False,
            ),
        ],
        arguments: Annotated[
            str,
            typer.Option(
                "--json", metavar="OBJECT", help="Arguments as a JSON object, sent as google.protobuf.Struct."
            ),
        ] = "",
        file: Annotated[
            str, typer.Option("--file", metavar="FILE", help="File to upload as the payload; `-` reads standard input.")
        ] = "",
        payload: Annotated[
            str,
            typer.Option(
                "--payload", metavar="ID", help="Id of a payload that another task of yours keeps; `get` shows it."
            ),
        ] = "",
        target: Annotated[
            str,
            typer.Option(
                "--target",
                metavar="NAME",
                parser=options.reads(checks.name),
                autocompletion=complete.targets,
                help="Target of the task: only workers that serve it run the task.",
            ),
        ] = "",
        instance: Annotated[
            str,
            typer.Option(
                "--instance",
                metavar="NAME",
                parser=options.reads(checks.instance),
                autocompletion=complete.instances,
                help="Instance that the task works on. The limit of tasks at once per instance counts it.",
            ),
        ] = "",
        project: options.JobProjectOption = "",
        key: options.KeyOption = "",
        exclusive: options.ExclusiveOption = False,
        latest_wins: options.LatestWinsOption = False,
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
        """Submit a job: a task of a kind that a team registered in its own workers.

        With --wait the job's result follows the line of the task, as one line of JSON; scripts take it from
        `--output json`, where it is the task's `result`.

        longshore submit thumbnail --json '{"width": 320}' --file photo.jpg --wait
        """
        if file and payload:
            raise ConfigurationError("--file and --payload are two ways to say what it works on; give one")
        if instance and not target:
            raise ConfigurationError("--instance needs its --target")
        if not instance and (project or exclusive):
            raise ConfigurationError(f"{'--project' if project else '--exclusive'} needs its --instance")
        if latest_wins and not key:
            raise ConfigurationError("--latest-wins needs the --key of the jobs whose place it takes")
        spec = job_spec(
            kind,
            _object(arguments) if arguments else None,
            target=target,
            instance=instance,
            project=project,
            key=key,
            access="exclusive" if exclusive else "shared",
            on_pending="supersede" if latest_wins else "queue",
            **terms.spec(),
        )
        request = request_id or new_request_id()
        if file:
            digest = cast('bytes | Literal["compute"] | None', sha256)
            plan = Plan(file=file, request_id=request, spec=spec)
            changing = options.changing_of(snapshot=snapshot, as_of_now=as_of_now)
            return await deliver(
                session, [plan], sha256=digest, wait=wait, within=within, patience=patience, changing=changing
            )
        check_timeout(within, wait=wait)
        display = Display(session.err, quiet=session.output.quiet)
        async with session.client(patience=patience, on_wait=display.waiting) as client:
            await ids.dependencies(client, spec)
            tasks = await client.submit(spec=spec, payload_id=payload, request_id=request, patience=patience)
            with display:
                async with told_why(client, display) as waits:
                    made = await after_acceptance(session, client, waits, list(tasks), wait=wait, within=within)
        return code_after(session, made, wait=wait, within=within)

    @command(app, panel=_PANEL)
    async def watch(
        session: CommandSession,
        tasks: TaskIds,
        after: Annotated[
            int | None,
            typer.Option(
                "--after", metavar="REVISION", help="Begin after this revision. Default: begin with the task as it is."
            ),
        ] = None,
        within: options.WatchTimeoutOption = None,
        patience: options.PatienceOption = PATIENCE,
    ) -> ExitCode:
        """Follow tasks until they are done: a line for each change, each revision once.

        The exit code tells how they ended. Reconnects by itself and goes on where it was.
        """
        display = Display(session.err, quiet=session.output.quiet)
        if after is not None and len(tasks) > 1:
            raise ConfigurationError("--after is for one task at a time")

        latest: dict[str, task_pb2.Task] = {}

        def show(task: task_pb2.Task) -> None:
            which = f"{task.id}  " if len(tasks) > 1 else ""
            latest[task.id] = task
            with display.aside():
                session.result(
                    task, text=lambda: f"{which}{render.revision(task)}", identity=task.id if task.done else ""
                )
                if task.HasField("result"):
                    session.data(in_one_line(task.result))

        async with session.client(patience=patience, on_wait=display.waiting) as client:
            wanted = [await ids.whole(client, each) for each in tasks]
            latest.update((each, task_pb2.Task(id=each)) for each in wanted)
            with display:
                async with told_why(client, display) as waits:
                    following = all_of(
                        follow(client, each, waits=waits, title=each, changed=show, after_revision=after)
                        for each in wanted
                    )
                    if not await in_time(following, within):
                        for each, task in latest.items():
                            latest[each] = await as_it_is(client, task)
        return code_after(session, list(latest.values()), wait=True, within=within)

    @command(app, panel=_PANEL)
    async def get(session: CommandSession, tasks: TaskIds) -> None:
        """Show tasks as they are now."""
        async with session.client() as client:
            for number, each in enumerate(tasks):
                task = await client.get(await ids.whole(client, each))
                progress = await running_progress(client, task) if session.output is Output.TEXT else None
                if number and session.output is Output.TEXT:
                    session.show("")
                session.result(task, text=partial(render.task_detail, task, progress=progress), identity=task.id)

    @command(app, name="list", panel=_PANEL)
    async def list_(
        session: CommandSession,
        state: Annotated[
            list[str] | None,
            typer.Option(
                "--state",
                metavar="STATE",
                autocompletion=complete.states,
                help="Show tasks in this state. Repeatable. live and done stand for several states.",
            ),
        ] = None,
        kind: Annotated[
            list[str] | None,
            typer.Option(
                "--kind", metavar="KIND", autocompletion=complete.kinds, help="Show tasks of this kind. Repeatable."
            ),
        ] = None,
        queue: Annotated[
            str,
            typer.Option("--queue", metavar="NAME", autocompletion=complete.queues, help="Show tasks in this queue."),
        ] = "",
        target: Annotated[
            str,
            typer.Option(
                "--target", metavar="NAME", autocompletion=complete.targets, help="Show tasks for this target."
            ),
        ] = "",
        instance: Annotated[
            str,
            typer.Option(
                "--instance", metavar="NAME", autocompletion=complete.instances, help="Show tasks for this instance."
            ),
        ] = "",
        label: Annotated[
            list[str] | None,
            typer.Option("--label", metavar="KEY=VALUE", help="Show tasks with this label. Repeatable."),
        ] = None,
        since: Annotated[
            str,
            typer.Option(
                "--since",
                metavar="TIME",
                help="Show tasks accepted since this time: 2h for two hours ago, or ISO 8601.",
            ),
        ] = "",
        until: Annotated[
            str, typer.Option("--until", metavar="TIME", help="Show tasks accepted before this time.")
        ] = "",
        request_id: Annotated[str, typer.Option("--request-id", metavar="ID", help="Show tasks of this request.")] = "",
        creator: Annotated[str, typer.Option("--creator", metavar="NAME", help="Show tasks of this creator.")] = "",
        limit: Annotated[
            int | None,
            typer.Option(
                "--limit",
                "-n",
                metavar="N",
                min=0,
                help=f"Show at most this many, or all with 0. Default: {_ON_A_TERMINAL} on a terminal, all in a pipe "
                "and for --output id or json.",
            ),
        ] = None,
    ) -> None:
        """List tasks, newest first. Every filter that is given must hold.

        longshore list --state live --instance web

        longshore list --state live --label release=42 --output id | longshore cancel -

        longshore list --state failed --since 1d --output json | jq -r .error.reason
        """
        wanted = pb.TaskFilter(
            states=states(state or ()),
            kinds=kind or (),
            queue=queue,
            target=target,
            instance=instance,
            labels=_labels(label),
            created_after=_moment("--since", since),
            created_before=_moment("--until", until),
            request_id=request_id,
            creator=creator,
        )
        if limit is None:
            for_people = session.output is Output.TEXT and session.out.is_terminal
            limit = _ON_A_TERMINAL if for_people else 0
        listed = ListOutput(session, limit=limit)
        async with session.client() as client:
            async for task in client.list(filter=wanted, limit=limit + 1 if limit else None, page_size=_PAGE):
                if not listed.take(task):
                    break
        listed.end()

    @command(app, panel=_PANEL)
    async def attempts(session: CommandSession, task: TaskId) -> None:
        """Show every attempt of a task, oldest first."""
        async with session.client() as client:
            found = await client.attempts(await ids.whole(client, task))
        if session.output is Output.JSON:
            for each in found:
                session.json(each)
        elif found:
            session.show(render.attempt_list(found))
        else:
            session.say("no attempts yet")

    @command(app, panel=_PANEL, changes=True)
    async def cancel(
        session: CommandSession,
        tasks: ManyTaskIds = None,
        reason: Annotated[
            str,
            typer.Option(
                "--reason",
                metavar="TEXT",
                parser=options.reads(checks.reason),
                help="Reason for people, which the task keeps.",
            ),
        ] = "",
        require: Annotated[
            bool,
            typer.Option("--require", help="Exit with 6 unless every task is cancelled, or certain to become so."),
        ] = False,
    ) -> ExitCode:
        """Cancel tasks durably, and print each as it then is. A finished task stays as it is.

        A task whose file is being put in place at this moment cannot be stopped any more; `watch` tells how it ends. If
        the server refuses one task, the others are cancelled all the same, and the exit code tells of the refusal.

        longshore list --state live --label release=42 --output id | longshore cancel - --require
        """
        each_of = ForEachId(session, ids.typed(tasks), nothing="no ids: nothing to cancel")
        async with session.client() as client:

            async def one(text: str) -> ExitCode:
                task = await client.cancel(await ids.whole(client, text), reason=reason)
                session.result(task, text=partial(render.cancelled_line, task), identity=task.id)
                return ExitCode.REFUSED if require and task.state not in render.STOPPED else ExitCode.OK

            return await each_of.run(one)

    @command(app, panel=_PANEL, changes=True)
    async def retry(
        session: CommandSession,
        tasks: ManyTaskIds = None,
        force: options.ForceOption = False,
        request_id: options.RequestIdOption = "",
        wait: options.WaitOption = False,
        within: options.TimeoutOption = None,
        patience: options.PatienceOption = PATIENCE,
    ) -> ExitCode:
        """Make new tasks like failed, cancelled or expired ones, while the server keeps their bytes.

        If the server refuses one task, the others are retried all the same, and the exit code tells of the refusal.

        longshore list --state failed --since 1h --output id | longshore retry -
        """
        each_of = ForEachId(session, ids.typed(tasks), nothing="no ids: nothing to retry")
        if request_id and len(each_of.texts) > 1:
            raise ConfigurationError("--request-id is for one task at a time")
        check_timeout(within, wait=wait)
        display = Display(session.err, quiet=session.output.quiet)
        made: list[task_pb2.Task] = []
        async with session.client(patience=patience, on_wait=display.waiting) as client:

            async def one(text: str) -> ExitCode:
                task_id = await ids.whole(client, text)
                made.append(await client.retry(task_id, force=force, request_id=request_id))
                return ExitCode.OK

            code = await each_of.run(one)
            with display:
                async with told_why(client, display) as waits:
                    after = await after_acceptance(session, client, waits, made, wait=wait, within=within)
        return code or code_after(session, after, wait=wait, within=within)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is no number that JSON has")
    return number


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except ValueError as error:
        raise ConfigurationError(f"--json is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigurationError("--json wants an object, as in '{\"width\": 320}'")
    return value


def _labels(texts: list[str] | None) -> dict[str, str]:
    try:
        return options.labels_of(texts)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _moment(option: str, text: str) -> Timestamp | None:
    if not text:
        return None
    try:
        moment = parse_moment(text, now=datetime.now(UTC))
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(f"{option}: {error}") from error
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
