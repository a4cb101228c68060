"""This target is an LXD or Incus daemon: bytes go over SFTP, everything else over its REST API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final
from urllib.parse import quote

from longshore.worker.errors import AttemptError, PermanentError, Reason, TransientError
from longshore.worker.targets import classify
from longshore.worker.targets.base import Delivery, InPlaceDelivery, InstanceChange, InstanceState, Watch, no_check
from longshore.worker.targets.lxd.client import LxdClient
from longshore.worker.targets.lxd.files_api import FilesApiDelivery
from longshore.worker.targets.lxd.watch import LxdWatch
from longshore.worker.targets.paths import check_instance
from longshore.worker.targets.sftp.delivery import SftpDelivery
from longshore.worker.targets.sftp.pool import PooledInstance, SessionPool
from longshore.worker.targets.sftp.session import SftpSession
from longshore.worker.targets.sftp.wire import ProtocolError
from longshore.worker.targets.transport import DaemonEndpoint, Timeouts, Transport, UpgradeRefused, connect, upgrade

_UNKNOWN_RESOURCE: Final = frozenset({400, 404, 405, 501})
"""Daemons without the SFTP endpoint answer with one of these; 404 also means an instance that has just gone."""


class LxdTarget:
    """A daemon. Connects when first needed, so that a worker starts while its daemon is down."""

    def __init__(
        self,
        name: str,
        endpoint: DaemonEndpoint,
        *,
        project: str = "",
        allow_files_api: bool = False,
        timeouts: Timeouts | None = None,
        poll_s: float = 30.0,
    ) -> None:
        self.name: Final = name
        self.default_project: Final = project or "default"
        self._endpoint = endpoint
        self._allow_files_api = allow_files_api
        self._timeouts = timeouts or Timeouts()
        self._poll_s = poll_s
        self._client = LxdClient(endpoint, timeouts=self._timeouts)
        self._quick = self._timeouts.quick()
        self._quick_client = LxdClient(endpoint, timeouts=self._quick)
        self._pool = SessionPool()

    def identity(self) -> str:
        return self._client.identity()

    def probe(self, project: str, instance: str) -> InstanceState:
        check_instance(instance)
        return self._client.state(project or self.default_project, instance)

    def instances(self, project: str) -> list[str]:
        return sorted(info.name for info in self._quick_client.instances(project or self.default_project))

    @contextmanager
    def open(
        self, project: str, instance: str, *, check: Callable[[], None] = no_check, hurry: bool = False
    ) -> Iterator[Delivery]:
        key = PooledInstance(project or self.default_project, check_instance(instance))
        timeouts = self._quick if hurry else self._timeouts
        session = self._open_session(key, timeouts, check)
        session.set_check(check)
        session.set_timeout(timeouts.answer_s)
        delivery = SftpDelivery(session, check=check, give_back=lambda used: self._pool.give_back(key, used))
        try:
            yield delivery
        finally:
            delivery.close()

    def open_in_place(
        self, project: str, instance: str, *, check: Callable[[], None] = no_check
    ) -> AbstractContextManager[InPlaceDelivery] | None:
        if not self._allow_files_api:
            return None
        return FilesApiDelivery(self._client, project or self.default_project, check_instance(instance), check=check)

    def watch(self, callback: Callable[[InstanceChange], None]) -> Watch:
        return LxdWatch(self._client, callback, project=self.default_project, poll_s=self._poll_s)

    def close_idle(self) -> None:
        self._pool.close_idle()

    def close(self) -> None:
        self._pool.close()
        self._client.close()
        self._quick_client.close()

    def statistics(self) -> tuple[int, int]:
        """Count the SFTP sessions that are idle and busy now."""
        return self._pool.statistics()

    def _open_session(self, key: PooledInstance, timeouts: Timeouts, check: Callable[[], None]) -> SftpSession:
        what = f"opening SFTP into {key.instance}"
        try:
            return self._pool.take(key, lambda: self._connect(key, timeouts, check))
        except UpgradeRefused as refused:
            raise self._refusal(key, refused, what) from refused
        except TimeoutError as error:
            raise self._silence(key, error, what) from error
        except ProtocolError as error:
            raise TransientError(
                Reason.TARGET_PROTOCOL, f"{what}: the daemon broke the SFTP protocol: {error}"
            ) from error
        except PermissionError as error:
            # A daemon that starts makes its socket first, and opens it to its group afterwards.
            raise TransientError(
                Reason.PERMISSION_DENIED, f"{what}: {error.strerror}: may this worker's user use the daemon's socket?"
            ) from error
        except (OSError, EOFError, ValueError) as error:
            raise classify.from_exception(error, what, missing=Reason.TARGET_UNREACHABLE) from error

    def _connect(self, key: PooledInstance, timeouts: Timeouts, check: Callable[[], None]) -> SftpSession:
        transport = connect(self._endpoint, timeouts, check=check)
        try:
            transport.check = check
            return self._handshake(transport, key)
        except BaseException:
            transport.close()
            raise

    def _handshake(self, transport: Transport, key: PooledInstance) -> SftpSession:
        resource = f"/1.0/instances/{quote(key.instance, safe='')}/sftp?project={quote(key.project, safe='')}"
        return SftpSession(transport, received=upgrade(transport, resource, "sftp"))

    def _refusal(self, key: PooledInstance, refused: UpgradeRefused, what: str) -> AttemptError:
        """Make the error of a refused upgrade. Only another question tells which is missing, the instance or SFTP."""
        if refused.status in _UNKNOWN_RESOURCE:
            if self._client.state(key.project, key.instance) is InstanceState.ABSENT:
                return classify.from_http(404, "instance not found", what)
            return PermanentError(
                Reason.NO_SFTP,
                f"{what}: the daemon offers no SFTP ({refused}): upgrade it, or allow the files API for this target",
            )
        return classify.from_http(refused.status, refused.text, what)

    def _silence(self, key: PooledInstance, error: TimeoutError, what: str) -> AttemptError:
        """Make the error of a missing answer: the daemon hangs, or is busy starting or stopping this very instance."""
        try:
            self._quick_client.state(key.project, key.instance)
        except AttemptError:
            return classify.from_exception(error, what)
        return TransientError(
            Reason.INSTANCE_BUSY,
            f"{what}: the daemon answers, but is starting, stopping or deleting the instance ({error})",
        )
