"""Bulk TCP between the client and a backend: real sockets, as many bytes as go through."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from benchmarks.forward.frames import FlowError
from benchmarks.forward.lab import PORT, ROUTED, Ends

_CHUNK = 1 << 18
_PATIENCE_S = 10.0


class Streams:
    """Those that are under way; each has a thread at both ends."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def received(self) -> int:
        """Bytes so far, by what backends have read."""
        return sum(self._received)

    def begin(self, client: socket.socket, backend: socket.socket) -> None:
        """One more."""
        self._received.append(0)
        self._sockets += [client, backend]
        number = len(self._received) - 1
        for work in (lambda: self._send(client), lambda: self._receive(backend, number)):
            self._threads.append(threading.Thread(target=work, daemon=True))
            self._threads[-1].start()

    def end(self) -> None:
        """All of them, at once."""
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _send(self, stream: socket.socket) -> None:
        data = bytes(_CHUNK)
        with contextlib.suppress(OSError):  # it is ended
            while True:
                stream.sendall(data)

    def _receive(self, stream: socket.socket, number: int) -> None:
        room = bytearray(_CHUNK)
        with contextlib.suppress(OSError):
            while got := stream.recv_into(room):
                self._received[number] += got


def _connected(address: str, source: str) -> socket.socket:
    try:
        return socket.create_connection((address, PORT), _PATIENCE_S, (source, 0))
    except OSError as error:
        raise FlowError(f"no TCP to {address}: {error}") from error


@contextlib.contextmanager
def streams(ends: Ends, address: str, n: int) -> Iterator[Streams]:
    """So many connections to an address."""
    found = Streams()
    source = f"{ROUTED['client']}.1" if address.startswith(ROUTED["backend"]) else "0.0.0.0"
    with ends.backend.entered():
        listening = socket.create_server(("", PORT), backlog=64)
    with listening:
        listening.settimeout(_PATIENCE_S)
        try:
            pairs = []
            for _ in range(n):  # none sends before all are there
                with ends.client.entered():
                    client = _connected(address, source)
                backend, _ = listening.accept()
                client.settimeout(None)
                backend.settimeout(None)
                pairs.append((client, backend))
            for client, backend in pairs:
                found.begin(client, backend)
            yield found
        finally:
            found.end()
