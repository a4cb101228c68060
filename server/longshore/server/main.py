"""The `longshored` command: with its options alone it serves; commands of its own come after them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Final

import structlog
import typer

import longshore.program.quiet  # noqa: F401 - first of all, see there
from longshore.program import environment, signals, streams, usage
from longshore.server import logs
from longshore.server.app import serving
from longshore.server.cli import backup, migrate, options, token
from longshore.server.cli.exits import EXIT_FAILED, refusals
from longshore.server.config.settings import DEFAULT_LISTEN, DatabaseURL, Limits, Settings, SettingsError, Times
from longshore.server.config.values import parse_client_roles, parse_duration, parse_size, parse_tls
from longshore.server.data.datadir import DataDir
from longshore.server.process import malloc
from longshore.server.process.openfiles import raise_limit

_SAME_SIGNAL: Final = 1.0
"""Seconds within which a second signal is the first one's echo: some supervisors signal a process and its group."""
_LIMITS: Final = Limits()

_log = structlog.get_logger("longshore.server")
_app = typer.Typer(
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"auto_envvar_prefix": "LONGSHORE", "help_option_names": ["-h", "--help"]},
)
# Commands besides serving. Each gets the Settings made of the options before its name, as `context.obj`.
migrate.register(_app)
backup.register(_app)
token.register(_app)


def default_data_dir() -> Path:
    """$LONGSHORE_DATA_DIR, else /var/lib/longshore for root if it is there, else longshore/ in the user's data folder."""
    if chosen := os.environ.get("LONGSHORE_DATA_DIR"):
        return Path(chosen)
    system = Path("/var/lib/longshore")
    if os.geteuid() == 0 and system.is_dir():
        return system
    if share := os.environ.get("XDG_DATA_HOME"):
        return Path(share) / "longshore"
    try:
        return Path.home() / ".local/share/longshore"
    except RuntimeError:
        raise SettingsError(
            "--data-dir: this user has no home directory. Name a directory for the data, or set LONGSHORE_DATA_DIR."
        ) from None


@_app.callback(
    invoke_without_command=True,
    help="Accept uploads, keep them, and dispatch them to workers. With no options: SQLite and a spool in the data directory, loopback, a generated token.",
)
def _longshored(
    context: typer.Context,
    data_dir: options.DataDir = None,
    listen: options.Listen = None,
    database: options.Database = "",
    spool: options.Spool = "",
    advertise: options.Advertise = "",
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_client_ca: options.TlsClientCa = None,
    client_role: options.ClientRole = None,
    worker: options.Worker = False,
    target: options.Target = None,
    worker_concurrency: options.WorkerConcurrency = 8,
    queue_limit: options.QueueLimit = _LIMITS.queue_tasks,
    caller_limit: options.CallerLimit = 0,
    upload_limit: options.UploadLimit = _LIMITS.uploads,
    caller_upload_limit: options.CallerUploadLimit = 0,
    spool_limit: options.SpoolLimit = "0",
    disk_reserve: options.DiskReserve = "256MiB",
    instance_limit: options.InstanceLimit = _LIMITS.instance_tasks,
    target_limit: options.TargetLimit = _LIMITS.target_tasks,
    attempt_limit: options.AttemptLimit = 5,
    lease: options.Lease = "6s",
    cancel_grace: options.CancelGrace = "30s",
    drain_grace: options.DrainGrace = "20s",
    upload_idle: options.UploadIdle = "10m",
    retention: options.Retention = "24h",
    history: options.History = "7d",
    run_timeout: options.RunTimeout = "1h",
    expire_after: options.ExpireAfter = "7d",
    share_spool: options.ShareSpool = True,
    malloc_tuning: options.MallocTuning = True,
    log_format: options.LogFormat = "auto",
    log_level: options.LogLevel = "info",
    quiet: options.Quiet = False,
    config: options.Config = None,
    show_version: options.ShowVersion = False,
) -> None:
    del config, show_version
    # Names for the options of commands would be made by machine: LONGSHORE_TOKEN_CREATE_ROLE.
    context.auto_envvar_prefix = None
    with refusals():
        settings = Settings(
            data_dir=_absolute("--data-dir", data_dir or default_data_dir()),
            listen=tuple(listen or (DEFAULT_LISTEN,)),
            tls=parse_tls(tls_cert, tls_key, tls_client_ca),
            client_roles=parse_client_roles(client_role or (), client_ca=tls_client_ca is not None),
            database=DatabaseURL(database),
            spool=spool,
            advertise=advertise,
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
            log_level="warning" if quiet and log_level == "info" else log_level,
            tune_malloc=malloc_tuning,
            share_spool=share_spool,
            worker=worker or bool(target),
            worker_targets=tuple(target or ()),
            worker_concurrency=worker_concurrency,
        )
        context.obj = settings
        if context.invoked_subcommand is not None:
            for each in environment.unknown(os.environ):
                streams.say(f"longshored: {each}", err=True)
        if context.invoked_subcommand is None and not _run(settings):
            raise typer.Exit(EXIT_FAILED)


def _absolute(option: str, path: Path) -> Path:
    try:
        return path.absolute()
    except OSError as error:
        raise SettingsError(f"{option} {path}: the current directory is gone: {error.strerror}.") from None


def _run(settings: Settings) -> bool:
    """Serve; answers whether it ended because it was told to."""
    signals.prepare()
    logs.configure(style=settings.log_format, level=settings.log_level)
    for each in environment.unknown(os.environ):
        _log.warning("unknown_environment_name", name=each.name, nearest=each.nearest or None)
    if settings.tune_malloc:
        malloc.tune_malloc()
    raise_limit()
    with DataDir(settings.data_dir) as data:
        try:
            import uvloop
        except ImportError:
            return asyncio.run(_serve(settings, data))
        else:
            return uvloop.run(_serve(settings, data))


async def _serve(settings: Settings, data: DataDir) -> bool:
    """Serve until SIGTERM or SIGINT, and answer True; a second one ends the drain at once. False means that the engine
    failed."""
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
        malloc.tune_collector()
        reloads: set[asyncio.Task[None]] = set()

        def reload() -> None:
            _log.info("reloading")
            reloads.add(task := asyncio.create_task(running.reload(), name="reload"))
            task.add_done_callback(reloads.discard)

        def tell(state: dict[str, object]) -> None:
            _log.warning("process_state", **state)

        signals.listen(reload=reload, leave=on_signal, tell=tell)
        if sys.stderr.isatty() and settings.log_level in ("warning", "error"):
            # Otherwise the log says it.
            streams.say(f"listening on {', '.join(running.addresses)}; data in {running.data_dir}", err=True)
        told = asyncio.create_task(leave.wait())
        await asyncio.wait({told, running.engine}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
    return leave.is_set()


def main() -> None:
    """Entry point of the program."""
    streams.prepare()
    usage.run("longshored", _app)


if __name__ == "__main__":
    main()
