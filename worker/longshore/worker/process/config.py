"""Settings of a worker process."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from longshore.client.errors import ConfigurationError
from longshore.client.servers.endpoint import default_data_dir
from longshore.client.servers.tls import TLS
from longshore.contract.names import worker_name, wrong_worker
from longshore.worker.targets import LxdSpec, SpecError, TargetSpec, parse_target

_MOST_THREADS: Final = 1024


class ConfigError(ValueError):
    """A setting cannot be used. The message names the option and says what to write instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Everything that may be set; durations in seconds."""

    server: str | Sequence[str] | None = None
    """A server's address is HOST:PORT or unix:PATH; several stand with commas between them, or in a sequence. None
    means $LONGSHORE_SERVER, else 127.0.0.1:7465."""
    tls: TLS | None = None
    """These settings say which certificates of servers are trusted, and which one servers are shown. None means
    $LONGSHORE_TLS and its like, else no TLS on this machine, and the system's roots for servers elsewhere."""
    rehome: float = 300.0
    """A worker that knows several servers moves after about so long to one of them, chosen by chance, so that a fleet
    spreads over servers that came back. 0 means that it never moves."""
    targets: tuple[str, ...] = ()
    """Each target is spelled as `--target` takes it; see `longshore.worker.targets.spec`."""
    concurrency: int = 8
    """Attempts at once, 1 to 1024."""
    name: str = ""
    """The name tells people which worker this is, and lets the worker know its own dead predecessor. An empty name
    means the host's."""
    data_dir: Path | None = None
    """The worker looks here for the token of a server on this machine. None means $LONGSHORE_DATA_DIR, else the user's
    own folder."""
    token: str | None = None
    token_file: Path | None = None
    state_dir: Path | None = None
    """This folder has the locks of this user's workers. None means the folder that `state_dir` finds."""
    temp_dir: Path | None = None
    """Payloads are downloaded into this folder for handlers that want a path. None means $TMPDIR, else /var/tmp."""
    allow_files_api: bool = False
    """Deliver through the files API where a daemon has no SFTP: neither atomic nor fenced."""
    grace: float = 30.0
    """Running attempts may go on for so long after SIGTERM."""
    stop_grace: float = 10.0
    """A handler may take so long to end after it was told to."""
    max_wedged: int | None = None
    """So many handlers may hang before the worker leaves. None means half of the concurrency, at least 1."""

    def checked(self) -> WorkerConfig:
        """Check the settings, and return them with their gaps filled. Raises ConfigError."""
        if not 1 <= self.concurrency <= _MOST_THREADS:
            raise ConfigError(f"--concurrency {self.concurrency}: use 1 to {_MOST_THREADS}")
        for option, value in (("--grace", self.grace), ("--stop-grace", self.stop_grace), ("--rehome", self.rehome)):
            if not 0 <= value <= 86400:
                raise ConfigError(f"{option} {value:g}: use 0 to 86400 seconds")
        if self.max_wedged is not None and self.max_wedged < 0:
            raise ConfigError(f"--max-wedged {self.max_wedged}: use 0 or more")
        name = self.name or default_name()
        if wrong := wrong_worker(name):
            raise ConfigError(f"--name {name!r}: {wrong}")
        wedged = max(1, self.concurrency // 2) if self.max_wedged is None else self.max_wedged
        return replace(self, name=name, max_wedged=wedged)

    def target_specs(self) -> tuple[TargetSpec, ...]:
        """Parse the targets. Raises ConfigError."""
        specs: dict[str, TargetSpec] = {}
        for text in self.targets:
            try:
                spec = parse_target(text)
            except SpecError as error:
                raise ConfigError(str(error)) from error
            if spec.name in specs:
                raise ConfigError(f"--target {text!r}: there is a target {spec.name!r} already; names are unique")
            if self.allow_files_api and isinstance(spec, LxdSpec):
                spec = replace(spec, allow_files_api=True)
            specs[spec.name] = spec
        return tuple(specs.values())


def default_name() -> str:
    """Return the host's name in the form of a worker's name."""
    return worker_name(socket.gethostname())


def state_dir(config: WorkerConfig, *, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder in which this user's workers keep their locks: on this machine, and not shared with others.

    $STATE_DIRECTORY is what systemd gives a unit; $XDG_RUNTIME_DIR a login session. Raises ConfigError.
    """
    if config.state_dir is not None:
        return config.state_dir
    if given := environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    if given := environ.get("XDG_RUNTIME_DIR"):
        return Path(given) / "longshore-worker"
    try:
        return (config.data_dir or default_data_dir(environ=environ)) / "workers"
    except ConfigurationError:
        raise ConfigError("--state-dir: this user has no home directory; name a folder that it may write") from None


def temp_dir(config: WorkerConfig, *, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for downloaded payloads. The default is not /tmp, which often is memory."""
    return config.temp_dir or Path(environ.get("TMPDIR") or "/var/tmp")
