"""The options of `longshored`, each as `main` declares it. `settings` says what they mean, and their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from longshore.program import logs, streams
from longshore.server import version
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
        help="Directory that keeps the database, the spool, the token and the identity. (default: ~/.local/share/longshore; /var/lib/longshore for root if it exists)",
        show_default=False,
    ),
]
Listen: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Address to listen at: HOST:PORT, or unix:PATH. Repeatable. Other machines need TLS; port 0 takes a free port. (default: {DEFAULT_LISTEN})",
        show_default=False,
    ),
]
TlsCert: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="Certificate chain (PEM) for every listener except unix sockets. The server reads the file again when it changes.",
        show_default=False,
        rich_help_panel="Access",
    ),
]
TlsKey: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Private key (PEM) of --tls-cert.", show_default=False, rich_help_panel="Access"),
]
TlsClientCa: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="Certificates (PEM) of the authorities that must have signed every client's certificate.",
        show_default=False,
        rich_help_panel="Access",
    ),
]
ClientRole: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help="Roles of a client certificate, by its name (URI or DNS), as NAME=ROLE[,ROLE]. The roles are submit, work and operate. Repeatable.",
        show_default=False,
        rich_help_panel="Access",
    ),
]
Database: TypeAlias = Annotated[
    str,
    typer.Option(
        help="Database that keeps the tasks: sqlite:///PATH, or postgresql://USER@HOST/DATABASE for several servers. (default: longshore.db in the data directory)",
        show_default=False,
    ),
]
Spool: TypeAlias = Annotated[
    str,
    typer.Option(
        help="Spool that keeps the payloads: file:///PATH, or s3://BUCKET/PREFIX?region=…&endpoint=…. (default: spool/ in the data directory)",
        show_default=False,
    ),
]
Advertise: TypeAlias = Annotated[
    str,
    typer.Option(
        help="Address at which workers reach this server itself, not a load balancer: HOST:PORT or unix:PATH. Needed only when several servers share a database. (default: the --listen address)",
        show_default=False,
    ),
]
Worker: TypeAlias = Annotated[
    bool, typer.Option("--worker/--no-worker", help="Run a worker as a child process.", rich_help_panel="Worker")
]
Target: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        help="Target of the child: NAME=lxd:SOCKET, NAME=https://..., NAME=directory:PATH. Repeatable. (default: default=directory:DATA_DIR/instances)",
        show_default=False,
        rich_help_panel="Worker",
    ),
]
WorkerConcurrency: TypeAlias = Annotated[
    int, typer.Option(min=1, max=1000, help="Number of attempts that the child runs at once.", rich_help_panel="Worker")
]
QueueLimit: TypeAlias = Annotated[
    int, typer.Option(min=1, max=MOST, help="Largest number of live tasks in one queue.", rich_help_panel="Limits")
]
CallerLimit: TypeAlias = Annotated[
    int,
    typer.Option(
        min=0,
        max=MOST,
        help="Largest number of live tasks of one caller; 0 means no limit per caller.",
        rich_help_panel="Limits",
    ),
]
UploadLimit: TypeAlias = Annotated[
    int, typer.Option(min=1, max=MOST, help="Largest number of unfinished uploads.", rich_help_panel="Limits")
]
CallerUploadLimit: TypeAlias = Annotated[
    int,
    typer.Option(
        min=0,
        max=MOST,
        help="Largest number of unfinished uploads of one caller; 0 means no limit per caller.",
        rich_help_panel="Limits",
    ),
]
SpoolLimit: TypeAlias = Annotated[
    str,
    typer.Option(
        help="Largest size of all payloads, such as 500GiB; 0 means the whole disk.", rich_help_panel="Limits"
    ),
]
DiskReserve: TypeAlias = Annotated[
    str,
    typer.Option(
        help="Free disk space that payloads never use, so that the database can commit.",
        rich_help_panel="Limits",
    ),
]
InstanceLimit: TypeAlias = Annotated[
    int,
    typer.Option(
        min=1, max=MOST, help="Largest number of tasks that run at once on one instance.", rich_help_panel="Limits"
    ),
]
TargetLimit: TypeAlias = Annotated[
    int,
    typer.Option(
        min=1, max=MOST, help="Largest number of tasks that run at once on one target.", rich_help_panel="Limits"
    ),
]
AttemptLimit: TypeAlias = Annotated[
    int,
    typer.Option(
        min=1,
        max=100,
        help="Number of tries before a transient error is final. A task can set its own.",
        rich_help_panel="Limits",
    ),
]
Lease: TypeAlias = Annotated[
    str, typer.Option(help="Time after which a silent worker counts as lost.", rich_help_panel="Times")
]
CancelGrace: TypeAlias = Annotated[
    str, typer.Option(help="Time that a worker has to stop a cancelled attempt.", rich_help_panel="Times")
]
DrainGrace: TypeAlias = Annotated[
    str, typer.Option(help="Time that running uploads have to finish after SIGTERM.", rich_help_panel="Times")
]
UploadIdle: TypeAlias = Annotated[
    str,
    typer.Option(help="Time for which the server keeps an interrupted upload for its resume.", rich_help_panel="Times"),
]
Retention: TypeAlias = Annotated[
    str,
    typer.Option(
        help="Time for which the server keeps the payload of a failed, cancelled or expired task for a retry.",
        rich_help_panel="Times",
    ),
]
History: TypeAlias = Annotated[
    str,
    typer.Option(
        help="Time for which the server remembers finished tasks and their request ids. The contract promises 7d.",
        rich_help_panel="Times",
    ),
]
RunTimeout: TypeAlias = Annotated[
    str, typer.Option(help="Longest run of one attempt. A task can set its own.", rich_help_panel="Times")
]
ExpireAfter: TypeAlias = Annotated[
    str, typer.Option(help="Longest wait of a task before it expires. A task can set its own.", rich_help_panel="Times")
]
ShareSpool: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--share-spool/--no-share-spool",
        help="Let workers on this machine read payloads directly from the spool.",
        rich_help_panel="Process",
    ),
]
MallocTuning: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--malloc-tuning/--no-malloc-tuning",
        help="Tune glibc's allocator of this process for large messages.",
        rich_help_panel="Process",
    ),
]
LogFormat: TypeAlias = Annotated[
    logs.LogFormat,
    typer.Option(
        help="Format of the log. auto writes text on a terminal, and JSON lines elsewhere.", rich_help_panel="Process"
    ),
]
LogLevel: TypeAlias = Annotated[
    logs.LogLevel,
    typer.Option(
        help="Lowest level of the records that are logged. info logs one line at the end of each task, debug one for each step.",
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
        help="TOML file with any of these options. The command line overrides the environment, which overrides the file.",
        rich_help_panel="Process",
    ),
]
ShowVersion: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--version", callback=_version, is_eager=True, allow_from_autoenv=False, help="Print the version and exit."
    ),
]
