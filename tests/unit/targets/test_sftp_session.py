"""An SFTP session against servers that misbehave: over a socket pair, with a script for a server."""

from __future__ import annotations

import io
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import google_crc32c
import pytest

from longshore.worker.errors import AttemptStopped, StopReason
from longshore.worker.targets.base import CHUNK, Attributes, Written
from longshore.worker.targets.sftp import wire
from longshore.worker.targets.sftp.delivery import SftpDelivery
from longshore.worker.targets.sftp.session import WINDOW, SftpSession, SftpStatus
from longshore.worker.targets.sftp.wire import Kind, ProtocolError
from longshore.worker.targets.transport import Transport

VERSION = struct.pack(">IBI", 5, Kind.VERSION, 3)


def status(request: int, code: int, text: bytes = b"") -> bytes:
    body = struct.pack(">I", code) + wire.string(text) + wire.string(b"")
    return struct.pack(">IBI", 5 + len(body), Kind.STATUS, request) + body


def data(request: int, content: bytes) -> bytes:
    body = wire.string(content)
    return struct.pack(">IBI", 5 + len(body), Kind.DATA, request) + body


def handle(request: int) -> bytes:
    body = wire.string(b"h")
    return struct.pack(">IBI", 5 + len(body), Kind.HANDLE, request) + body


class Server:
    """Reads requests from a socket; the script decides about answers."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._received = b""

    def request(self) -> tuple[int, int, bytes] | None:
        """Type, number and body of the next request; None at the end."""
        head = self._take(4)
        if len(head) < 4:
            return None
        body = self._take(int.from_bytes(head, "big"))
        return body[0], int.from_bytes(body[1:5], "big"), body[5:]

    def idle(self) -> bool:
        """No request has come for a while."""
        return not self._received and not select.select([self.sock], [], [], 0.05)[0]

    def _take(self, count: int) -> bytes:
        while len(self._received) < count and (more := self.sock.recv(262_144)):
            self._received += more
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def send(self, *packets: bytes) -> None:
        self.sock.sendall(b"".join(packets))

    def greet(self) -> None:
        self.request()
        self.send(VERSION)

    def close(self) -> None:
        self.sock.close()


@contextmanager
def session(script: Callable[[Server], None], *, answer_s: float = 10.0) -> Iterator[SftpSession]:
    """A session whose other end runs `script` in a thread."""
    ours, theirs = socket.socketpair()
    failures: list[BaseException] = []

    def serve() -> None:
        server = Server(theirs)
        try:
            script(server)
        except (BrokenPipeError, ConnectionResetError):
            pass  # The client had enough.
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            server.close()

    thread = threading.Thread(target=serve)
    thread.start()
    transport = Transport(ours, answer_s=answer_s)
    try:
        yield SftpSession(transport)
    finally:
        transport.close()
        thread.join(20)
        assert not thread.is_alive()
        assert not failures


def ignore(done: int) -> None:
    """Nobody wants to know."""


def test_requests_in_flight_are_bounded_and_several() -> None:
    waiting: list[int] = []

    def script(server: Server) -> None:
        server.greet()
        held: list[int] = []
        # Answer nothing until the window is full, and then one at a time.
        while (request := server.request()) is not None:
            held.append(request[1])
            waiting.append(len(held))
            if len(held) == WINDOW:
                server.send(status(held.pop(0), wire.OK))

    total = WINDOW * 4
    with session(script, answer_s=0.5) as sftp:
        sftp.write(b"h", io.BytesIO(bytes(CHUNK * total)), advance=ignore)
        with pytest.raises(TimeoutError):
            sftp.take_answers()
    assert max(waiting) == WINDOW


def test_a_write_fits_into_the_longest_packet_that_servers_take() -> None:
    lengths: list[int] = []

    def script(server: Server) -> None:
        server.greet()
        while (request := server.request()) is not None:
            lengths.append(5 + len(request[2]))
            server.send(status(request[1], wire.OK))

    with session(script) as sftp:
        # Handles have at most 256 bytes.
        sftp.write(b"h" * 256, io.BytesIO(bytes(CHUNK)), advance=ignore)
        sftp.take_answers()
    assert len(lengths) == 1
    assert lengths[0] <= 256 * 1024


class Counting(Transport):
    """Counts the calls that cost the daemon or us a system call."""

    def __init__(self, sock: socket.socket, *, answer_s: float) -> None:
        super().__init__(sock, answer_s=answer_s)
        self.sends = self.receives = self.looks = 0

    def send(self, *parts: bytes) -> None:
        self.sends += 1
        super().send(*parts)

    def receive(self) -> bytes:
        self.receives += 1
        return super().receive()

    def readable(self) -> bool:
        self.looks += 1
        return super().readable()


@contextmanager
def counted(script: Callable[[Server], None]) -> Iterator[tuple[SftpSession, Counting]]:
    """A session and the counts since its greeting."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=lambda: script(Server(theirs)))
    thread.start()
    transport = Counting(ours, answer_s=10.0)
    try:
        opened = SftpSession(transport)
        transport.sends = transport.receives = transport.looks = 0
        yield opened, transport
    finally:
        transport.close()
        thread.join(20)
        theirs.close()
        assert not thread.is_alive()


def test_a_large_write_is_one_send_and_at_most_one_receive_a_chunk() -> None:
    def script(server: Server) -> None:
        server.greet()
        while (request := server.request()) is not None:
            server.send(status(request[1], wire.OK))

    chunks = 100
    with counted(script) as (sftp, count):
        sftp.write(b"h", io.BytesIO(bytes(CHUNK * chunks)), advance=ignore)
        sftp.take_answers()
    assert count.sends == chunks
    assert count.receives <= chunks
    assert count.looks == 0


def test_a_large_write_sends_the_bytes_that_it_read_and_no_copies() -> None:
    pieces = [bytes(CHUNK) for _ in range(3)]
    sent: list[bytes] = []

    class Keeping(Counting):
        def send(self, *parts: bytes) -> None:
            sent.extend(parts)
            super().send(*parts)

    class Pieces:
        def __init__(self) -> None:
            self._left = iter(pieces)

        def read(self, size: int, /) -> bytes:
            assert size == CHUNK
            return next(self._left, b"")

    def script(server: Server) -> None:
        server.greet()
        while (request := server.request()) is not None:
            server.send(status(request[1], wire.OK))

    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=lambda: script(Server(theirs)))
    thread.start()
    transport = Keeping(ours, answer_s=10.0)
    try:
        sftp = SftpSession(transport)
        sftp.write(b"h", Pieces(), advance=ignore)
        sftp.take_answers()
    finally:
        transport.close()
        thread.join(20)
        theirs.close()
    assert [part for part in sent if len(part) == CHUNK and any(part is piece for piece in pieces)] == pieces


def test_a_small_delivery_takes_eight_packets_in_four_round_trips() -> None:
    packets: list[int] = []

    def script(server: Server) -> None:
        server.greet()
        while (request := server.request()) is not None:
            kind, number, _ = request
            packets.append(kind)
            if kind == Kind.OPEN:
                server.send(handle(number))
            elif kind == Kind.LSTAT and packets.count(Kind.LSTAT) == 2:
                body = struct.pack(">IQIII", 0x7, 1024, 0, 0, 0o100644)
                server.send(struct.pack(">IBI", 5 + len(body), Kind.ATTRS, number) + body)
            else:
                server.send(status(number, wire.NO_SUCH_FILE if kind == Kind.LSTAT else wire.OK))

    with counted(script) as (sftp, count):
        sftp.extensions = {"posix-rename@openssh.com": "1"}
        delivery = SftpDelivery(sftp, check=lambda: None, give_back=lambda used: None)
        assert delivery.stat("/f", follow=False) is None
        temp = delivery.create_temp("/t", Attributes(0o644, 0, 0))
        temp.write(io.BytesIO(bytes(1024)), advance=ignore)
        assert temp.finish().size == 1024
        delivery.commit("/t", "/f", replace=True)
    assert packets == [
        Kind.LSTAT,
        Kind.OPEN,
        *(Kind.FSETSTAT, Kind.FSETSTAT, Kind.WRITE, Kind.CLOSE, Kind.LSTAT),
        Kind.EXTENDED,
    ]
    assert count.sends == 4


def test_write_error_that_comes_late_is_not_lost() -> None:
    def script(server: Server) -> None:
        server.greet()
        numbers = []
        for _ in range(5):
            request = server.request()
            assert request is not None
            numbers.append(request[1])
        full = status(numbers[4], wire.FAILURE, b"write /f: no space left on device")
        server.send(*(status(number, wire.OK) for number in numbers[:4]), full)
        request = server.request()
        assert request is not None
        server.send(status(request[1], wire.OK))

    with session(script) as sftp:
        sftp.write(b"h", io.BytesIO(bytes(CHUNK * 5)), advance=ignore)
        with pytest.raises(SftpStatus, match="no space left"):
            sftp.take_answers()
        assert sftp.usable, "every answer was read"
        sftp.close_handle(b"h")
        sftp.take_answers()


def test_deferred_error_is_raised_by_the_next_request_and_only_there() -> None:
    def script(server: Server) -> None:
        server.greet()
        for number in range(4):
            request = server.request()
            assert request is not None
            refused = number == 1
            server.send(status(request[1], wire.FAILURE if refused else wire.OK, b"chmod: read-only file system"))

    with session(script) as sftp:
        sftp.set_handle_owner(b"h", 1, 2)
        sftp.set_handle_mode(b"h", 0o600)
        with pytest.raises(SftpStatus, match="read-only"):
            sftp.remove("/file")
        assert sftp.usable
        assert sftp.remove("/file"), "said once is enough"


def test_stop_in_the_middle_leaves_the_session_in_step() -> None:
    def script(server: Server) -> None:
        server.greet()
        while (request := server.request()) is not None:
            server.send(status(request[1], wire.OK))

    def stop(done: int) -> None:
        if done > 500_000:
            raise AttemptStopped(StopReason.CANCELLED)

    with session(script) as sftp:
        with pytest.raises(AttemptStopped):
            sftp.write(b"h", io.BytesIO(bytes(10_000_000)), advance=stop)
        assert sftp.usable
        assert sftp.remove("/temp")


def test_stop_while_waiting_for_a_silent_server() -> None:
    released = threading.Event()

    def script(server: Server) -> None:
        server.greet()
        server.request()
        released.wait(20)

    with session(script, answer_s=60) as sftp:
        began = time.monotonic()

        def check() -> None:
            if time.monotonic() - began > 0.2:
                raise AttemptStopped(StopReason.CANCELLED)

        sftp.set_check(check)
        with pytest.raises(AttemptStopped):
            sftp.stat("/file", follow=True)
        assert time.monotonic() - began < 5
        assert not sftp.usable, "an answer is still to come"
        released.set()


def test_silent_server_meets_a_time_out_and_is_not_used_again() -> None:
    released = threading.Event()

    def script(server: Server) -> None:
        server.greet()
        server.request()
        released.wait(20)

    with session(script, answer_s=0.2) as sftp:
        with pytest.raises(TimeoutError):
            sftp.stat("/file", follow=True)
        assert not sftp.usable
        with pytest.raises(EOFError):
            sftp.stat("/file", follow=True)
        released.set()


def test_reader_of_nothing_meets_a_time_out() -> None:
    """A server that stops reading: the send itself must not wait for ever."""
    released = threading.Event()

    def script(server: Server) -> None:
        server.greet()
        released.wait(20)

    with session(script, answer_s=0.2) as sftp:
        with pytest.raises(TimeoutError):
            sftp.write(b"h", io.BytesIO(bytes(50_000_000)), advance=ignore)
        assert not sftp.usable
        released.set()


@pytest.mark.parametrize("limit", [1_000, 32_768, 100_000, 131_072])
@pytest.mark.parametrize("backwards", [False, True])
def test_read_back_with_short_answers_in_any_order(limit: int, backwards: bool) -> None:
    content = os.urandom(700_001)

    def answer(number: int, body: bytes) -> bytes:
        offset, length = struct.unpack_from(">QI", body, 5)
        piece = content[offset : offset + min(length, limit)]
        return data(number, piece) if piece else status(number, wire.EOF)

    def script(server: Server) -> None:
        server.greet()
        held: list[bytes] = []
        while (request := server.request()) is not None:
            kind, number, body = request
            if kind == Kind.OPEN:
                server.send(handle(number))
            elif kind == Kind.CLOSE:
                server.send(status(number, wire.OK))
            else:
                held.append(answer(number, body))
                # The first goes alone; then pairs change places.
                if not backwards or len(held) == 2 or server.idle():
                    server.send(*reversed(held))
                    held.clear()

    with session(script) as sftp:
        assert sftp.read("/file", advance=ignore) == Written(len(content), google_crc32c.value(content))
        assert sftp.usable


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda n: status(n + 1, wire.OK), id="to another question"),
        pytest.param(lambda n: struct.pack(">I", 2**31), id="endless"),
        pytest.param(lambda n: struct.pack(">IB", 1, 101), id="without a number"),
        pytest.param(lambda n: struct.pack(">IBI", 5, 103, n), id="empty data"),
        pytest.param(lambda n: VERSION, id="a second greeting"),
    ],
)
def test_nonsense_is_a_protocol_error(answer: Callable[[int], bytes]) -> None:
    def script(server: Server) -> None:
        server.greet()
        request = server.request()
        assert request is not None
        server.send(answer(request[1]))
        server.request()

    with session(script) as sftp, pytest.raises(ProtocolError):
        sftp.stat("/file", follow=True)


def test_server_of_another_version_is_refused() -> None:
    def script(server: Server) -> None:
        server.request()
        server.send(struct.pack(">IBI", 5, Kind.VERSION, 6))

    with pytest.raises(ProtocolError, match="version 6"), session(script):
        pass


def test_tiny_send_buffer_gets_every_byte_through() -> None:
    """sendmsg may take a part of what it is given."""
    content = os.urandom(1_000_000)
    received = bytearray()

    def script(server: Server) -> None:
        server.greet()
        while (request := server.request()) is not None:
            _, number, body = request
            received.extend(body[5 + 12 :])
            server.send(status(number, wire.OK))

    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    thread = threading.Thread(target=lambda: script(Server(theirs)))
    thread.start()
    transport = Transport(ours, answer_s=10)
    sftp = SftpSession(transport)
    written = sftp.write(b"h", io.BytesIO(content), advance=ignore)
    sftp.take_answers()
    transport.close()
    thread.join(20)
    theirs.close()
    assert bytes(received) == content
    assert written == Written(len(content), google_crc32c.value(content))
