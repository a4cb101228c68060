"""The options of `longshored`, each as `main` declares it. `settings` says what they mean, and their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from longshore.program import streams
from longshore.server import logs, version
from longshore.server.cli import config
from longshore.server.config.settings import DEFAULT_LISTEN

MOST: Final = 1_000_000_000
"""The largest number that an option for a count takes."""


def _version(wanted: bool) -> None:
    if wanted:
        streams.say(f"longshored {version.VERSION}")
        raise typer.Exit


DataDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="Where everything is kept. (default: ~/.local/share/longshore; /var/lib/longshore for root where it exists)",
        show_default=False,
    ),
]
Listen: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help=f"HOST:PORT, or unix:PATH. Repeatable. Other machines are let in with TLS only; port 0 takes a free one. (default: {DEFAULT_LISTEN})",
        show_default=False,
    ),
]
TlsCert: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="Certificate chain (PEM) of every listener but unix sockets; read again when it changes.",
        show_default=False,
        rich_help_panel="Access",
    ),
]
TlsKey: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="The private key of --tls-cert (PEM).", show_default=False, rich_help_panel="Access"),
]
TlsClientCa: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="Certificates (PEM) of the authorities whose signature every client's certificate must have.",
        show_default=False,
        rich_help_panel="Access",
    ),
]
ClientRole: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME=ROLE[,ROLE]: what a client certificate with this name (URI or DNS) may do: submit, work, operate. Repeatable.",
        show_default=False,
        rich_help_panel="Access",
    ),
]
Database: TypeAlias = Annotated[
    str,
    typer.Option(
        help="sqlite:///PATH, or postgresql://USER@HOST/DATABASE for several servers. (default: longshore.db in the data directory)",
        show_default=False,
    ),
]
Spool: TypeAlias = Annotated[
    str,
    typer.Option(
        help="file:///PATH, or s3://BUCKET/PREFIX?region=…&endpoint=…. (default: spool/ in the data directory)",
        show_default=False,
    ),
]
Advertise: TypeAlias = Annotated[
    str,
    typer.Option(
        help="HOST:PORT or unix:PATH where workers reach this very server, past any balancer; used where several servers share a database. (default: where it listens)",
        show_default=False,
    ),
]
Worker: TypeAlias = Annotated[
    bool, typer.Option("--worker/--no-worker", help="Run a worker as a child process.", rich_help_panel="Worker")
]
Target: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help="For the child: NAME=lxd:SOCKET, NAME=https://..., NAME=directory:PATH. Repeatable. (default: default=directory:DATA_DIR/instances)",
        show_default=False,
        rich_help_panel="Worker",
    ),
]
WorkerConcurrency: TypeAlias = Annotated[
    int, typer.Option(min=1, max=1000, help="Attempts the child runs at once.", rich_help_panel="Worker")
]
QueueLimit: TypeAlias = Annotated[
    int, typer.Option(min=1, max=MOST, help="Live tasks in one queue.", rich_help_panel="Limits")
]
CallerLimit: TypeAlias = Annotated[
    int,
    typer.Option(min=0, max=MOST, help="Live tasks of one caller; 0: no limit of its own.", rich_help_panel="Limits"),
]
UploadLimit: TypeAlias = Annotated[
    int, typer.Option(min=1, max=MOST, help="Uploads at once.", rich_help_panel="Limits")
]
CallerUploadLimit: TypeAlias = Annotated[
    int,
    typer.Option(
        min=0, max=MOST, help="Uploads at once of one caller; 0: no limit of its own.", rich_help_panel="Limits"
    ),
]
SpoolLimit: TypeAlias = Annotated[
    str, typer.Option(help="Bytes of payloads, such as 500GiB; 0: what the disk has.", rich_help_panel="Limits")
]
DiskReserve: TypeAlias = Annotated[
    str,
    typer.Option(
        help="Bytes of the disk that payloads never take, so that the database can commit.",
        rich_help_panel="Limits",
    ),
]
InstanceLimit: TypeAlias = Annotated[
    int, typer.Option(min=1, max=MOST, help="Tasks that run at once on one instance.", rich_help_panel="Limits")
]
TargetLimit: TypeAlias = Annotated[
    int, typer.Option(min=1, max=MOST, help="Tasks that run at once on one target.", rich_help_panel="Limits")
]
AttemptLimit: TypeAlias = Annotated[
    int,
    typer.Option(
        min=1,
        max=100,
        help="Tries before a transient error is final, unless the task says otherwise.",
        rich_help_panel="Limits",
    ),
]
Lease: TypeAlias = Annotated[
    str, typer.Option(help="How long a silent worker is believed alive.", rich_help_panel="Times")
]
CancelGrace: TypeAlias = Annotated[
    str, typer.Option(help="How long a worker has to stop a cancelled attempt.", rich_help_panel="Times")
]
DrainGrace: TypeAlias = Annotated[
    str, typer.Option(help="How long uploads may go on after SIGTERM.", rich_help_panel="Times")
]
UploadIdle: TypeAlias = Annotated[
    str, typer.Option(help="How long an interrupted upload is kept for its resume.", rich_help_panel="Times")
]
Retention: TypeAlias = Annotated[
    str,
    typer.Option(
        help="How long the payload of a failed, cancelled or expired task is kept for a retry.",
        rich_help_panel="Times",
    ),
]
History: TypeAlias = Annotated[
    str,
    typer.Option(
        help="How long finished tasks and their request ids are remembered; 7d or more keeps the promise of the contract.",
        rich_help_panel="Times",
    ),
]
RunTimeout: TypeAlias = Annotated[
    str, typer.Option(help="Longest attempt, unless the task says otherwise.", rich_help_panel="Times")
]
ExpireAfter: TypeAlias = Annotated[
    str, typer.Option(help="How long a task may wait, unless it says otherwise.", rich_help_panel="Times")
]
ShareSpool: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--share-spool/--no-share-spool",
        help="Workers on this machine read payloads in place.",
        rich_help_panel="Process",
    ),
]
MallocTuning: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--malloc-tuning/--no-malloc-tuning",
        help="Set glibc's allocator up for large messages; this process only.",
        rich_help_panel="Process",
    ),
]
LogFormat: TypeAlias = Annotated[
    logs.LogFormat, typer.Option(help="auto: text on a terminal, else JSON lines.", rich_help_panel="Process")
]
LogLevel: TypeAlias = Annotated[
    logs.LogLevel,
    typer.Option(
        help="Log records of this level and above. info has one line at the end of each task, debug one for each step.",
        rich_help_panel="Process",
    ),
]
Quiet: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Log warnings and errors only, as --log-level warning does.", rich_help_panel="Process"
    ),
]
Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        callback=config.load,
        is_eager=True,
        help="A TOML file with any of these options. The command line wins over the environment, and that over the file.",
        rich_help_panel="Process",
    ),
]
ShowVersion: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--version", callback=_version, is_eager=True, allow_from_autoenv=False, help="Print the version and exit."
    ),
]
