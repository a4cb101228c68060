"""The `longshored` command."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
import typer

from longshore.server import logs, tuning, version
from longshore.server.app import serving
from longshore.server.datadir import DataDir, DataDirError
from longshore.server.model.errors import LongshoreError
from longshore.server.openfiles import raise_limit
from longshore.server.options import parse_duration, parse_size
from longshore.server.settings import DEFAULT_LISTEN, Limits, Settings, SettingsError, Times
from longshore.server.store.errors import SchemaMismatch

EXIT_REFUSED: Final = 2
"""The server did not start: a setting, the data directory or its schema."""
EXIT_FAILED: Final = 1
"""The server could not go on, or could not start now: starting it again may help."""

_SAME_SIGNAL: Final = 1.0
"""Seconds within which a second signal is the first one's echo: some supervisors signal a process and its group."""
_LIMITS: Final = Limits()
_NOT_IN_FILE: Final = frozenset({"config", "show_version", "help"})

_log = structlog.get_logger("longshore.server")
_app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings={"auto_envvar_prefix": "LONGSHORE"}
)


def default_data_dir() -> Path:
    """$LONGSHORE_DATA_DIR, else /var/lib/longshore for root if it is there, else longshore/ in the user's data folder."""
    if chosen := os.environ.get("LONGSHORE_DATA_DIR"):
        return Path(chosen)
    system = Path("/var/lib/longshore")
    if os.geteuid() == 0 and system.is_dir():
        return system
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "longshore"


def _load_config(context: typer.Context, path: Path | None) -> Path | None:
    """The TOML file's keys are the long options without dashes in front, with `-` or `_`."""
    if path is None or context.resilient_parsing:
        return path
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be used: {error}") from error
    known = {parameter.name: parameter for parameter in context.command.params if parameter.name not in _NOT_IN_FILE}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        option = known.get(key.replace("-", "_"))
        if option is None or option.name is None:
            raise typer.BadParameter(f"{path}: there is no option {key}; `longshored --help` lists them")
        values[option.name] = _from_file(
            f"{path}: {key}", value, flag=bool(getattr(option, "is_flag", False)), many=bool(option.multiple)
        )
    context.default_map = values
    return path


def _from_file(name: str, value: object, *, flag: bool, many: bool) -> object:
    """A value of the file, where it is of the option's sort: the command line's own checks know only text, and would
    take `true` for 1."""
    if flag:
        if not isinstance(value, bool):
            raise typer.BadParameter(f"{name}: write true or false")
        return value
    if many:
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise typer.BadParameter(f'{name}: write a list of texts, as in ["default=directory:/srv"]')
        return words
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise typer.BadParameter(f"{name}: write one number or text")
    return value


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"longshored {version.VERSION}")
        raise typer.Exit


@_app.command(
    help="Accept uploads, keep them, and dispatch them to workers. With no options: SQLite and a spool in the data directory, loopback, a generated token."
)
def _longshored(
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where everything is kept. [default: ~/.local/share/longshore; /var/lib/longshore for root where it exists]",
            show_default=False,
        ),
    ] = None,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT on loopback, or unix:PATH. Port 0 takes a free one.")
    ] = DEFAULT_LISTEN,
    database: Annotated[
        str, typer.Option(help="sqlite:///PATH. [default: longshore.db in the data directory]", show_default=False)
    ] = "",
    spool: Annotated[
        str, typer.Option(help="file:///PATH. [default: spool/ in the data directory]", show_default=False)
    ] = "",
    worker: Annotated[
        bool, typer.Option("--worker/--no-worker", help="Run a worker as a child process.", rich_help_panel="Worker")
    ] = False,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="For the child: NAME=lxd:SOCKET, NAME=https://..., NAME=directory:PATH. Repeatable. [default: default=directory:DATA_DIR/instances]",
            show_default=False,
            rich_help_panel="Worker",
        ),
    ] = None,
    worker_concurrency: Annotated[
        int, typer.Option(min=1, max=1000, help="Attempts the child runs at once.", rich_help_panel="Worker")
    ] = 8,
    queue_limit: Annotated[
        int, typer.Option(min=1, help="Live tasks in one queue.", rich_help_panel="Limits")
    ] = _LIMITS.queue_tasks,
    caller_limit: Annotated[
        int, typer.Option(min=0, help="Live tasks of one caller; 0: no limit of its own.", rich_help_panel="Limits")
    ] = 0,
    upload_limit: Annotated[
        int, typer.Option(min=1, help="Uploads at once.", rich_help_panel="Limits")
    ] = _LIMITS.uploads,
    caller_upload_limit: Annotated[
        int,
        typer.Option(min=0, help="Uploads at once of one caller; 0: no limit of its own.", rich_help_panel="Limits"),
    ] = 0,
    spool_limit: Annotated[
        str, typer.Option(help="Bytes of payloads, such as 500GiB; 0: what the disk has.", rich_help_panel="Limits")
    ] = "0",
    disk_reserve: Annotated[
        str,
        typer.Option(
            help="Bytes of the disk that payloads never take, so that the database can commit.",
            rich_help_panel="Limits",
        ),
    ] = "256MiB",
    instance_limit: Annotated[
        int, typer.Option(min=1, help="Tasks that run at once on one instance.", rich_help_panel="Limits")
    ] = _LIMITS.instance_tasks,
    target_limit: Annotated[
        int, typer.Option(min=1, help="Tasks that run at once on one target.", rich_help_panel="Limits")
    ] = _LIMITS.target_tasks,
    attempt_limit: Annotated[
        int,
        typer.Option(
            min=1,
            max=100,
            help="Tries before a transient error is final, unless the task says otherwise.",
            rich_help_panel="Limits",
        ),
    ] = 5,
    lease: Annotated[
        str, typer.Option(help="How long a silent worker is believed alive.", rich_help_panel="Times")
    ] = "6s",
    cancel_grace: Annotated[
        str, typer.Option(help="How long a worker has to stop a cancelled attempt.", rich_help_panel="Times")
    ] = "30s",
    drain_grace: Annotated[
        str, typer.Option(help="How long uploads may go on after SIGTERM.", rich_help_panel="Times")
    ] = "20s",
    upload_idle: Annotated[
        str, typer.Option(help="How long an interrupted upload is kept for its resume.", rich_help_panel="Times")
    ] = "10m",
    retention: Annotated[
        str,
        typer.Option(
            help="How long the payload of a failed, cancelled or expired task is kept for a retry.",
            rich_help_panel="Times",
        ),
    ] = "24h",
    history: Annotated[
        str,
        typer.Option(
            help="How long finished tasks and their request ids are remembered; 7d or more keeps the promise of the contract.",
            rich_help_panel="Times",
        ),
    ] = "7d",
    run_timeout: Annotated[
        str, typer.Option(help="Longest attempt, unless the task says otherwise.", rich_help_panel="Times")
    ] = "1h",
    expire_after: Annotated[
        str, typer.Option(help="How long a task may wait, unless it says otherwise.", rich_help_panel="Times")
    ] = "7d",
    share_spool: Annotated[
        bool,
        typer.Option(
            "--share-spool/--no-share-spool",
            help="Workers on this machine read payloads in place.",
            rich_help_panel="Process",
        ),
    ] = True,
    malloc_tuning: Annotated[
        bool,
        typer.Option(
            "--malloc-tuning/--no-malloc-tuning",
            help="Set glibc's allocator up for large messages; this process only.",
            rich_help_panel="Process",
        ),
    ] = True,
    log_format: Annotated[
        logs.LogFormat, typer.Option(help="auto: text on a terminal, else JSON lines.", rich_help_panel="Process")
    ] = "auto",
    log_level: Annotated[
        logs.LogLevel, typer.Option(help="The least that is logged.", rich_help_panel="Process")
    ] = "info",
    config: Annotated[
        Path | None,
        typer.Option(
            callback=_load_config,
            is_eager=True,
            help="A TOML file with any of these options. The command line wins over the environment, and that over the file.",
            rich_help_panel="Process",
        ),
    ] = None,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, allow_from_autoenv=False, help="Print the version."
        ),
    ] = False,
) -> None:
    del config, show_version
    try:
        settings = Settings(
            data_dir=(data_dir or default_data_dir()).absolute(),
            listen=listen,
            database=database,
            spool=spool,
            attempt_limit=attempt_limit,
            limits=Limits(
                queue_tasks=queue_limit,
                caller_tasks=caller_limit,
                uploads=upload_limit,
                caller_uploads=caller_upload_limit,
                spool_bytes=parse_size("--spool-limit", spool_limit),
                disk_reserve=parse_size("--disk-reserve", disk_reserve),
                instance_tasks=instance_limit,
                target_tasks=target_limit,
            ),
            times=Times(
                lease=parse_duration("--lease", lease, least=1.0),
                cancel_grace=parse_duration("--cancel-grace", cancel_grace),
                drain_grace=parse_duration("--drain-grace", drain_grace),
                upload_idle=parse_duration("--upload-idle", upload_idle, least=1.0),
                retention=parse_duration("--retention", retention),
                history=parse_duration("--history", history),
                run_timeout=parse_duration("--run-timeout", run_timeout, least=1.0),
                expire_after=parse_duration("--expire-after", expire_after, least=1.0),
            ),
            log_format=log_format,
            log_level=log_level,
            tune_malloc=malloc_tuning,
            share_spool=share_spool,
            worker=worker or bool(target),
            worker_targets=tuple(target or ()),
            worker_concurrency=worker_concurrency,
        )
        whole = _run(settings)
    except (SettingsError, DataDirError, SchemaMismatch) as error:
        typer.echo(f"longshored: {error}", err=True)
        raise typer.Exit(EXIT_REFUSED) from None
    except LongshoreError as error:
        typer.echo(f"longshored: {error.message}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
    if not whole:
        raise typer.Exit(EXIT_FAILED)


def _run(settings: Settings) -> bool:
    """Serve; answers whether it ended because it was told to."""
    logs.configure(style=settings.log_format, level=settings.log_level)
    if settings.tune_malloc:
        tuning.tune_malloc()
    raise_limit()
    with DataDir(settings.data_dir) as data:
        try:
            import uvloop
        except ImportError:
            return asyncio.run(_serve(settings, data))
        else:
            return uvloop.run(_serve(settings, data))


async def _serve(settings: Settings, data: DataDir) -> bool:
    """Until SIGTERM or SIGINT (True); a second one ends the drain at once. False: the engine failed."""
    loop = asyncio.get_running_loop()
    leave = asyncio.Event()
    first = 0.0

    def on_signal() -> None:
        nonlocal first
        if not leave.is_set():
            first = loop.time()
            leave.set()
        elif loop.time() - first > _SAME_SIGNAL:
            _log.warning("stopped_at_once")
            os._exit(1)

    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, on_signal)
    async with serving(settings, data) as running:
        tuning.tune_collector()
        if sys.stderr.isatty():
            typer.echo(
                f"Listening on {running.address}. Data in {running.data_dir}. Ctrl-C drains and stops.", err=True
            )
        told = asyncio.create_task(leave.wait())
        await asyncio.wait({told, running.engine}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
    return leave.is_set()


def main() -> None:
    """Entry point of the console script."""
    _app()


if __name__ == "__main__":
    main()
