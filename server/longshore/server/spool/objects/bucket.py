"""This module makes the few requests of a spool to a bucket or to a folder of one, through obstore.

obstore's coroutines run on threads of its own and take `bytes` without a copy; signing (SHA-256) happens there too.
Cancelling one of them may leave its request running.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import obstore
import structlog
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from longshore.server.model.errors import LongshoreError, SpoolDamaged, SpoolFull, StoreUnavailable

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import ClientConfig, RetryConfig

_log = structlog.get_logger("longshore.spool")

PUTS: Final = 4
"""Segments on their way at once, of all uploads: 32 MiB of memory. One request of 8 MiB takes some 100 ms at a usual
store, so that this is enough for hundreds of MB/s."""
_CHORES: Final = 16
"""Lists, copies and removals at once."""
_TIMEOUTS: Final[ClientConfig] = {"connect_timeout": timedelta(seconds=3), "timeout": timedelta(seconds=20)}
_RETRIES: Final[RetryConfig] = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=15),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}
_RETRY_FULL: Final = 5.0
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_FULL: Final = frozenset(
    {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
)
_OTHER_REGION: Final = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "301", "307"})
_OF_RANGE: Final = "InvalidRange"


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object has a name below the listed folder, its size in bytes, when it was made (wall clock)."""

    path: str
    size: int
    made_at: float


class Objects:
    """Requests to one bucket, below `prefix`. Raises SpoolFull, SpoolDamaged, StoreUnavailable."""

    def __init__(self, *, bucket: str, prefix: str, endpoint: str = "", region: str = "", plain: bool = False) -> None:
        """Prepare the requests. `plain` means HTTP without TLS. Options that are not given, and all secrets, come from
        the environment (AWS_...) or from the machine's role. Raises ValueError if obstore refuses the options."""
        named: dict[str, Any] = {}
        if endpoint:
            named["endpoint"] = endpoint
        if region:
            named["region"] = region
        options: ClientConfig = {**_TIMEOUTS, "allow_http": True} if plain else _TIMEOUTS
        try:
            self._store = S3Store(bucket, prefix=prefix or None, client_options=options, retry_config=_RETRIES, **named)
        except BaseError as error:
            raise ValueError(summary(error)) from error
        self._puts = asyncio.Semaphore(PUTS)
        self._chores = asyncio.Semaphore(_CHORES)

    @property
    def puts(self) -> asyncio.Semaphore:
        """The semaphore that a put takes before its segment is read into memory."""
        return self._puts

    async def put(self, path: str, data: bytes, md5: str) -> None:
        """Store an object durably, and prove that the store has the bytes that it was given. An object that is there
        already is not put again: another server may rely on it.

        A store answers a put with the object's e-tag, which is its MD5 almost everywhere. An equal MD5 is the proof.
        Otherwise (encrypted with a KMS key, or damaged on the way where nothing checks) the object is read back. The
        request is signed with the content's SHA-256 besides, which most stores check and some do not.
        """
        for overwrite in (False, True, True):
            with translated("storing an upload"):
                tag = await self._put(path, data, overwrite=overwrite)
                if tag.strip('"').lower() == md5 or await self._holds(path, data):
                    return
            _log.error("object_differs", path=path, size=len(data))
        raise StoreUnavailable("The object store keeps other bytes than it was sent. Try again.")

    async def _put(self, path: str, data: bytes, *, overwrite: bool) -> str:
        """Put an object and return its e-tag. Empty means that the store gives none."""
        mode: PutMode = "overwrite" if overwrite else "create"
        try:
            put = await obstore.put_async(self._store, path, data, mode=mode, use_multipart=False)
            return put["e_tag"] or ""
        except AlreadyExistsError:
            pass
        try:
            return (await obstore.head_async(self._store, path))["e_tag"] or ""
        except FileNotFoundError:
            return ""  # somebody else is just putting it

    async def _holds(self, path: str, data: bytes) -> bool:
        try:
            found = await obstore.get_range_async(self._store, path, start=0, length=len(data))
        except FileNotFoundError:
            return False
        return found.to_bytes() == data

    async def create(self, path: str, data: bytes) -> bool:
        """Make a small object where there is none, and return whether this call did."""
        try:
            with translated("making a file"):
                await obstore.put_async(self._store, path, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    async def get(self, path: str) -> bytes | None:
        """Read a small object. None means that there is none."""
        with translated("reading a file"):
            try:
                found = await obstore.get_async(self._store, path)
                return (await found.bytes_async()).to_bytes()
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return None

    async def get_range(self, path: str, start: int, length: int) -> bytes | None:
        """Read bytes of an object. None means that there is no such object. Raises SpoolDamaged if it ends before."""
        with translated("reading a payload"):
            try:
                found = (await obstore.get_range_async(self._store, path, start=start, length=length)).to_bytes()
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return None
        if len(found) != length:
            raise SpoolDamaged(
                f"An object of the spool ends at byte {start + len(found)}, before byte {start + length}."
            )
        return found

    async def list(self, prefix: str) -> AsyncIterator[ListedObject]:
        """Yield every object below a folder, however deep."""
        pages = obstore.list(self._store, prefix=prefix, chunk_size=1000).__aiter__()
        while True:
            with translated("looking into the spool"):
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
            for entry in page:
                made: datetime = entry["last_modified"]
                yield ListedObject(entry["path"], entry["size"], made.timestamp())

    async def copy(self, source: str, target: str) -> None:
        async with self._chores:
            with translated("moving stray files"):
                await obstore.copy_async(self._store, source, target)

    async def delete(self, paths: Sequence[str]) -> None:
        """Delete these objects. An object that is not there is no error."""
        if paths:
            async with self._chores:
                with translated("removing files"):
                    await obstore.delete_async(self._store, list(paths))


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise errors of the object store, met while doing `what`, as SpoolFull, SpoolDamaged or StoreUnavailable."""
    try:
        yield
    except AlreadyExistsError:
        raise
    except (BaseError, OSError) as error:
        raise fault(error, what) from error


def fault(error: Exception, what: str) -> LongshoreError:
    """See `translated`."""
    code = _code(error)
    if code in _FULL:
        return SpoolFull(
            f"The object store is full ({what}). Try later with the same request id.",
            subject="spool",
            retry_after=_RETRY_FULL,
        )
    if code == "NoSuchBucket":
        return StoreUnavailable(f"The bucket of the spool is not there ({what}).")
    if isinstance(error, FileNotFoundError) or code == _OF_RANGE:
        return SpoolDamaged(f"The spool is damaged ({what}): an object is missing or short.")
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return StoreUnavailable(f"The object store refuses this server ({what}): {code or 'no permission'}.")
    _log.warning("object_store_trouble", doing=what, error=summary(error))
    return StoreUnavailable(f"The object store cannot be used now ({what}): {code or 'no answer'}. Try again.")


def no_answer(error: LongshoreError) -> bool:
    """Tell whether the object store was not reached, or gave no known answer, and so may be back later."""
    return isinstance(error, StoreUnavailable) and not (error.__cause__ is not None and _code(error.__cause__))


def remedy(error: LongshoreError) -> str:
    """Advise an operator what to do about an error of this module that is met at the start."""
    code = _code(error.__cause__) if error.__cause__ is not None else ""
    if code == "NoSuchBucket":
        return "Make the bucket, or name another one."
    if code in _OTHER_REGION:
        return "The bucket is in another region: set AWS_REGION or ?region=."
    if code:
        return (
            "The credentials of the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or of this machine's role "
            "must allow to list, get, put and delete there."
        )
    return (
        "Check the endpoint (AWS_ENDPOINT_URL or ?endpoint=), the credentials (AWS_ACCESS_KEY_ID ...) and the network."
    )


def summary(error: BaseException) -> str:
    """Return the text of an error without the long form that obstore appends."""
    return " ".join(str(error).split("\n\nDebug source")[0].split())


def _code(error: BaseException) -> str:
    """Return the store's own code for an error, or its HTTP status. Empty means that it gave neither."""
    text = str(error)
    found = _CODE.search(text) or _STATUS.search(text)
    return found[1] if found else ""
