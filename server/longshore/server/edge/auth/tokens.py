"""The tokens that this server knows: those that were shown to it lately, kept up with the database.

A known token costs a call no wait. Those of the database that nobody shows here cost nothing; what nobody made costs
at most one look-up in LOOK_UP seconds, however many callers guess. While the database cannot be asked, known tokens
count for TRUST seconds more, and for the others nobody is told that they are wrong.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Final

import structlog

from longshore.server.edge.auth.principal import Principal
from longshore.server.model.access import Secret, Token
from longshore.server.model.clock import Clock
from longshore.server.model.errors import LongshoreError, StoreUnavailable, Unauthenticated

_log = structlog.get_logger("longshore.auth")

REFRESH: Final = 2.0
"""Seconds between looks at the tokens in use: how late a revocation counts."""
TRUST: Final = 300.0
"""Seconds for which a known token counts while the database cannot be asked."""
IDLE: Final = 300
"""Refreshes after which a token that nobody shows is forgotten."""
LOOK_UP: Final = 0.05
"""Seconds between look-ups of unknown tokens."""
AT_ONCE: Final = 256
"""Unknown tokens in one look-up."""
WAITING: Final = 4096
"""Unknown tokens that may wait for their look-up."""
PATIENCE: Final = 10.0
"""Seconds that a caller waits for the look-up of its token."""
MISSING_FOR: Final = 1.0
"""Seconds for which a token that was not there is not looked up again."""
MISSING: Final = 10_000
"""The most such tokens that are remembered."""

Lookup = Callable[[Sequence[str]], Awaitable[Sequence[Token]]]


class OpenStream:
    """A stream that was let in with a token. `error` says why it must end."""

    __slots__ = ("_end", "_task", "error", "interruptible")

    def __init__(self, task: asyncio.Task[object] | None) -> None:
        self._task = task
        self._end: Callable[[LongshoreError], None] | None = None
        self.interruptible = True
        """Whether the handler is outside a write. gRPC would not forgive a write's cancel: no status could be sent any
        more."""
        self.error: LongshoreError | None = None

    def end_by(self, end: Callable[[LongshoreError], None] | None) -> None:
        self._end = end

    def end(self, error: LongshoreError) -> None:
        """End the stream, once; the handler sees to the rest."""
        if self.error is not None:
            return
        self.error = error
        if self._end is not None:
            self._end(error)
        elif self.interruptible and self._task is not None:
            self._task.cancel()


class Credential:
    """A token as this server knows it."""

    __slots__ = ("idle", "principal", "streams", "token")

    def __init__(self, token: Token) -> None:
        self.token = token
        self.principal = Principal(token.name, token.roles)
        self.streams: set[OpenStream] = set()
        self.idle = 0

    def check(self, now: float) -> None:
        """Raise Unauthenticated where the token opens nothing any more."""
        why = self.token.refused(now)
        if why:
            since = self.token.expires_at if self.token.revoked_at is None else self.token.revoked_at
            raise Unauthenticated(
                f"The token {self.token.id} is {why}{_since(since)}; ask for a new one.", token=self.token.id
            )


def _since(seconds: float | None) -> str:
    """Print a time to the minute. None, and a time that no calendar has, is left out."""
    try:
        return "" if seconds is None else f" since {datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError):
        return ""


class TokenBook:
    """Keeps tokens by id. `run` must run. Belongs to one event loop."""

    def __init__(
        self, *, look_up: Lookup, clock: Clock, refresh: float = REFRESH, trust: float = TRUST, idle: int = IDLE
    ) -> None:
        self._look_up = look_up
        self._clock = clock
        self._refresh_every = refresh
        self._trust = trust
        self._idle = idle
        self._known: dict[str, Credential] = {}
        self._missing: dict[str, float] = {}
        self._asked: dict[str, asyncio.Future[Credential | LongshoreError]] = {}
        self._bell = asyncio.Event()
        self._confirmed = clock.ticks()
        self._trusted = True

    # Of calls -------------------------------------------------------------------------------------------------------

    def recall(self, secret: Secret) -> Credential | None:
        """Return the credential if this server knows it. None means that it does not.

        Raises Unauthenticated, StoreUnavailable.
        """
        known = self._known.get(secret.id)
        if known is None:
            return None
        self._check(known, secret)
        known.idle = 0
        return known

    async def ask(self, secret: Secret) -> Credential:
        """Look up the credential of a token that is not known here. Raises Unauthenticated, StoreUnavailable."""
        if self._missing.get(secret.id, 0.0) > self._clock.ticks():
            raise wrong_token()
        waiting = self._asked.get(secret.id)
        if waiting is None:
            if len(self._asked) >= WAITING:
                raise StoreUnavailable("Too many unknown tokens are being looked up: try again.")
            waiting = self._asked[secret.id] = asyncio.get_running_loop().create_future()
            self._bell.set()
        try:
            async with asyncio.timeout(PATIENCE):
                # Others may wait for the same.
                found = await asyncio.shield(waiting)
        except TimeoutError:
            raise _cannot_tell() from None
        if isinstance(found, LongshoreError):
            raise found
        self._check(found, secret)
        return found

    def _check(self, known: Credential, secret: Secret) -> None:
        if not hmac.compare_digest(secret.digest, known.token.digest):
            raise wrong_token()
        if not self._trusted:
            raise _cannot_tell()
        token = known.token
        if token.revoked_at is not None or token.expires_at is not None:
            known.check(self._clock.now())

    def open(self, credential: Credential) -> OpenStream:
        """Count the call at hand as a stream of the credential. The caller must call `close` in the end."""
        stream = OpenStream(asyncio.current_task())
        credential.streams.add(stream)
        # Forgotten since the call was let in: known again, so that the next look ends the stream if it must.
        self._known.setdefault(credential.token.id, credential)
        return stream

    def close(self, credential: Credential, stream: OpenStream) -> None:
        credential.streams.discard(stream)

    # Beside them ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep up with the database, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._refreshing(), name="tokens: refresh")
            group.create_task(self._looking_up(), name="tokens: look-ups")

    async def _refreshing(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_every)
            await self.refresh()

    async def refresh(self) -> None:
        """Ask the database now what became of every token that is known here."""
        asked_at = self._clock.ticks()
        ids = tuple(self._known)
        try:
            found = {token.id: token for token in await self._look_up(ids)} if ids else {}
        except StoreUnavailable as error:
            if self._trusted and self._clock.ticks() - self._confirmed > self._trust:
                self._trusted = False
                _log.warning("tokens_not_trusted", known=len(ids), seconds=self._trust, problem=error.message)
            self._expire(ids)
            return
        if not self._trusted:
            _log.info("tokens_trusted_again", known=len(ids))
        self._confirmed, self._trusted = asked_at, True
        now = self._clock.now()
        for token_id in ids:
            if (known := self._known.get(token_id)) is not None:
                self._confirm(known, found.get(token_id), now)

    def _confirm(self, known: Credential, token: Token | None, now: float) -> None:
        if token is None:
            # The row is gone: a database restored from a backup, say.
            del self._known[known.token.id]
            self._end_streams(known, wrong_token())
            return
        if token != known.token:
            known.token, known.principal = token, Principal(token.name, token.roles)
        try:
            known.check(now)
        except Unauthenticated as error:
            self._end_streams(known, error)
        known.idle = 0 if known.streams else known.idle + 1
        if known.idle > self._idle:
            del self._known[token.id]

    def _expire(self, ids: Sequence[str]) -> None:
        """End the streams of tokens that have run out meanwhile: that much is known without the database."""
        now = self._clock.now()
        for token_id in ids:
            known = self._known[token_id]
            try:
                known.check(now)
            except Unauthenticated as error:
                self._end_streams(known, error)

    def _end_streams(self, known: Credential, error: LongshoreError) -> None:
        if known.streams:
            _log.info("streams_ended", token=known.token.id, principal=known.token.name, streams=len(known.streams))
        for stream in tuple(known.streams):
            stream.end(error)

    async def _looking_up(self) -> None:
        while True:
            await self._bell.wait()
            self._bell.clear()
            while self._asked:
                await self._answer(tuple(islice(self._asked, AT_ONCE)))
                await asyncio.sleep(LOOK_UP)

    async def _answer(self, ids: Sequence[str]) -> None:
        try:
            found = {token.id: token for token in await self._look_up(ids)}
        except StoreUnavailable:
            for token_id in ids:
                self._asked.pop(token_id).set_result(_cannot_tell())
            return
        self._prune()
        until = self._clock.ticks() + MISSING_FOR
        for token_id in ids:
            token = found.get(token_id)
            if token is None:
                self._missing[token_id] = until
                self._asked.pop(token_id).set_result(wrong_token())
            else:
                self._asked.pop(token_id).set_result(self._known.setdefault(token_id, Credential(token)))

    def _prune(self) -> None:
        if len(self._missing) > MISSING:
            now = self._clock.ticks()
            self._missing = {token_id: until for token_id, until in self._missing.items() if until > now}
            while len(self._missing) > MISSING:
                del self._missing[next(iter(self._missing))]


def wrong_token() -> Unauthenticated:
    """Make the refusal of a call without a token, or with one that is none of ours."""
    return Unauthenticated(
        "No token, or a wrong one. Send `authorization: Bearer TOKEN` with one that `longshored token create` made, or "
        "the one from the file `token` in the server's data directory; the command line takes it from --token-file."
    )


def _cannot_tell() -> StoreUnavailable:
    return StoreUnavailable("The database cannot be asked for tokens now: try again.")
