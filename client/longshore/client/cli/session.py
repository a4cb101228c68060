"""A session gives every command the server's address, the way to print, and the way to end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from google.protobuf.message import Message
from rich.console import Console, RenderableType
from rich.markup import escape

from longshore.client.aio import TIMEOUT, AsyncClient
from longshore.client.cli.output.console import console
from longshore.client.cli.output.exits import ExitCode, as_json, code_for, explain
from longshore.client.cli.output.jsonform import to_json
from longshore.client.errors import LongshoreError
from longshore.client.servers.endpoint import Endpoint, default_data_dir, parse_servers
from longshore.client.servers.patience import OnWait
from longshore.client.servers.tls import TLS, find_tls
from longshore.program.streams import OutputLost
from longshore.program.visible import visible, visible_json


class Output(StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"
    ID = "id"

    @property
    def quiet(self) -> bool:
        """Programs read, also on standard error: nothing for people there."""
        return self is Output.JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSession:
    """The options that every command takes, and the two streams it prints to."""

    server: str | None
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_server_name: str = ""
    token_file: Path | None = None
    data_dir: Path | None = None
    output: Output = Output.TEXT
    out: Console = field(default_factory=lambda: console(stderr=False))
    err: Console = field(default_factory=lambda: console(stderr=True))
    changes: bool = False
    """The command changes something: what it has to tell is told on standard error if standard output fails."""
    lost: list[OutputLost] = field(default_factory=list)
    """The list has the error with which standard output failed, and is empty while it has not failed."""
    interrupted: list[Callable[[], Iterable[str]]] = field(default_factory=list)
    """Make the lines for when Ctrl-C comes: what goes on nevertheless, and what can be done about it."""

    def client(self, *, patience: float = 0.0, on_wait: OnWait | None = None) -> AsyncClient:
        """Make a client as the options say. A person who reads wants an answer now, so there is no patience by
        default."""
        return AsyncClient(
            server=self.server,
            tls=self._tls(),
            token_file=self.token_file,
            data_dir=self.data_dir,
            timeout=TIMEOUT,
            patience=patience,
            on_wait=on_wait,
        )

    def result(self, message: Message, *, text: Callable[[], RenderableType], identity: str = "") -> None:
        """Print one result on standard output; `text` makes what people see, when it is wanted."""
        match self.output:
            case Output.JSON:
                self.json(message)
            case Output.ID if identity:
                self._write(identity)
            case _:
                self.show(text())

    def show(self, what: RenderableType) -> None:
        """Print something for people on standard output."""
        if self.out.is_terminal and not self.lost:
            try:
                self.out.print(what)
            except OutputLost as lost:
                self._lose(lost)
                self.err.print(what)
            return
        with self.out.capture() as printed:
            self.out.print(what)
        # Tables pad their lines to full width, which only fills logs.
        self._write("\n".join(line.rstrip() for line in printed.get().splitlines()))

    def data(self, line: str) -> None:
        """Print one line that people may pipe on: it is neither folded nor coloured. JSON has it in the message."""
        if self.output is Output.TEXT:
            self._write(visible(line))

    def json(self, message: Message) -> None:
        """Print one line of JSON."""
        self._write(visible_json(to_json(message), ascii_only=not getattr(sys.stdout, "is_utf8", True)))

    def say(self, text: str) -> None:
        """Print something for people on standard error, unless the output is JSON."""
        if not self.output.quiet:
            self.err.print(escape(text), soft_wrap=True)

    def fail(self, error: LongshoreError) -> ExitCode:
        """Print the error on standard error, and return its exit code."""
        code = code_for(error)
        if self.output is Output.JSON:
            sys.stderr.write(visible_json(as_json(error, code), ascii_only=True) + "\n")
            return code
        first, *more = explain(error, server=self._address(), token=self._token(), local=self._local())
        self.err.print(f"[red]longshore:[/] {escape(first)}", soft_wrap=True)
        for line in more:
            self.err.print(f"           {escape(line)}", soft_wrap=True)
        return code

    def _write(self, line: str) -> None:
        # The line does not go through rich, which would wrap it and mark it up.
        if not self.lost:
            try:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
            except OutputLost as lost:
                self._lose(lost)
            else:
                return
        sys.stderr.write(line + "\n")

    def _lose(self, lost: OutputLost) -> None:
        """Print the id of an accepted task on the other stream, so that it is not lost with this one. Raises OutputLost
        where there is nothing to keep."""
        if not self.changes:
            raise lost
        self.lost.append(lost)
        self.say(f"longshore: {lost}; results follow here:")

    def _tls(self) -> TLS | None:
        return find_tls(
            tls=self.tls, ca=self.tls_ca, cert=self.tls_cert, key=self.tls_key, server_name=self.tls_server_name
        )

    def _endpoints(self) -> tuple[Endpoint, ...]:
        try:
            return parse_servers(self.server)
        except LongshoreError:
            return ()

    def _address(self) -> str:
        return ", ".join(map(str, self._endpoints())) or str(self.server)

    def _local(self) -> bool:
        """Return whether every server is on this machine, and is spoken to without TLS."""
        try:
            return self._tls() is None and all(endpoint.is_local for endpoint in self._endpoints())
        except LongshoreError:
            return False

    def _token(self) -> str:
        """Tell people which token the server was shown. The places have the same order as in `find_credential`."""
        if self.token_file is None and self.data_dir is None:
            if os.environ.get("LONGSHORE_TOKEN"):
                return "the token in $LONGSHORE_TOKEN"
            if named := os.environ.get("LONGSHORE_TOKEN_FILE"):
                return f"the token in {named}"
        if self.token_file is None and not all(endpoint.is_local for endpoint in self._endpoints()):
            return "no token (a data directory's is for servers on this machine)"
        try:
            path = self.token_file or (self.data_dir or default_data_dir()) / "token"
        except LongshoreError as error:
            return f"no token ({error.message})"
        return f"the token in {path}" if path.exists() else f"no token (there is no {path})"
