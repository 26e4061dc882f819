"""What systemd is told about this service (sd_notify(3)); silent where there is no systemd."""

from __future__ import annotations

import contextlib
import os
import socket
import time


class Notifier:
    """Datagrams to $NOTIFY_SOCKET; failures are ignored, as sd_notify(3) advises."""

    def __init__(self) -> None:
        path = os.environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the abstract namespace's leading zero byte.
        self._address = "\0" + path[1:] if path.startswith("@") else path

    def ready(self, status: str) -> None:
        """The service does its work; also the end of a reload."""
        self._send("READY=1", f"STATUS={_one_line(status)}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        """The end begins."""
        self._send("STOPPING=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel,
        ):
            channel.sendto("\n".join(lines).encode(), self._address)


def _one_line(text: str) -> str:
    return " ".join(text.split())
