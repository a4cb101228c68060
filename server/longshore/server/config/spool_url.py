"""This module makes and opens the spool that `--spool` names, and explains its errors to the operator."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from longshore.server.config.settings import Settings, SettingsError, spool_path
from longshore.server.data.datadir import DataDir, DataDirError
from longshore.server.model.errors import LongshoreError, StoreUnavailable
from longshore.server.spool.directory.spool import DirectorySpool
from longshore.server.spool.errors import SpoolRefused
from longshore.server.spool.protocol import Spool
from longshore.server.store.commands import IdentifyDatabase
from longshore.server.store.protocol import Store

_EXTRA: Final = "--spool s3://: the client is missing: `pip install 'longshore[s3]'`."
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX: Final = re.compile(r"[A-Za-z0-9!_.*'()/-]*")
_OPTIONS: Final = ("endpoint", "region")
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Location:
    """A bucket, or a folder of it. `endpoint` and `region` are empty where the environment says them. `plain` means
    that it is reached by HTTP without TLS, on this machine."""

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    plain: bool = False


async def make_spool(settings: Settings, data: DataDir, store: Store) -> Spool:
    """Make the spool of an open store. The spool is opened later.

    Raises SettingsError, DataDirError (another server has it).
    """
    try:
        database = f"{await store.run(IdentifyDatabase(candidate=secrets.randbits(62))):016x}"
    except StoreUnavailable as error:
        # This is the first command of a server: the trouble is the database's, and the server's operator reads of it.
        raise StoreUnavailable(f"--database: {store.trouble or error.message}") from error
    reserve = settings.limits.disk_reserve
    if urlsplit(settings.spool).scheme == "s3":
        return _object_spool(s3_location(settings.spool, os.environ), settings, data, database)
    folder = spool_path(settings.spool, data.spool)
    if not settings.database.shared:
        data.claim_spool(folder)
    return DirectorySpool(root=folder, reserve=reserve, shared=settings.database.shared, database=database)


async def open_spool(spool: Spool, url: str) -> None:
    """Open the spool. Raises DataDirError, and StoreUnavailable where another start may help."""
    shown = url or "spool/ in the data directory"
    try:
        await spool.open()
    except SpoolRefused as error:
        raise DataDirError(f"--spool: {error}") from error
    except LongshoreError as error:
        if urlsplit(url).scheme == "s3" and isinstance(error, StoreUnavailable):
            raise StoreUnavailable(f"--spool: {error.message}") from error
        raise DataDirError(f"--spool: {shown} cannot be used: {error.message}") from error


def s3_location(url: str, environment: Mapping[str, str]) -> S3Location:
    """Make S3Location of `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`. Raises SettingsError."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise SettingsError(
            "--spool s3://: takes no secrets, which every user of the machine could read in a URL. Set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment."
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    prefix = parts.path.strip("/")
    if unknown := sorted(set(options).difference(_OPTIONS)):
        raise SettingsError(f"--spool {url}: there is no {unknown[0]}; the URL takes endpoint and region.")
    if not _BUCKET.fullmatch(parts.netloc) or not _PREFIX.fullmatch(prefix) or ".." in prefix or "//" in prefix:
        raise SettingsError(f"--spool {url}: write s3://BUCKET/PREFIX, as in s3://longshore/spool.")
    endpoint = options.get("endpoint", "")
    plain = _plain(
        endpoint or next((environment[name] for name in _ENDPOINTS if environment.get(name)), ""), environment
    )
    return S3Location(
        bucket=parts.netloc, prefix=prefix, endpoint=endpoint, region=options.get("region", ""), plain=plain
    )


def _plain(endpoint: str, environment: Mapping[str, str]) -> bool:
    """Return whether the endpoint is reached without TLS. Raises SettingsError where that was not asked for."""
    parts = urlsplit(endpoint)
    if endpoint and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise SettingsError(
            f"--spool s3://: the endpoint {endpoint} is no URL: write https://HOST or https://HOST:PORT."
        )
    if parts.scheme != "http":
        return False
    if not _on_this_machine(parts.hostname or "") and environment.get("AWS_ALLOW_HTTP", "").lower() not in (
        "1",
        "true",
    ):
        raise SettingsError(
            f"--spool s3://: the endpoint {endpoint} has no TLS, and payloads would cross the network in the clear. "
            "Use https://, or set AWS_ALLOW_HTTP=true if that network is yours alone."
        )
    return True


def _on_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _object_spool(location: S3Location, settings: Settings, data: DataDir, database: str) -> Spool:
    try:
        from longshore.server.spool.objects.bucket import Objects
        from longshore.server.spool.objects.spool import ObjectSpool
    except ImportError as error:
        raise SettingsError(_EXTRA) from error
    from longshore.server.spool.objects.staging import Staging

    where = f"s3://{location.bucket}" + (f"/{location.prefix}" if location.prefix else "")
    try:
        objects = Objects(
            bucket=location.bucket,
            prefix=location.prefix,
            endpoint=location.endpoint,
            region=location.region,
            plain=location.plain,
        )
    except ValueError as error:
        raise SettingsError(f"--spool {where}: {error}") from error
    staging = Staging(data.staging, reserve=settings.limits.disk_reserve)
    return ObjectSpool(objects=objects, staging=staging, where=where, database=database)
