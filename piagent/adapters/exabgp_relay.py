"""Joins exabgp to the agent: `python -I -S exabgp_relay.py SOCKET`, started by exabgp itself.

exabgp speaks its API over the standard streams of a child of its own; this one passes everything
on to and from the agent's socket. When the agent closes that, or dies, exabgp is to end: it would
go on announcing. It runs without site-packages and with `_socket` for `socket`: that saves 2 MiB.
"""

from __future__ import annotations

import _socket
import os
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

SIZE = 65536


def relay(path: str) -> None:
    """Pass on until one side has closed."""
    exabgp = os.getppid()
    line = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        line.connect(path)
        while True:
            ready, _, _ = select.select([0, line.fileno()], [], [])
            if 0 in ready and not _pass_on(0, line.fileno()):
                return
            if line.fileno() in ready and not _pass_on(line.fileno(), 1):
                return
    except OSError:
        return  # closed while something was under way
    finally:
        if os.getppid() == exabgp:
            os.kill(exabgp, signal.SIGTERM)


def _pass_on(source: int, sink: int) -> bool:
    """Wait for the reader of the other side, as a pipe would; False at the end."""
    data = memoryview(os.read(source, SIZE))
    passed = 0
    while passed < len(data):
        passed += os.write(sink, data[passed:])
    return bool(data)


if __name__ == "__main__":
    relay(sys.argv[1])
