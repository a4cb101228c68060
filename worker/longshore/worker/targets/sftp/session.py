"""An SFTP session with a daemon's instance: what file pushes need of SFTP, and nothing else.

Several requests are in flight at once (252 KiB x 8), and every answer is read: a write error arrives with its own
answer, and a client that does not look never learns that the disk is full. Requests whose answer is only "OK" are
*deferred*: their answers are taken before the next one that matters, so that a small file takes four round trips and
not nine. The first error among them is raised there.
"""

from __future__ import annotations

import itertools
import stat as stat_bits
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

import google_crc32c

from longshore.contract.limits import LARGEST_MODE
from longshore.worker.targets.base import FileKind, FileStat, Source, Written, chunks, no_check
from longshore.worker.targets.sftp import wire
from longshore.worker.targets.sftp.wire import Answer, Kind, OpenFlag, ProtocolError
from longshore.worker.targets.transport import Transport

_TOGETHER: Final = 32 * 1024
WINDOW: Final = 8
"""Writes in flight."""
_READ: Final = 128 * 1024
_READS: Final = 16
"""Bytes in a read, and reads in flight. Most servers answer with 32 KiB."""
POSIX_RENAME: Final = "posix-rename@openssh.com"
HARDLINK: Final = "hardlink@openssh.com"


class SftpStatus(Exception):
    """The server answered with a status that is not OK. The session stays usable."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"SFTP status {code}: {text}")
        self.code: Final = code
        self.text: Final = text

    @property
    def missing(self) -> bool:
        """Return whether the name, or a part of the path to it, is not there."""
        return self.code == wire.NO_SUCH_FILE or (self.code == wire.FAILURE and self.text.endswith("not a directory"))


class SftpSession:
    """One SFTP session, for one thread at a time.

    Raises `SftpStatus` for what the server refuses; everything else (time-outs, broken streams, `ProtocolError`) breaks
    the session. When `check` stops a transfer the open answers are still awaited, so that the session stays in step.
    """

    def __init__(self, transport: Transport, *, received: bytes = b"") -> None:
        self._transport = transport
        self._buffer = wire.PacketBuffer()
        self._buffer.feed(received)
        self._numbers = itertools.count(1)
        self._open: set[int] = set()
        self._outbox: list[bytes] = []
        self._outbox_size = 0
        self._transport.send(wire.hello())
        answer = self._packet()
        if answer.kind != Kind.VERSION:
            raise ProtocolError(f"the server began with a packet of type {answer.kind}")
        version, self.extensions = wire.parse_version(answer.body)
        if version != 3:
            raise ProtocolError(f"the server speaks SFTP version {version}")

    @property
    def usable(self) -> bool:
        """Return whether the session is in step and connected, as far as can be seen without asking."""
        return not self._transport.broken and not self._open and not self._transport.readable()

    def set_check(self, check: Callable[[], None]) -> None:
        """Set the check that is called while the session waits."""
        self._transport.check = check

    def set_timeout(self, answer_s: float) -> None:
        """Set the seconds to wait for each answer."""
        self._transport.answer_s = answer_s

    def abort(self) -> None:
        """Break the session from another thread; a thread that uses it ends with an error."""
        self._transport.abort()

    def close(self) -> None:
        """End the session at once; the daemon closes what was open."""
        self._transport.close()

    # -- files -------------------------------------------------------------------------------------------------------

    def create(self, path: str) -> bytes:
        """Create a file that did not exist, and return its handle.

        Set its mode at once: pkg/sftp up to 1.13.5 creates 0644 whatever it is asked for.
        """
        flags = OpenFlag.WRITE | OpenFlag.CREATE | OpenFlag.EXCLUSIVE
        return self._handle(Kind.OPEN, _path(path), struct.pack(">I", flags), wire.attributes(mode=0o600))

    def open_read(self, path: str) -> bytes:
        """Open a file for reading and return its handle."""
        return self._handle(Kind.OPEN, _path(path), struct.pack(">I", OpenFlag.READ), wire.attributes())

    def open_write(self, path: str) -> bytes:
        """Open an existing file for writing, empty it, and return its handle. Symlinks are followed."""
        flags = OpenFlag.WRITE | OpenFlag.TRUNCATE
        return self._handle(Kind.OPEN, _path(path), struct.pack(">I", flags), wire.attributes())

    def close_handle(self, handle: bytes) -> None:
        """Close it. Deferred."""
        self._send(Kind.CLOSE, wire.string(handle))

    def set_handle_owner(self, handle: bytes, uid: int, gid: int) -> None:
        """chown. Deferred."""
        self._send(Kind.FSETSTAT, wire.string(handle), wire.attributes(owner=(uid, gid)))

    def set_handle_mode(self, handle: bytes, mode: int) -> None:
        """chmod. Deferred."""
        self._send(Kind.FSETSTAT, wire.string(handle), wire.attributes(mode=mode))

    def write(self, handle: bytes, source: Source, *, advance: Callable[[int], None]) -> Written:
        """Send all of `source` from offset 0 on. The last answers are deferred; up to `WINDOW` are open at a time."""
        target = wire.string(handle)
        offset = crc = 0
        try:
            for chunk in chunks(source):
                crc = google_crc32c.extend(crc, chunk)
                head = target + struct.pack(">QI", offset, len(chunk))
                self._send(Kind.WRITE, head, chunk)
                offset += len(chunk)
                advance(offset)
                # Answers are taken when they must be, several at once: a look at the socket for each write costs more.
                while len(self._open) >= WINDOW:
                    _expect_ok(self._answer())
        except BaseException:
            self.drain()
            raise
        return Written(offset, crc)

    def read(self, path: str, *, advance: Callable[[int], None]) -> Written:
        """Read all of a file, and return its size and CRC32C."""
        handle = self.open_read(path)
        try:
            written = self._read_all(wire.string(handle), advance)
        except BaseException:
            self.abandon_handle(handle)
            raise
        self.close_handle(handle)
        self.take_answers()
        return written

    def read_at(self, handle: bytes, offset: int, size: int) -> bytes:
        """Read at most `size` bytes from an offset on. Empty means the end of the file."""
        try:
            return _data(self._call(Kind.READ, wire.string(handle), struct.pack(">QI", offset, min(size, _READ))))
        except SftpStatus as status:
            if status.code == wire.EOF:
                return b""
            raise

    def abandon_handle(self, handle: bytes) -> None:
        """Close a handle whose file does not matter any more. Never raises. A broken session needs no call."""
        self.drain()
        if not self._transport.broken:
            try:
                self.close_handle(handle)
            except (OSError, EOFError):
                self._transport.close()
            self.drain()

    def take_answers(self) -> None:
        """Take the answers of deferred requests, and raise the first error among them."""
        failed: SftpStatus | None = None
        while self._open:
            try:
                _expect_ok(self._answer())
            except SftpStatus as status:
                failed = failed or status
        if failed is not None:
            raise failed

    # -- names -------------------------------------------------------------------------------------------------------

    def stat(self, path: str, *, follow: bool) -> FileStat | None:
        """Look at a path. None means that nothing is there."""
        try:
            answer = self._call(Kind.STAT if follow else Kind.LSTAT, _path(path))
        except SftpStatus as status:
            if status.missing:
                return None
            raise
        if answer.kind != Kind.ATTRS:
            raise ProtocolError(f"stat was answered with a packet of type {answer.kind}")
        return _file_stat(wire.parse_attributes(answer.body))

    def mkdir(self, path: str) -> None:
        """Create a folder, 0755."""
        self._done(Kind.MKDIR, _path(path), wire.attributes(mode=0o755))

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        self._done(Kind.RMDIR, _path(path))

    def set_owner(self, path: str, uid: int, gid: int) -> None:
        """Set the owner of a path, in a packet of its own, because daemons misread one with owner and mode."""
        self._done(Kind.SETSTAT, _path(path), wire.attributes(owner=(uid, gid)))

    def set_mode(self, path: str, mode: int) -> None:
        """chmod by name."""
        self._done(Kind.SETSTAT, _path(path), wire.attributes(mode=mode))

    def remove(self, path: str) -> bool:
        """Remove a file. Returns False when it is not there."""
        try:
            self._done(Kind.REMOVE, _path(path))
        except SftpStatus as status:
            if status.missing:
                return False
            raise
        return True

    def posix_rename(self, old: str, new: str) -> None:
        """Rename in one step over whatever file is there."""
        self._done(Kind.EXTENDED, wire.string(POSIX_RENAME.encode()), _path(old), _path(new))

    def hardlink(self, old: str, new: str) -> None:
        """Give a file a second name; refused when that name is taken."""
        self._done(Kind.EXTENDED, wire.string(HARDLINK.encode()), _path(old), _path(new))

    # -- requests and answers ----------------------------------------------------------------------------------------

    def _send(self, kind: Kind, *parts: bytes) -> int:
        number = next(self._numbers) & 0xFFFFFFFF
        length = sum(map(len, parts))
        self._outbox += (wire.header(kind, number, length) + parts[0], *parts[1:])
        self._outbox_size += length
        self._open.add(number)
        # Small requests leave together: each send wakes the daemon, which then takes the processor from us.
        if self._outbox_size >= _TOGETHER:
            self._flush()
        return number

    def _flush(self) -> None:
        parts, self._outbox, self._outbox_size = self._outbox, [], 0
        if parts:
            self._transport.send(*parts)

    def _packet(self) -> Answer:
        try:
            while (answer := self._buffer.next()) is None:
                self._flush()
                self._buffer.feed(self._transport.receive())
        except ProtocolError:
            self._transport.close()
            raise
        return answer

    def _answer(self) -> Answer:
        answer = self._packet()
        if answer.request not in self._open:
            self._transport.close()
            raise ProtocolError(f"an answer to request {answer.request}, which was not asked")
        self._open.discard(answer.request)
        return answer

    def _call(self, kind: Kind, *parts: bytes) -> Answer:
        number = self._send(kind, *parts)
        mine: Answer | None = None
        failed: SftpStatus | None = None
        while self._open:
            answer = self._answer()
            if answer.request == number:
                mine = answer
                continue
            try:
                _expect_ok(answer)
            except SftpStatus as status:
                failed = failed or status
        if failed is not None:
            raise failed
        assert mine is not None, "its number was open"
        if mine.kind == Kind.STATUS:
            _raise_unless_ok(mine)
        return mine

    def _done(self, kind: Kind, *parts: bytes) -> None:
        answer = self._call(kind, *parts)
        if answer.kind != Kind.STATUS:
            raise ProtocolError(f"a request of type {kind} was answered with type {answer.kind}")

    def _handle(self, kind: Kind, *parts: bytes) -> bytes:
        answer = self._call(kind, *parts)
        if answer.kind != Kind.HANDLE:
            raise ProtocolError(f"open was answered with a packet of type {answer.kind}")
        return wire.parse_string(answer.body)

    def drain(self) -> None:
        """Read the answers still open after a failure; never raises. What they say does not matter any more."""
        check, self._transport.check = self._transport.check, no_check
        try:
            while self._open and not self._transport.broken:
                self._answer()
        except (OSError, EOFError, ProtocolError):
            self._transport.close()
        finally:
            self._transport.check = check

    def _read_all(self, target: bytes, advance: Callable[[int], None]) -> Written:
        # Servers may answer short (32 KiB, say): the first answer tells how much to ask for, and a later short one is
        # completed by itself. Answers may come in any order; the checksum wants them in ours.
        crc = done = 0
        size = _READ
        asked: deque[tuple[int, int, int]] = deque()
        arrived: dict[int, Answer] = {}
        window = 1
        next_offset = 0
        ended = False
        while asked or not ended:
            while not ended and len(asked) < window:
                number = self._send(Kind.READ, target + struct.pack(">QI", next_offset, size))
                asked.append((number, next_offset, size))
                next_offset += size
            number, offset, wanted = asked.popleft()
            while number not in arrived:
                answer = self._answer()
                arrived[answer.request] = answer
            piece = _data(arrived.pop(number))
            if not piece:
                ended = True
                continue
            crc = google_crc32c.extend(crc, piece)
            done += len(piece)
            advance(done)
            if len(piece) > wanted:
                raise ProtocolError("more bytes than were asked for")
            if window == 1:
                size, next_offset, window = len(piece), offset + len(piece), _READS
            elif len(piece) < wanted:
                rest = self._send(Kind.READ, target + struct.pack(">QI", offset + len(piece), wanted - len(piece)))
                asked.appendleft((rest, offset + len(piece), wanted - len(piece)))
        return Written(done, crc)


def _path(path: str) -> bytes:
    return wire.string(path.encode())


def _raise_unless_ok(answer: Answer) -> None:
    code, text = wire.parse_status(answer.body)
    if code != wire.OK:
        raise SftpStatus(code, text)


def _expect_ok(answer: Answer) -> None:
    if answer.kind != Kind.STATUS:
        raise ProtocolError(f"a write was answered with a packet of type {answer.kind}")
    _raise_unless_ok(answer)


def _data(answer: Answer) -> bytes:
    """Return the bytes of a read. Empty means the end of the file."""
    if answer.kind == Kind.DATA:
        return wire.parse_string(answer.body)
    if answer.kind != Kind.STATUS:
        raise ProtocolError(f"a read was answered with a packet of type {answer.kind}")
    code, text = wire.parse_status(answer.body)
    if code == wire.EOF:
        return b""
    raise SftpStatus(code, text or "a read was answered with a status and no bytes")


def _file_stat(found: wire.WireAttributes) -> FileStat:
    if found.mode is None:
        raise ProtocolError("the server tells no mode")
    if stat_bits.S_ISREG(found.mode):
        kind = FileKind.FILE
    elif stat_bits.S_ISDIR(found.mode):
        kind = FileKind.DIRECTORY
    elif stat_bits.S_ISLNK(found.mode):
        kind = FileKind.SYMLINK
    else:
        kind = FileKind.OTHER
    return FileStat(kind, found.size or 0, found.mode & LARGEST_MODE, found.uid or 0, found.gid or 0)
