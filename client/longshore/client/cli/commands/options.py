"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, TypeAlias, TypeVar, cast

import typer

from longshore.client.cli.commands import complete
from longshore.client.cli.input import checks
from longshore.client.cli.input.grammar import parse_duration, parse_label, parse_mode, parse_push_mode, parse_sha256
from longshore.client.errors import ConfigurationError
from longshore.client.transfer.content import Changing
from longshore.client.values.specs import TermOptions
from longshore.contract import names

_T = TypeVar("_T")

TASK: Final = "The task"
DELIVERY: Final = "The file in the instance"
REQUEST: Final = "The request"


def reads(parse: Callable[[str], _T]) -> Callable[[Any], _T]:
    """Make a parser for typer. A wrong value becomes a usage error with its remedy."""

    def read(text: Any) -> _T:
        if not isinstance(text, str):
            # Defaults come this way too, and are values already.
            return cast("_T", text)
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return read


def changing_of(*, snapshot: bool, as_of_now: bool) -> Changing:
    """Choose how an upload treats a file that is written to meanwhile. Raises ConfigurationError."""
    if snapshot and as_of_now:
        raise ConfigurationError("--snapshot and --as-of-now are two ways to send a file that changes; give one")
    return Changing.SNAPSHOT if snapshot else Changing.AS_OF_NOW if as_of_now else Changing.REFUSE


def _check_label(text: str) -> str:
    checks.label(*parse_label(text))
    return text


def _check_description(text: str) -> str:
    if wrong := names.wrong_description(text):
        raise ValueError(f"it {wrong}")
    return text


def labels_of(texts: list[str] | None) -> dict[str, str]:
    """Return `--label` options as a mapping. The last one of a key wins."""
    return dict(parse_label(text) for text in texts or ())


def seconds_option(
    name: str,
    help: str,
    *,
    panel: str = TASK,
    show_default: bool | str = False,
    check: Callable[[float], float] = checks.waits,
) -> typer.models.OptionInfo:
    """Make an option that takes a duration, which `check` refuses by ValueError."""
    option: typer.models.OptionInfo = typer.Option(
        name,
        metavar="DURATION",
        parser=reads(lambda text: check(parse_duration(text))),
        help=help,
        rich_help_panel=panel,
        show_default=show_default,
    )
    return option


@dataclass(frozen=True, slots=True, kw_only=True)
class TermsGroup:
    """The terms of a task: the options that `push` and `submit` share, by the names that `push_spec` and `job_spec`
    give them."""

    queue: Annotated[
        str,
        typer.Option(
            "--queue",
            metavar="NAME",
            parser=reads(checks.name),
            autocompletion=complete.queues,
            help="Queue of the task. Default: `default`.",
            rich_help_panel=TASK,
        ),
    ] = ""
    priority: Annotated[
        int,
        typer.Option(
            "--priority",
            min=-100,
            max=100,
            help="Priority, -100 to 100. Tasks of higher priority run first.",
            rich_help_panel=TASK,
        ),
    ] = 0
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="KEY=VALUE",
            parser=reads(_check_label),
            help="Label of the task. Repeatable.",
            rich_help_panel=TASK,
        ),
    ] = None
    not_before: Annotated[
        float | None,
        seconds_option("--not-before", "Time that must pass before the task may start, such as 30s, 5m, 2h or 7d."),
    ] = None
    expire_after: Annotated[
        float | None,
        seconds_option(
            "--expire-after",
            "Time after which the task expires if no attempt has succeeded. Server's default: 7d.",
            check=checks.expires,
        ),
    ] = None
    run_timeout: Annotated[
        float | None,
        seconds_option("--run-timeout", "Longest time for one attempt. Server's default: 1h.", check=checks.runs),
    ] = None
    stall_timeout: Annotated[
        float | None,
        seconds_option(
            "--stall-timeout", "Longest time without progress of one attempt. Default: none.", check=checks.runs
        ),
    ] = None
    attempt_limit: Annotated[
        int,
        typer.Option(
            "--attempts",
            metavar="N",
            min=0,
            max=100,
            help="Number of tries before a transient error is final. Server's default: 5.",
            rich_help_panel=TASK,
            show_default=False,
        ),
    ] = 0
    description: Annotated[
        str,
        typer.Option(
            "--description",
            metavar="TEXT",
            parser=reads(_check_description),
            help="Purpose of the task, for people: at most 500 characters. `get` shows it.",
            rich_help_panel=TASK,
        ),
    ] = ""

    after: Annotated[
        list[str] | None,
        typer.Option(
            "--after",
            metavar="TASK",
            autocompletion=complete.tasks,
            help="Task that must succeed before this one starts: its id, or its beginning. Repeatable. If it ends "
            "otherwise, this one is cancelled.",
            rich_help_panel=TASK,
        ),
    ] = None
    after_any_end: Annotated[
        bool,
        typer.Option(
            "--after-any-end",
            help="Start also if a task of --after fails, is cancelled, or expires.",
            rich_help_panel=TASK,
        ),
    ] = False

    def spec(self) -> TermOptions:
        """Return the terms as arguments of `push_spec` and `job_spec`. Raises ConfigurationError where two do not fit
        together."""
        checks.together(not_before=self.not_before, expire_after=self.expire_after)
        if self.after_any_end and not self.after:
            raise ConfigurationError("--after-any-end is for the tasks that --after names: give one")
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return cast("TermOptions", given | {"labels": labels_of(self.labels), "after": self.after or ()})


JobProjectOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--project",
        metavar="NAME",
        parser=reads(checks.project),
        help="LXD or Incus project of the instance. Default: the target's own.",
    ),
]
KeyOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--key",
        metavar="TEXT",
        parser=reads(checks.key),
        help="Key of the job. Jobs with the same key, target, project and instance run one at a time, in the order of "
        "their acceptance.",
    ),
]
ExclusiveOption: TypeAlias = Annotated[
    bool,
    typer.Option("--exclusive", help="Run nothing else of the instance beside the job, neither jobs nor pushes."),
]
LatestWinsOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--latest-wins",
        help="Take the place of your earlier tasks for the same destination or key: those that have not started are "
        "cancelled, and a running one is asked to stop.",
    ),
]
ModeOption: TypeAlias = Annotated[
    object,
    typer.Option(
        "--mode",
        metavar="OCTAL|source",
        parser=reads(parse_push_mode),
        help="Permission bits, such as 644, or `source` for those of FILE. Default: those of the file that is "
        "replaced; a new file gets those of FILE, and 644 from standard input.",
        rich_help_panel=DELIVERY,
        show_default=False,
    ),
]
SnapshotOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--snapshot",
        help="Copy each file to $TMPDIR first, for files that may be written to meanwhile.",
        rich_help_panel=REQUEST,
    ),
]
AsOfNowOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--as-of-now",
        help="Send what each file has at the beginning, for logs that grow meanwhile.",
        rich_help_panel=REQUEST,
    ),
]
DirModeOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--dir-mode",
        metavar="OCTAL",
        parser=reads(parse_mode),
        help="Permission bits of the directories that -p creates. Default: 755. Their owner is the file's.",
        rich_help_panel=DELIVERY,
    ),
]
Sha256Option: TypeAlias = Annotated[
    object,
    typer.Option(
        "--sha256",
        metavar="HEX|compute",
        parser=reads(parse_sha256),
        help="Digest that the content must have, or `compute` to read the file first and have its digest checked.",
        rich_help_panel=REQUEST,
    ),
]
RequestIdOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--request-id",
        metavar="ID",
        parser=reads(checks.request_id),
        help="Id of the request. The same id with the same request gives the same tasks, and continues an upload. "
        "Default: a new id.",
        rich_help_panel=REQUEST,
    ),
]
WaitOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--wait/--detach",
        help="Stay until every task is done; the exit code tells how they ended. Otherwise return once they are "
        "accepted.",
        rich_help_panel=REQUEST,
    ),
]
PatienceOption: TypeAlias = Annotated[
    float,
    seconds_option(
        "--patience",
        "Time to go on trying without getting any further, while the server is away or full. 0 means one try.",
        panel=REQUEST,
        show_default="1m",
    ),
]
TimeoutOption: TypeAlias = Annotated[
    float | None,
    seconds_option(
        "--timeout",
        "With --wait: time from acceptance after which the command stops waiting and exits with 124. The tasks go on.",
        panel=REQUEST,
    ),
]
WatchTimeoutOption: TypeAlias = Annotated[
    float | None,
    seconds_option(
        "--timeout",
        "Time after which the command stops watching and exits with 124. The tasks go on.",
        panel=REQUEST,
    ),
]
ForceOption: TypeAlias = Annotated[
    bool, typer.Option("--force", help="Retry even if a later task has delivered to the destination.")
]
