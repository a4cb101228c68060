"""This module puts types around pylxd, for LXD and Incus alike. No other module knows pylxd.

What pylxd does not do by itself is done here: a session that ignores the environment (REQUESTS_CA_BUNDLE would override
the pinned certificate), time-outs on everything (a hung daemon keeps pylxd waiting for ever), each client lent to one
thread at a time (requests' sessions are not for sharing; clients are kept, because a new one first asks the daemon for
its identity), and errors that are already classified.
"""

from __future__ import annotations

import select
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast
from urllib.parse import quote

import pylxd.client
import pylxd.exceptions
import requests
from ws4py.exc import HandshakeError, WebSocketException  # type: ignore[import-untyped]

from longshore.worker.errors import AttemptError, PermanentError, Reason, TransientError
from longshore.worker.targets import classify
from longshore.worker.targets.base import CHUNK, Attributes, InstanceState
from longshore.worker.targets.transport import DaemonEndpoint, Timeouts, public_authorities, verify_pin
from longshore.worker.targets.unix_http import SCHEME, UnixAdapter

_KEPT: Final = 16
"""Idle clients of one project."""

_STATES: Final = {
    "Running": InstanceState.RUNNING,
    "Frozen": InstanceState.FROZEN,
    "Stopped": InstanceState.STOPPED,
}
"""This table maps the status that a daemon reports to a state. An instance with any other status (Error, Starting,
Stopping ...) is not running yet, or not any more."""


class Body(Protocol):
    """The body of a request, whose length is known, and which is read once."""

    def read(self, size: int = -1, /) -> bytes:
        """Some bytes."""

    def __len__(self) -> int:
        """All of them."""


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """One instance in a listing."""

    project: str
    name: str
    state: InstanceState


class LxdClient:
    """The part of the REST API that a target needs. It is safe to share between threads, because each pylxd client is
    lent to one at a time."""

    def __init__(self, endpoint: DaemonEndpoint, *, timeouts: Timeouts) -> None:
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._lock = threading.Lock()
        self._idle: dict[str, list[Any]] = {}
        self._closed = False

    def close(self) -> None:
        """Close all connections. Those in use are closed when their use ends."""
        with self._lock:
            self._closed = True
            clients = [client for idle in self._idle.values() for client in idle]
            self._idle.clear()
        for client in clients:
            _close(client)

    def identity(self) -> str:
        """Return the fingerprint of the daemon's certificate, which outlives restarts and is the same for all members
        of a cluster."""
        with _classified(f"asking {self._endpoint} for its identity"), self._client("") as client:
            info = client.api.get().json()["metadata"]
            found = info.get("environment", {}).get("certificate_fingerprint", "")
        if not found:
            raise PermanentError(
                Reason.TARGET_FORBIDDEN,
                f"{self._endpoint} does not trust this worker: add its certificate to the trust store",
            )
        return str(found)

    def state(self, project: str, instance: str) -> InstanceState:
        """Return the state of one instance: ABSENT when the daemon does not know it."""
        with _classified(f"looking at instance {instance}"):
            try:
                with self._client(project) as client:
                    found = client.api.instances[quote(instance, safe="")].get()
            except pylxd.exceptions.NotFound:
                return InstanceState.ABSENT
            return _state(found.json()["metadata"].get("status"))

    def instances(self, project: str) -> list[InstanceInfo]:
        """List every instance. The project "*" means all projects."""
        with _classified("listing instances"):
            parameters = {"recursion": "1"} | ({"all-projects": "true"} if project == "*" else {})
            with self._client("" if project == "*" else project) as client:
                rows = client.api.instances.get(params=parameters).json()["metadata"] or []
            return [
                InstanceInfo(row.get("project") or "default", row["name"], _state(row.get("status"))) for row in rows
            ]

    def put_file(self, project: str, instance: str, path: str, body: Body, attributes: Attributes) -> None:
        """Write over a file by the files API. **The daemon may answer OK and have lost data**: read it back."""
        with _classified(f"writing {path}"), self._client(project) as client:
            found = client.instances.get(instance)
            found.files.put(path, body, mode=attributes.mode, uid=attributes.uid, gid=attributes.gid)

    def read_file(self, project: str, instance: str, path: str) -> Iterator[bytes]:
        """Yield a file's content, never all of it in memory."""
        with _classified(f"reading {path}"), self._client(project) as client:
            node = client.api.instances[quote(instance, safe="")].files
            with node.get(params={"path": path}, is_api=False, stream=True) as response:
                yield from response.iter_content(CHUNK)

    def events(self, project: str) -> EventStream:
        """Open the stream of lifecycle events of one project, or of all with project "*". It is connected on return."""
        with _classified("watching instances"), self._client("") as client:
            scope = "all-projects=true" if project == "*" else f"project={quote(project, safe='')}"
            stream = client.events(event_types={pylxd.client.EventType.Lifecycle})
            stream.resource += f"&{scope}"
            return EventStream(stream, self._endpoint, self._timeouts)

    @contextmanager
    def _client(self, project: str) -> Iterator[Any]:
        """Lend a pylxd client to one thread until the block ends. The client is kept for the next one, unless the block
        failed."""
        with self._lock:
            idle = self._idle.get(project)
            client = idle.pop() if idle else None
        if client is None:
            client = self._connect(project)
        try:
            yield client
        except pylxd.exceptions.NotFound:
            self._keep(project, client)
            raise
        except BaseException:
            _close(client)
            raise
        self._keep(project, client)

    def _keep(self, project: str, client: Any) -> None:
        with self._lock:
            idle = self._idle.setdefault(project, [])
            if not self._closed and len(idle) < _KEPT:
                idle.append(client)
                return
        _close(client)

    def _connect(self, project: str) -> Any:
        end = self._endpoint
        certificate = (end.cert, end.key) if end.cert else None
        if end.socket_path:
            url = SCHEME + quote(end.socket_path, safe="")
            session = requests.Session()
            session.mount(SCHEME, UnixAdapter(end.socket_path))
        else:
            url = end.url
            session = pylxd.client.get_session_for_url(url, verify=end.server_cert or True, cert=certificate)
            if not end.server_cert:
                session.verify = public_authorities()
        session.trust_env = False
        try:
            return pylxd.client.Client(
                endpoint=url,
                session=session,
                cert=certificate,
                project=project or None,
                timeout=(self._timeouts.connect_s, self._timeouts.answer_s),
            )
        except BaseException:
            session.close()
            raise


def _close(client: Any) -> None:
    client.api.session.close()


class EventStream:
    """A websocket on a daemon's events, for one thread."""

    def __init__(self, stream: Any, endpoint: DaemonEndpoint, timeouts: Timeouts) -> None:
        self._stream = stream
        stream.sock.settimeout(timeouts.answer_s)
        if endpoint.url and not endpoint.server_cert:
            stream.ssl_options = {
                **stream.ssl_options,
                "cert_reqs": ssl.CERT_REQUIRED,
                "ca_certs": public_authorities(),
            }
        with self._broken_is_unreachable():
            stream.connect()
            if isinstance(stream.sock, ssl.SSLSocket):
                verify_pin(endpoint, stream.sock)

    def next(self, timeout_s: float) -> list[dict[str, Any]]:
        """Return the events that have come. The first one is waited for at most so many seconds."""
        stream = self._stream
        with self._broken_is_unreachable():
            if not stream.messages and not self._pending():
                waiting = select.poll()
                waiting.register(stream.sock, select.POLLIN)
                if not waiting.poll(timeout_s * 1000):
                    return []
            alive = stream.once()
            while alive and stream.buf:
                alive = stream.once()
            events, stream.messages = stream.messages, []
            if not alive and not events:
                raise EOFError("the daemon closed the event stream")
            return cast("list[dict[str, Any]]", events)

    def close(self) -> None:
        """Close it at once."""
        # The stream's own close_connection would leave the socket open when it was not connected.
        self._stream.sock.close()

    def _pending(self) -> bool:
        sock = self._stream.sock
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    @contextmanager
    def _broken_is_unreachable(self) -> Iterator[None]:
        try:
            yield
        except (HandshakeError, WebSocketException) as error:
            self.close()
            raise TransientError(Reason.TARGET_UNREACHABLE, f"watching instances: {error}") from error
        except (OSError, EOFError) as error:
            self.close()
            raise classify.from_exception(error, "watching instances") from error


def _state(status: object) -> InstanceState:
    return _STATES.get(str(status), InstanceState.STOPPED)


@contextmanager
def _classified(what: str) -> Iterator[None]:
    try:
        yield
    except (
        pylxd.exceptions.LXDAPIException,
        pylxd.exceptions.ClientConnectionFailed,
        requests.RequestException,
    ) as error:
        raise _classify(error, what) from error
    except (KeyError, ValueError, AttributeError) as error:
        raise TransientError(
            Reason.TARGET_PROTOCOL, f"{what}: the daemon's answer makes no sense: {error!r}"
        ) from error


def _classify(error: Exception, what: str) -> AttemptError:
    if isinstance(error, pylxd.exceptions.LXDAPIException):
        return classify.from_http(error.response.status_code, str(error), what)
    if isinstance(error, pylxd.exceptions.ClientConnectionFailed) and isinstance(error.__context__, Exception):
        error = error.__context__  # which pylxd turned into words
    if isinstance(error, requests.exceptions.SSLError):
        return PermanentError(
            Reason.TARGET_FORBIDDEN,
            f"{what}: the daemon's certificate is not the one expected, or is not trusted: {error}",
        )
    if isinstance(error, requests.exceptions.Timeout):
        return classify.from_exception(TimeoutError(), what)
    return TransientError(
        Reason.TARGET_UNREACHABLE,
        f"{what}: the target's daemon does not answer: is it running, and is the address right? ({error})",
    )
