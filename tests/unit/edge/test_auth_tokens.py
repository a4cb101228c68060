"""The book of tokens: cheap for who is known, cheap against who guesses, and honest while the database is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from longshore.server.edge.auth.principal import Principal
from longshore.server.edge.auth.tokens import AT_ONCE, MISSING, MISSING_FOR, WAITING, OpenStream, TokenBook
from longshore.server.model.access import Role, Secret, Token, new_secret
from longshore.server.model.errors import LongshoreError, StoreUnavailable, Unauthenticated
from tests.support.waiting import until


class Clock:
    """Time as a test says."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def ticks(self) -> float:
        return self.time

    def jitter(self) -> float:
        return 0.5


class Table:
    """The table of tokens, which can be away, and counts how often it is asked."""

    def __init__(self) -> None:
        self.rows: dict[str, Token] = {}
        self.away = False
        self.asked: list[Sequence[str]] = []

    async def __call__(self, ids: Sequence[str]) -> Sequence[Token]:
        self.asked.append(ids)
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("away")
        return [self.rows[one] for one in ids if one in self.rows]

    def add(self, *, expires: float | None = None, roles: frozenset[Role] = frozenset({Role.SUBMIT})) -> Secret:
        secret = new_secret()
        self.rows[secret.id] = Token(
            id=secret.id,
            name="ci",
            digest=secret.digest,
            roles=roles,
            created_at=1.0,
            expires_at=expires,
            revoked_at=None,
        )
        return secret

    def revoke(self, secret: Secret) -> None:
        self.rows[secret.id] = replace(self.rows[secret.id], revoked_at=2.0)


class Stand:
    """A book over a table."""

    def __init__(self, *, idle: int = 300) -> None:
        self.clock, self.table = Clock(), Table()
        self.book = TokenBook(look_up=self.table, clock=self.clock, refresh=3600.0, trust=300.0, idle=idle)

    async def refusal(self, secret: Secret) -> LongshoreError:
        with pytest.raises((Unauthenticated, StoreUnavailable)) as refused:
            _ = self.book.recall(secret) or await self.book.ask(secret)
        error = refused.value
        assert isinstance(error, LongshoreError)
        assert secret.secret not in error.message
        return error


@asynccontextmanager
async def stand(*, idle: int = 300) -> AsyncIterator[Stand]:
    made = Stand(idle=idle)
    running = asyncio.create_task(made.book.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_token_is_looked_up_once_and_then_costs_no_wait() -> None:
    async with stand() as at:
        secret = at.table.add(roles=frozenset({Role.WORK}))
        assert at.book.recall(secret) is None
        credential = await at.book.ask(secret)
        assert credential.principal == Principal("ci", frozenset({Role.WORK}))
        for _ in range(100):
            assert at.book.recall(secret) is credential
        assert len(at.table.asked) == 1


async def test_a_wrong_secret_with_a_right_id_is_refused_without_a_look_up() -> None:
    async with stand() as at:
        secret = at.table.add()
        wrong = Secret(secret.id, new_secret().secret)
        assert isinstance(await at.refusal(wrong), Unauthenticated)
        assert len(at.table.asked) == 1
        assert isinstance(await at.refusal(wrong), Unauthenticated)
        assert len(at.table.asked) == 1
        assert at.book.recall(secret) is not None


async def test_guesses_cannot_load_the_database() -> None:
    async with stand() as at:
        guesses = [new_secret() for _ in range(2 * AT_ONCE)]
        refused = await asyncio.gather(*(at.refusal(guess) for guess in guesses))
        assert all(isinstance(error, Unauthenticated) for error in refused)
        assert len(at.table.asked) <= 3
        # The same ones again: they are remembered for a moment.
        before = len(at.table.asked)
        await asyncio.gather(*(at.refusal(guess) for guess in guesses))
        assert len(at.table.asked) == before
        assert len(at.book._missing) <= MISSING


async def test_beyond_the_queue_of_look_ups_a_token_is_unavailable_and_not_refused() -> None:
    async with stand() as at:
        refused = await asyncio.gather(*(at.refusal(new_secret()) for _ in range(WAITING + 10)))
        assert sum(isinstance(error, StoreUnavailable) for error in refused) == 10


async def test_a_token_made_after_it_was_missed_is_found_soon() -> None:
    async with stand() as at:
        secret = at.table.add()
        row = at.table.rows.pop(secret.id)
        assert isinstance(await at.refusal(secret), Unauthenticated)
        at.table.rows[secret.id] = row
        at.clock.time += MISSING_FOR
        assert (await at.book.ask(secret)).token == row


async def test_several_that_ask_for_one_share_the_look_up_and_one_that_leaves_does_not_end_it() -> None:
    async with stand() as at:
        secret = at.table.add()
        leaver = asyncio.create_task(at.book.ask(secret))
        others = [asyncio.create_task(at.book.ask(secret)) for _ in range(5)]
        await asyncio.sleep(0)
        leaver.cancel()
        found = await asyncio.gather(*others)
        assert len({id(one) for one in found}) == 1
        assert len(at.table.asked) == 1


async def test_a_revoked_token_is_refused_after_the_next_look_and_its_streams_end() -> None:
    async with stand() as at:
        secret = at.table.add()
        credential = await at.book.ask(secret)
        ended: list[LongshoreError] = []
        stream = at.book.open(credential)
        stream.end_by(ended.append)
        at.table.revoke(secret)
        assert at.book.recall(secret) is not None
        await at.book.refresh()
        assert "revoked" in (await at.refusal(secret)).message
        assert [type(error) for error in ended] == [Unauthenticated]
        await at.book.refresh()
        assert len(ended) == 1


async def test_expiry_counts_at_once_for_calls_and_at_the_next_look_for_streams() -> None:
    async with stand() as at:
        secret = at.table.add(expires=at.clock.time + 10)
        credential = await at.book.ask(secret)
        stream = at.book.open(credential)
        stream.end_by(lambda _error: None)
        at.clock.time += 10
        assert "expired" in (await at.refusal(secret)).message
        assert stream.error is None
        await at.book.refresh()
        assert isinstance(stream.error, Unauthenticated)


async def test_an_expired_stream_ends_while_the_database_is_away_too() -> None:
    async with stand() as at:
        expiring, lasting = at.table.add(expires=at.clock.time + 10), at.table.add()
        ends, stays = at.book.open(await at.book.ask(expiring)), at.book.open(await at.book.ask(lasting))
        for stream in (ends, stays):
            stream.end_by(lambda _error: None)
        at.table.away = True
        await at.book.refresh()
        assert ends.error is None
        at.clock.time += 10
        await at.book.refresh()
        assert isinstance(ends.error, Unauthenticated)
        assert stays.error is None


async def test_a_row_that_is_gone_is_a_wrong_token() -> None:
    async with stand() as at:
        secret = at.table.add()
        stream = at.book.open(await at.book.ask(secret))
        stream.end_by(lambda _error: None)
        del at.table.rows[secret.id]
        await at.book.refresh()
        assert isinstance(stream.error, Unauthenticated)
        assert isinstance(await at.refusal(secret), Unauthenticated)


async def test_while_the_database_is_away_the_known_work_on_for_a_while_and_the_unknown_are_not_called_wrong() -> None:
    async with stand() as at:
        known, unknown = at.table.add(), at.table.add()
        stream = at.book.open(await at.book.ask(known))
        at.table.away = True
        assert isinstance(await at.refusal(unknown), StoreUnavailable)
        at.clock.time += 300
        await at.book.refresh()
        assert at.book.recall(known) is not None
        at.clock.time += 1
        await at.book.refresh()
        assert isinstance(await at.refusal(known), StoreUnavailable)
        assert isinstance(await at.refusal(Secret(known.id, unknown.secret)), Unauthenticated)
        assert stream.error is None
        at.table.away = False
        await at.book.refresh()
        assert at.book.recall(known) is not None
        assert (await at.book.ask(unknown)).token.id == unknown.id


async def test_an_unused_token_is_forgotten_unless_a_stream_is_open() -> None:
    async with stand(idle=2) as at:
        idle, open_ = at.table.add(), at.table.add()
        await at.book.ask(idle)
        credential = await at.book.ask(open_)
        stream = at.book.open(credential)
        for _ in range(4):
            await at.book.refresh()
        assert at.book.recall(idle) is None
        assert at.book.recall(open_) is not None
        at.book.close(credential, stream)
        for _ in range(4):
            await at.book.refresh()
        assert at.book.recall(open_) is None
        # Nothing known, nothing asked.
        asked = len(at.table.asked)
        await at.book.refresh()
        assert len(at.table.asked) == asked


async def test_the_tokens_are_looked_up_periodically() -> None:
    clock, table = Clock(), Table()
    book = TokenBook(look_up=table, clock=clock, refresh=0.01)
    running = asyncio.create_task(book.run())
    try:
        secret = table.add()
        stream = book.open(await book.ask(secret))
        stream.end_by(lambda _error: None)
        table.revoke(secret)
        await until(lambda: stream.error)
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_stream_in_a_write_is_notified_and_not_cancelled() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(forever())
    await asyncio.sleep(0)
    stream = OpenStream(task)
    stream.interruptible = False
    stream.end(Unauthenticated("over"))
    assert (task.cancelling(), stream.error is not None) == (0, True)
    other = OpenStream(task)
    other.end(Unauthenticated("over"))
    assert task.cancelling() == 1
    await asyncio.wait({task})
