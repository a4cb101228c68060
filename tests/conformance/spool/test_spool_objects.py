"""An object store in trouble: what it refuses, loses or damages, and what becomes of the upload."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import google_crc32c
import pytest
from obstore.exceptions import BaseError, GenericError, PermissionDeniedError

from longshore.server.model.errors import SpoolDamaged, SpoolFull, StoreUnavailable
from longshore.server.model.task import Payload
from longshore.server.spool.errors import SpoolRefused
from longshore.server.spool.objects.bucket import fault
from longshore.server.spool.objects.segments import SEGMENT
from longshore.server.spool.objects.spool import ObjectSpool
from longshore.server.spool.objects.staging import SLOTS
from longshore.server.spool.protocol import Spool
from tests.support.stores import s3
from tests.support.stores.spoolkinds import ObjectKind

MIB = 1 << 20
ONE = "a1" * 16
NOISE = random.Random(5).randbytes(20 * MIB)


@pytest.fixture
async def meddler(object_store: s3.ObjectStore, s3_environment: None) -> AsyncIterator[s3.Meddler]:
    async with s3.Meddler(object_store) as meddler:
        yield meddler


@pytest.fixture
def kind(object_store: s3.ObjectStore, meddler: s3.Meddler, tmp_path: Path) -> ObjectKind:
    """The spool as it is seen through the meddler."""
    return ObjectKind(object_store.fresh_url(), tmp_path / "staging", endpoint=meddler.endpoint)


@pytest.fixture
async def spool(kind: ObjectKind) -> AsyncIterator[Spool]:
    spool = kind.spool()
    await spool.open()
    yield spool
    await spool.close()


def payload_of(data: bytes) -> Payload:
    return Payload(ONE, len(data), int(google_crc32c.value(data)))


async def read(spool: Spool, data: bytes) -> bytes:
    return b"".join([piece async for piece in spool.read(payload_of(data), 0, MIB)])


# At the start --------------------------------------------------------------------------------------------------------


async def refusal(kind: ObjectKind, how: type[Exception] = SpoolRefused) -> str:
    spool = kind.spool()
    with pytest.raises(how) as refused:
        await spool.open()
    await spool.close()
    return str(refused.value)


async def test_a_missing_bucket_is_named_with_the_remedy(
    object_store: s3.ObjectStore, s3_environment: None, tmp_path: Path
) -> None:
    url = object_store.fresh_url().replace(s3.BUCKET, "no-such-bucket")
    assert "Make the bucket" in await refusal(ObjectKind(url, tmp_path))


async def test_an_unreachable_endpoint_is_reported_with_the_remedy(
    object_store: s3.ObjectStore, s3_environment: None, tmp_path: Path
) -> None:
    url = object_store.fresh_url().replace(object_store.endpoint, "http://127.0.0.1:1")
    # The refusal is not for ever: another start may help.
    assert "AWS_ENDPOINT_URL" in await refusal(ObjectKind(url, tmp_path), StoreUnavailable)


async def test_refused_credentials_are_reported_with_the_remedy(s3_environment: None, tmp_path: Path) -> None:
    with s3.running_object_store(refusing=True) as store:
        assert "AWS_SECRET_ACCESS_KEY" in await refusal(ObjectKind(store.fresh_url(), tmp_path))


# Later ---------------------------------------------------------------------------------------------------------------


async def test_a_silent_object_store_makes_nothing_durable_and_loses_nothing(spool: Spool, meddler: s3.Meddler) -> None:
    partial = await spool.create(ONE)
    await partial.write(NOISE[:MIB])
    mark = await partial.sync()
    meddler.refuse()
    await partial.write(NOISE[MIB : 10 * MIB])
    with pytest.raises(StoreUnavailable):
        await partial.sync()
    with pytest.raises(StoreUnavailable):
        await read(spool, NOISE[:MIB])
    meddler.refusing = False
    assert await partial.sync() == (10 * MIB, google_crc32c.value(NOISE[: 10 * MIB]))
    assert mark == (MIB, google_crc32c.value(NOISE[:MIB]))
    await partial.write(NOISE[10 * MIB :])
    await partial.seal(ONE)
    await partial.close()
    assert await read(spool, NOISE) == NOISE


async def test_an_upload_stops_when_the_store_takes_nothing_any_more(spool: Spool, meddler: s3.Meddler) -> None:
    """The local disk keeps a few segments of an upload and no more."""
    partial = await spool.create(ONE)
    await partial.write(b"x")
    meddler.refuse()
    with pytest.raises(StoreUnavailable):
        await partial.write(bytes(10 * SLOTS * SEGMENT))
    assert partial.offset <= SLOTS * SEGMENT
    await partial.close()
    await partial.close()


async def test_bytes_that_were_changed_on_the_way_are_not_taken(spool: Spool, meddler: s3.Meddler) -> None:
    data = NOISE[:MIB] + b"MARK" + NOISE[MIB : 2 * MIB]
    partial = await spool.create(ONE)
    meddler.up = rb"MARK", rb"KRAM"
    await partial.write(data)
    with pytest.raises(StoreUnavailable, match="other bytes"):
        await partial.sync()
    meddler.up = None
    await partial.seal(ONE)
    await partial.close()
    assert await read(spool, data) == data


async def test_where_an_e_tag_is_no_md5_the_bytes_are_read_back(spool: Spool, meddler: s3.Meddler) -> None:
    data = NOISE[:MIB] + b"MARK" + NOISE[MIB : 2 * MIB]
    meddler.down = rb'(?i)(etag: ")[0-9a-f]{32}', rb"\g<1>" + b"0" * 32
    partial = await spool.create(ONE)
    await partial.write(data)
    assert await partial.sync() == (len(data), google_crc32c.value(data))
    await partial.write(data)
    meddler.up = rb"MARK", rb"KRAM"
    with pytest.raises(StoreUnavailable, match="other bytes"):
        await partial.sync()
    await partial.close()


async def test_an_existing_object_is_not_uploaded_again(spool: Spool, meddler: s3.Meddler) -> None:
    """A server that was asleep changes nothing that another one relies on, not even on a bad line."""
    data = NOISE[:MIB] + b"MARK" + NOISE[MIB : 2 * MIB]
    for line in (None, (rb"MARK", b"KRAM")):
        meddler.up = line
        partial = await spool.create(ONE)
        await partial.write(data)
        await partial.sync()
        await partial.close()
    meddler.up = None
    assert await read(spool, data) == data


async def test_a_seal_finds_out_that_a_segment_is_gone(spool: Spool, kind: ObjectKind) -> None:
    partial = await spool.create(ONE)
    await partial.write(NOISE)
    await partial.sync()
    kind.remove(ONE)
    with pytest.raises(SpoolDamaged, match="is missing"):
        await partial.seal(ONE)
    await partial.close()


async def test_a_payload_of_one_segment_is_one_request(spool: Spool, meddler: s3.Meddler) -> None:
    """Its object's name is known, so that nothing has to be looked for."""
    data = NOISE[: 2 * MIB]
    partial = await spool.create(ONE)
    await partial.write(data)
    await partial.seal(ONE)
    await partial.close()
    before = meddler.requests
    assert await read(spool, data[: 2 * MIB]) == data
    assert meddler.requests == before + 1


async def test_a_full_local_disk_takes_no_uploads(kind: ObjectKind, tmp_path: Path) -> None:
    spool = kind.spool(reserve=1 << 50)
    await spool.open()
    assert await spool.free_bytes() < 0
    await spool.close()
    assert isinstance(spool, ObjectSpool)


async def test_there_is_no_path_to_an_object(spool: Spool) -> None:
    partial = await spool.create(ONE)
    await partial.write(b"abc")
    await partial.seal(ONE)
    await partial.close()
    assert spool.path(payload_of(b"abc")) is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (GenericError("... 400 ...: <Error><Code>QuotaExceeded</Code>"), SpoolFull),
        (GenericError("... 507 ...: <Error><Code>XMinioStorageFull</Code>"), SpoolFull),
        (GenericError("... status code: 503 Service Unavailable"), StoreUnavailable),
        (GenericError("... 416 ...: <Error><Code>InvalidRange</Code>"), SpoolDamaged),
        (FileNotFoundError("... 404 ...: <Error><Code>NoSuchKey</Code>"), SpoolDamaged),
        (FileNotFoundError("... 404 ...: <Error><Code>NoSuchBucket</Code>"), StoreUnavailable),
        (PermissionDeniedError("... 403 ...: <Error><Code>AccessDenied</Code>"), StoreUnavailable),
    ],
)
def test_every_word_of_the_store_has_an_error(error: BaseError | OSError, kind: type[Exception]) -> None:
    assert isinstance(fault(error, "testing"), kind)
