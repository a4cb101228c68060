"""This module has the byte stream to a daemon, over a unix socket or TLS. Every wait has a time-out, and `check` can
end it.

All waiting is done in slices, so that a cancelled task does not sit out the time-out of a daemon that hangs. On a unix
socket the kernel waits (SO_RCVTIMEO, SO_SNDTIMEO): a non-blocking one takes a large packet in pieces with a poll
between them, which halved the throughput. TLS cannot be made to wait like that and is non-blocking, with poll and not
select: a busy worker has descriptors above 1023.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from longshore.worker.targets.base import no_check

_SLICE_S: Final = 0.1
_SLICE: Final = struct.pack("@ll", 0, int(_SLICE_S * 1_000_000))
"""The slice as a struct timeval."""
_RECEIVE: Final = 64 * 1024
_MAX_HEAD: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The time-outs limit how long the worker waits for a daemon, in seconds (> 0)."""

    connect_s: float = 5.0
    """A connection may take so long, its TLS handshake included."""
    answer_s: float = 30.0
    """The next bytes in either direction may take so long, while something is awaited."""
    cleanup_s: float = 5.0
    """Both may take so long while the worker cleans up after a failure."""

    def quick(self) -> Timeouts:
        """Return the time-outs for cleaning up."""
        return Timeouts(min(self.connect_s, self.cleanup_s), self.cleanup_s, self.cleanup_s)


@dataclass(frozen=True, slots=True)
class DaemonEndpoint:
    """A daemon listens at `socket_path`, or else at `host` and `port` with TLS."""

    socket_path: str = ""
    host: str = ""
    port: int = 0
    cert: str = ""
    key: str = ""
    server_cert: str = ""
    """This PEM file has the one certificate that is accepted. An empty path means any that a public authority vouches
    for."""

    def __str__(self) -> str:
        return self.socket_path or f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the address as an https URL; it is empty for a unix socket."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return "" if self.socket_path else f"https://{host}:{self.port}"


class PinMismatch(ssl.SSLCertVerificationError):
    """The daemon shows another certificate than the one it is known by."""


class UpgradeRefused(Exception):
    """The daemon answered the upgrade with a status of its own."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status: Final = status
        self.text: Final = text


class Transport:
    """One connection, for one thread at a time.

    `check` is called while waiting; what it raises passes through, and after that `broken` tells whether a packet was
    cut off. Raises TimeoutError, EOFError, OSError and ssl.SSLError.
    """

    __slots__ = ("_inbox", "_poll", "_sock", "_tls", "answer_s", "broken", "check")

    def __init__(self, sock: socket.socket, *, answer_s: float) -> None:
        self._sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        if self._tls:
            sock.setblocking(False)
        else:
            sock.setblocking(True)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _SLICE)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SLICE)
        self._inbox = memoryview(bytearray(_RECEIVE))
        self._poll = select.poll()
        self._poll.register(sock, 0)
        self.answer_s = answer_s
        self.check: Callable[[], None] = no_check
        self.broken = False

    def send(self, *parts: bytes) -> None:
        """Send all of it."""
        self._insist()
        # Joining copies; a TLS record has to be built anyway, a unix socket takes the parts as they are.
        left = [memoryview(b"".join(parts))] if self._tls else [memoryview(part) for part in parts]
        deadline = time.monotonic() + self.answer_s
        try:
            while left:
                sent, want = self._try_send(left)
                if want:
                    self._wait(want, deadline)
                    continue
                deadline = time.monotonic() + self.answer_s
                left = _drop(left, sent)
        except BaseException:
            self.broken = True
            raise

    def receive(self) -> bytes:
        """Return the next bytes, at least one. Stopping it by `check` loses nothing."""
        self._insist()
        deadline = time.monotonic() + self.answer_s
        while True:
            try:
                count = self._sock.recv_into(self._inbox)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait(select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, deadline)
            except BaseException:
                self.broken = True
                raise
            else:
                if not count:
                    self.broken = True
                    raise EOFError("the daemon closed the connection")
                return bytes(self._inbox[:count])

    def readable(self) -> bool:
        """Return whether `receive` would return, or raise, without waiting."""
        if self._sock.fileno() < 0 or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
            return True
        self._poll.modify(self._sock, select.POLLIN)
        return bool(self._poll.poll(0))

    def abort(self) -> None:
        """Break the stream from another thread. The thread that uses the stream gets an EOFError, and closes it."""
        self.broken = True
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # It was not connected any more, which is what we want.

    def close(self) -> None:
        """Close the stream at once. A second call is harmless."""
        self.abort()
        self._sock.close()

    def handshake(self) -> None:
        """Finish TLS, if this is TLS."""
        if not isinstance(self._sock, ssl.SSLSocket):
            return
        deadline = time.monotonic() + self.answer_s
        while True:
            try:
                self._sock.do_handshake()
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, deadline)
            else:
                return

    def _try_send(self, parts: Sequence[memoryview]) -> tuple[int, int]:
        """Send bytes. Returns how many were sent, and the poll event to wait for when it was none."""
        try:
            return (self._sock.send(parts[0]) if self._tls else self._sock.sendmsg(parts)), 0
        except (BlockingIOError, ssl.SSLWantWriteError):
            return 0, select.POLLOUT
        except ssl.SSLWantReadError:
            return 0, select.POLLIN

    def _insist(self) -> None:
        if self.broken:
            raise EOFError("the connection is broken")

    def _wait(self, event: int, deadline: float) -> None:
        if self._sock.fileno() < 0:
            raise EOFError("the connection was closed from this side")
        while True:
            self.check()
            left = deadline - time.monotonic()
            if left <= 0:
                self.broken = True  # An answer that comes later would be taken for the next one's.
                raise TimeoutError(f"no answer for {self.answer_s:g} s")
            if not self._tls:
                return  # The kernel has waited, and will again.
            self._poll.modify(self._sock, event)
            if self._poll.poll(min(left, _SLICE_S) * 1000):
                return


def _drop(parts: list[memoryview], count: int) -> list[memoryview]:
    while parts and count >= len(parts[0]):
        count -= len(parts[0])
        parts = parts[1:]
    return [parts[0][count:], *parts[1:]] if parts else parts


def connect(endpoint: DaemonEndpoint, timeouts: Timeouts, *, check: Callable[[], None] = no_check) -> Transport:
    """Connect to a daemon and finish TLS."""
    if endpoint.socket_path:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(timeouts.connect_s)
            sock.connect(endpoint.socket_path)
        except BaseException:
            sock.close()
            raise
        return Transport(sock, answer_s=timeouts.answer_s)
    raw = socket.create_connection((endpoint.host, endpoint.port), timeouts.connect_s)
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else 40 ms a request, by Nagle and delayed ACKs
        raw.setblocking(False)
        tls = tls_context(endpoint).wrap_socket(raw, server_hostname=endpoint.host, do_handshake_on_connect=False)
    except BaseException:
        raw.close()
        raise
    transport = Transport(tls, answer_s=timeouts.connect_s)
    try:
        transport.check = check
        transport.handshake()
        verify_pin(endpoint, tls)
    except BaseException:
        transport.close()
        raise
    transport.answer_s = timeouts.answer_s
    return transport


def public_authorities() -> str:
    """Return the system's file of certificate authorities, else the one that comes with certifi."""
    # Here and not at the top: a worker without LXD needs no requests, whose import was a sixth of its start.
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    return ssl.get_default_verify_paths().cafile or DEFAULT_CA_BUNDLE_PATH


def tls_context(endpoint: DaemonEndpoint) -> ssl.SSLContext:
    """Make the client's side of TLS: the worker's certificate, and the daemon's pinned or signed by an authority."""
    context = ssl.create_default_context(cafile=public_authorities())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if endpoint.server_cert:
        # Daemons sign their own certificates, with names that rarely fit: the pin replaces both checks.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if endpoint.cert:
        context.load_cert_chain(endpoint.cert, endpoint.key or None)
    return context


def verify_pin(endpoint: DaemonEndpoint, tls: ssl.SSLSocket) -> None:
    """Raise `PinMismatch` unless the peer shows the pinned certificate."""
    if not endpoint.server_cert:
        return
    pinned = ssl.PEM_cert_to_DER_cert(_first_certificate(Path(endpoint.server_cert).read_text(encoding="ascii")))
    if tls.getpeercert(binary_form=True) != pinned:
        raise PinMismatch(f"{endpoint} shows another certificate than {endpoint.server_cert}")


def _first_certificate(pem: str) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    start = pem.find(begin)
    stop = pem.find(end, start)
    if start < 0 or stop < 0:
        raise ValueError("the file given as server_cert holds no PEM certificate")
    return pem[start : stop + len(end)]


def upgrade(transport: Transport, resource: str, protocol: str) -> bytes:
    """Turn an HTTP connection into a stream of `protocol`. Returns bytes that came right behind the answer's head."""
    transport.send(
        f"GET {resource} HTTP/1.1\r\nHost: longshore\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n"
        "User-Agent: longshore-worker\r\n\r\n".encode("ascii")
    )
    data = b""
    while b"\r\n\r\n" not in data:
        if len(data) > _MAX_HEAD:
            raise EOFError("the daemon's answer to the upgrade has no end")
        data += transport.receive()
    head, _, rest = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    words = status_line.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise EOFError(f"the daemon's answer to the upgrade is not HTTP: {status_line[:80]!r}")
    status = int(words[1])
    if status == 101:
        return rest
    raise UpgradeRefused(status, _refusal(transport, lines, rest))


def _refusal(transport: Transport, lines: list[str], body: bytes) -> str:
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    declared = headers.get("content-length", "")
    wanted = min(int(declared), _MAX_HEAD) if declared.isdigit() else 0
    while len(body) < wanted:
        body += transport.receive()
    return body.decode("utf-8", "replace").strip()
