"""`longshore-worker`: the command line of a worker process."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Final, NoReturn, cast

import structlog
import typer

from longshore.client.errors import LongshoreError
from longshore.client.servers.tls import find_tls
from longshore.program import environment, signals, streams, usage
from longshore.program.durations import parse_duration
from longshore.program.logs import LEVELS, LogFormat, LogLevel
from longshore.worker.attempts.handlers import Registry
from longshore.worker.process import log
from longshore.worker.process.config import ConfigError, WorkerConfig, default_name
from longshore.worker.process.service import Exit, Worker

_log: Final = structlog.stdlib.get_logger("longshore.worker")

app: Final = typer.Typer(
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _env(name: str, *others: str) -> list[str]:
    return [f"LONGSHORE_WORKER_{name}", *others]


@app.command()
def serve(
    server: Annotated[
        str | None,
        typer.Option(
            envvar=_env("SERVER", "LONGSHORE_SERVER"),
            metavar="HOST:PORT|unix:PATH[,…]",
            help="Address of the server, several with commas, or a name with several addresses. [127.0.0.1:7465]",
        ),
    ] = None,
    tls: Annotated[
        bool,
        typer.Option(
            "--tls",
            envvar=_env("TLS", "LONGSHORE_TLS"),
            help="Use TLS on loopback addresses too. Other addresses always use it.",
        ),
    ] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            envvar=_env("TLS_CA", "LONGSHORE_TLS_CA"),
            help="Certificate authority of the servers. [those that this system trusts]",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            envvar=_env("TLS_CERT", "LONGSHORE_TLS_CERT"),
            help="Certificate of this worker, for servers that ask for one.",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(envvar=_env("TLS_KEY", "LONGSHORE_TLS_KEY"), help="Private key (PEM) of --tls-cert."),
    ] = None,
    tls_server_name: Annotated[
        str,
        typer.Option(
            envvar=_env("TLS_SERVER_NAME", "LONGSHORE_TLS_SERVER_NAME"),
            help="Name that the servers' certificates must have. [the name in the address]",
        ),
    ] = "",
    rehome: Annotated[
        str,
        typer.Option(
            envvar=_env("REHOME"),
            metavar="DURATION",
            help="Time after which the worker may choose another of several servers. 0 means never.",
        ),
    ] = "5m",
    target: Annotated[
        list[str] | None,
        typer.Option(
            envvar=_env("TARGET", "LONGSHORE_TARGET"),
            metavar="NAME=WHERE",
            help="Target: NAME=lxd:SOCKET, NAME=incus:SOCKET, NAME=https://HOST:PORT?cert=FILE&key=FILE or "
            "NAME=directory:PATH. Repeatable; in the environment, separated by spaces.",
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(envvar=_env("CONCURRENCY"), help="Number of attempts to run at once, 1 to 1024.")
    ] = 8,
    name: Annotated[
        str, typer.Option(envvar=_env("NAME"), help="Name of the worker in lists, logs and tasks. [the host's name]")
    ] = "",
    handlers: Annotated[
        str,
        typer.Option(
            envvar=_env("HANDLERS"),
            metavar="MODULE:REGISTRY",
            help="Registry of your own handlers, in a Python module.",
        ),
    ] = "",
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar=_env("DATA_DIR", "LONGSHORE_DATA_DIR"),
            help="Data directory of the server, to read the token from it.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar=_env("TOKEN_FILE", "LONGSHORE_TOKEN_FILE"),
            help="File to read the token from, instead of the one in --data-dir.",
        ),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            envvar=_env("STATE_DIR"),
            help="Directory for the locks of this user's workers. [$XDG_RUNTIME_DIR or the data dir]",
        ),
    ] = None,
    temp_dir: Annotated[
        Path | None,
        typer.Option(envvar=_env("TEMP_DIR"), help="Directory for downloaded payloads. [$TMPDIR or /var/tmp]"),
    ] = None,
    allow_files_api: Annotated[
        bool,
        typer.Option(
            "--allow-files-api",
            envvar=_env("ALLOW_FILES_API"),
            help="Deliver by the files API if a daemon has no SFTP: not atomic, and no cancel stops it.",
        ),
    ] = False,
    grace: Annotated[
        str,
        typer.Option(
            envvar=_env("GRACE"), metavar="DURATION", help="Time that running attempts have to finish after SIGTERM."
        ),
    ] = "30s",
    stop_grace: Annotated[
        str,
        typer.Option(
            envvar=_env("STOP_GRACE"),
            metavar="DURATION",
            help="Time that a handler has to end after it was told to stop.",
        ),
    ] = "10s",
    max_wedged: Annotated[
        int | None,
        typer.Option(
            envvar=_env("MAX_WEDGED"),
            help=f"Hanging handlers above which the worker exits with code {Exit.WORN_OUT:d}. [half of --concurrency]",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            envvar=_env("LOG_FORMAT"), help="Format of the log. auto writes text on a terminal, and JSON elsewhere."
        ),
    ] = "auto",
    log_level: Annotated[
        str,
        typer.Option(
            envvar=_env("LOG_LEVEL"), help="Lowest level of the records that are logged: debug, info, warning or error."
        ),
    ] = "info",
    parent_pid: Annotated[
        int | None, typer.Option(hidden=True, help="End when this process, our parent, does.")
    ] = None,
) -> None:
    """Run tasks for a Longshore server until SIGTERM.

    The environment can set every option: LONGSHORE_WORKER_GRACE sets --grace.

    Exit codes: 0 stopped, 1 refused by the server, 2 a wrong setting, 75 too many handlers hang: start it again.
    """
    if log_level not in LEVELS:
        _refuse(f"--log-level {log_level!r}: use {', '.join(LEVELS)}")
    beside = parent_pid is not None
    log.configure(worker=name or default_name(), style=log_format, level=cast("LogLevel", log_level), beside=beside)
    signals.prepare()
    for each in environment.unknown(os.environ) if not beside else ():
        _log.warning("unknown_environment_name", name=each.name, nearest=each.nearest or None)
    try:
        settings = WorkerConfig(
            server=server,
            tls=find_tls(tls=tls, ca=tls_ca, cert=tls_cert, key=tls_key, server_name=tls_server_name, environ={}),
            rehome=_seconds("--rehome", rehome),
            targets=tuple(target or ()),
            concurrency=concurrency,
            name=name,
            data_dir=data_dir,
            token_file=token_file,
            state_dir=state_dir,
            temp_dir=temp_dir,
            allow_files_api=allow_files_api,
            grace=_seconds("--grace", grace),
            stop_grace=_seconds("--stop-grace", stop_grace),
            max_wedged=max_wedged,
        )
        worker = Worker(load(handlers) if handlers else None, settings)
    except (ConfigError, LongshoreError) as error:
        _refuse(str(error))
    if not worker.kinds:
        _refuse("nothing to do: give --target NAME=WHERE, or --handlers MODULE:REGISTRY")
    try:
        ended = _run(worker, parent_pid)
    except LongshoreError as error:
        message = f"the server at {server or 'the default address'} refused this worker: {error}"
        _log.error("worker_refused", message=message)
        raise typer.Exit(Exit.REFUSED) from None
    except ConfigError as error:
        _refuse(str(error))
    sys.stderr.flush()
    if worker.statistics().get("wedged"):
        # A hanging thread cannot be joined, and Python would wait for it.
        os._exit(ended)
    raise typer.Exit(ended)


def _seconds(option: str, text: str) -> float:
    """Return the seconds of a duration; a bare number counts seconds. Raises ConfigError."""
    try:
        return parse_duration(text, bare=True)
    except ValueError as error:
        raise ConfigError(f"{option} {text[:80]}: {error}") from None


def load(where: str) -> Registry:
    """Import the registry at MODULE:NAME. Raises ConfigError."""
    module, colon, name = where.partition(":")
    if not colon or not module or not name:
        raise ConfigError(f"--handlers {where!r}: write MODULE:REGISTRY, as in myteam.jobs:registry")
    if "" not in sys.path:
        sys.path.insert(0, "")  # As `python -m` does: a module in the current folder is found.
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"--handlers {where!r}: {error}; is it installed, or in the current folder?") from error
    registry = getattr(found, name, None)
    if not isinstance(registry, Registry):
        raise ConfigError(f"--handlers {where!r}: {module} has no Registry named {name!r}")
    return registry


def _run(worker: Worker, parent_pid: int | None) -> Exit:
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(worker.run_here(parent_pid=parent_pid))


def _refuse(message: str) -> NoReturn:
    """Refuse to start, in prose as `longshored` does: the log may be JSON, and nothing runs yet that it would tell
    of."""
    streams.say(f"longshore-worker: {message}", err=True)
    raise typer.Exit(Exit.SETTINGS)


def main() -> None:
    """Entry point of the program."""
    streams.prepare()
    usage.run("longshore-worker", app)


if __name__ == "__main__":
    main()
