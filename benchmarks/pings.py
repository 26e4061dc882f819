"""ICMP echo requests every 5 ms, which the kernel of whoever has the address answers."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import struct
import threading
import time
from typing import Self

from piagent.adapters.netns import Host

EVERY_S = 0.005


class Pings:
    """ICMP echo requests (RFC 792) every 5 ms, in a thread of their own."""

    def __init__(self, host: Host, address: str, every_s: float = EVERY_S) -> None:
        self._address, self._every_s = address, every_s
        with host.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.setblocking(False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent: list[float] = []
        self.answered: dict[int, float] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def lost_after(self, since_s: float) -> list[float]:
        """When those were sent that nobody answered, leaving out the last half second."""
        until_s = time.monotonic() - 0.5
        return [
            at
            for number, at in enumerate(self.sent)
            if since_s <= at < until_s and number not in self.answered
        ]

    def gap_s(self, since_s: float) -> float:
        """The longest time from one answer to the next."""
        times = [since_s, *sorted(at for at in list(self.answered.values()) if at >= since_s)]
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)

    def wait(self, count: int = 50) -> None:
        """Until so many more are answered."""
        goal, end_s = len(self.answered) + count, time.monotonic() + 30
        while len(self.answered) < goal:
            if time.monotonic() > end_s:
                raise TimeoutError(f"{self._address} does not answer")
            time.sleep(0.02)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            number = len(self.sent)
            with contextlib.suppress(OSError):
                self._socket.sendto(_echo(number), (self._address, 0))
            self.sent.append(time.monotonic())
            due += self._every_s
            while (left := due - time.monotonic()) > 0:
                if select.select([self._socket], [], [], left)[0]:
                    self._take(self._socket.recv(2048))

    def _take(self, packet: bytes) -> None:
        body = packet[(packet[0] & 15) * 4 :]
        if body[0] == 0 and len(body) >= 12:
            (number,) = struct.unpack_from("!I", body, 8)
            self.answered.setdefault(number, time.monotonic())


def _echo(number: int) -> bytes:
    body = struct.pack("!BBHHHI", 8, 0, 0, os.getpid() & 0xFFFF, number & 0xFFFF, number)
    total = sum(struct.unpack(f"!{len(body) // 2}H", body))
    total = (total & 0xFFFF) + (total >> 16)
    return body[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + body[4:]
