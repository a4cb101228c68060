"""A tap on a unix socket: passes bytes between clients and a daemon, and spoils what a test wants spoilt."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self


class Tap:
    """Listens on `path` and forwards to `daemon`.

    `refuse`: a connection whose first bytes contain this gets an HTTP 404. `cut_before`: the bytes that contain this
    are not passed on, and the connection ends. `cut_after`: they are passed on, and the answer is not;
    `on_cut` is called in between. Each cut happens once.
    """

    def __init__(self, path: Path, daemon: Path) -> None:
        self.path: Final = path
        self._daemon = daemon
        self.refuse = b""
        self.cut_before = b""
        self.cut_after = b""
        self.cuts = 0
        self.on_cut: Callable[[], None] = lambda: None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def cut_all(self) -> None:
        """End every connection now."""
        with self._lock:
            doomed = list(self._open)
        for sock in doomed:
            _end(sock)

    def refuse_everything(self) -> None:
        """Refuse every connection from now on."""
        self.refuse = b"HTTP"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as daemon, self._known(client), self._known(daemon):
            first = client.recv(65536)
            if self.refuse and self.refuse in first:
                client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nNot Found")
                return
            daemon.connect(str(self._daemon))
            answers_wanted = threading.Event()
            answers_wanted.set()
            back = threading.Thread(target=self._back, args=(daemon, client, answers_wanted), daemon=True)
            back.start()
            data = first
            try:
                while data:
                    if self.cut_before and self.cut_before in data:
                        self.cut_before, self.cuts = b"", self.cuts + 1
                        return
                    if self.cut_after and self.cut_after in data:
                        self.cut_after, self.cuts = b"", self.cuts + 1
                        answers_wanted.clear()
                        daemon.sendall(data)
                        self.on_cut()
                        back.join()
                        return
                    daemon.sendall(data)
                    data = client.recv(262_144)
            except OSError:
                return  # one side ended
            finally:
                _end(daemon)
                _end(client)
                back.join()

    @staticmethod
    def _back(daemon: socket.socket, client: socket.socket, wanted: threading.Event) -> None:
        try:
            while data := daemon.recv(262_144):
                if not wanted.is_set():
                    return  # the answer that a test wants lost
                client.sendall(data)
        except OSError:
            pass  # one side ended
        _end(client)

    @contextmanager
    def _known(self, sock: socket.socket) -> Iterator[None]:
        with self._lock:
            self._open.add(sock)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(sock)


def _end(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # ended already
