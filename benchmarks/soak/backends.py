"""`python -m benchmarks.soak.backends PORT HEALTH_PORT UP_S DOWN_S SLACK_S ADDRESS…`

Backends on one port of several addresses. The health endpoint of the last one says 503 again and
again for DOWN_S, while its port goes on accepting: so it shows when a connection comes that should
not. Prints `<accepted> <late>` each second; late: accepted more than SLACK_S after it went down.
"""

from __future__ import annotations

import selectors
import socket
import sys
import threading
import time

from benchmarks.soak.talk import PATIENCE_S, answer

THREADS = 24
HEALTH_ANSWER = b"HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Flapping:
    """Whether the last backend is well, by the clock."""

    def __init__(self, up_s: float, down_s: float, slack_s: float) -> None:
        self._up_s, self._down_s, self._slack_s = up_s, down_s, slack_s
        self._began_s = time.monotonic()

    def down_for_s(self) -> float:
        """How long it has been down; negative: it is up."""
        return (time.monotonic() - self._began_s) % (self._up_s + self._down_s) - self._up_s

    def is_late(self) -> bool:
        """Whether a connection that comes now should not."""
        return self.down_for_s() > self._slack_s


class Backends:
    """What they have seen."""

    def __init__(self, flapping: Flapping) -> None:
        self._flapping = flapping
        self.accepted = 0
        self.late = 0

    def serve(self, listener: socket.socket, flaps: bool) -> None:
        """One thread: accept, answer, and again."""
        while True:
            connection, _ = listener.accept()
            if flaps and self._flapping.is_late():
                self.late += 1
            self.accepted += 1
            connection.settimeout(PATIENCE_S)
            try:
                with connection:
                    answer(connection)
            except OSError:
                continue  # resets are part of it; clients tell what they missed

    def check(self, listeners: list[socket.socket]) -> None:
        """Answer health checks; the last listener is of the one that flaps."""
        waiting = selectors.DefaultSelector()
        for listener in listeners:
            waiting.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                flaps = key.fileobj is listeners[-1]
                bad = flaps and self._flapping.down_for_s() >= 0
                try:
                    connection = key.fileobj.accept()[0]  # type: ignore[union-attr]
                    with connection:
                        connection.settimeout(1)
                        connection.recv(4096)
                        connection.sendall(HEALTH_ANSWER % (b"503 down" if bad else b"200 OK"))
                except OSError:
                    continue


def main() -> None:
    """See above."""
    port, health_port = int(sys.argv[1]), int(sys.argv[2])
    backends = Backends(Flapping(*map(float, sys.argv[3:6])))
    addresses = sys.argv[6:]
    checked = []
    for address in addresses:
        listener = socket.create_server((address, port), backlog=1024)
        checked.append(socket.create_server((address, health_port)))
        flaps = address == addresses[-1]
        for _ in range(THREADS):
            threading.Thread(target=backends.serve, args=(listener, flaps), daemon=True).start()
    threading.Thread(target=backends.check, args=(checked,), daemon=True).start()
    while True:
        time.sleep(1)
        print(backends.accepted, backends.late, flush=True)


if __name__ == "__main__":
    main()
