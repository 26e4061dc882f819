"""The demo's client: HTTP requests, TCP connections, and probes that measure a failover."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

from msgspec import Struct

PROBE_EVERY_S = 0.005
PROBE_TIMEOUT_S = 0.25
MAX_ANSWER = 64 * 1024


class Answer(Struct, frozen=True):
    """What came back for one HTTP request."""

    status: int
    backend: str
    text: str


class Client:
    """Speaks to the VIP as a host on the LAN would."""

    def __init__(self, open_socket: Callable[[], socket.socket], vip: str) -> None:
        self._open_socket = open_socket
        self._vip = vip

    async def _exchange(self, port: int, request: bytes, end: bytes, timeout_s: float) -> bytes:
        """Connect, send, read until `end` was seen or the other side closed."""
        loop = asyncio.get_running_loop()
        with self._open_socket() as sock:
            sock.setblocking(False)
            async with asyncio.timeout(timeout_s):
                await loop.sock_connect(sock, (self._vip, port))
                await loop.sock_sendall(sock, request)
                answer = b""
                while not (end and end in answer) and len(answer) < MAX_ANSWER:
                    data = await loop.sock_recv(sock, 4096)
                    if not data:
                        break
                    answer += data
        return answer

    async def get(self, port: int, host: str, path: str, timeout_s: float = 5.0) -> Answer:
        """GET over a fresh connection; OSError or TimeoutError when nobody answers."""
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        head, _, body = (await self._exchange(port, request.encode(), b"", timeout_s)).partition(
            b"\r\n\r\n"
        )
        status_line, *lines = head.decode("latin-1").split("\r\n")
        if not status_line.startswith("HTTP/1.1 "):
            raise ConnectionResetError("the answer is no HTTP response")
        fields = dict(line.lower().split(": ", 1) for line in lines)
        return Answer(
            int(status_line.split(" ")[1]),
            fields.get("x-backend", ""),
            body.decode("latin-1").strip(),
        )

    async def hello(self, port: int, timeout_s: float = 5.0) -> str:
        """The name that the TCP service says first."""
        return (await self._exchange(port, b"", b"\n", timeout_s)).decode().strip()


class Gap(Struct, frozen=True):
    """The longest time in which no probe was answered."""

    length_s: float
    probes: int
    failed: int


class Probe:
    """Asks the VIP every 5 ms, each time over a fresh connection; notes when answers came."""

    def __init__(self, client: Client, port: int, host: str) -> None:
        self._client, self._port, self._host = client, port, host
        self._answered: list[float] = []
        self._failed = 0
        self._new_answer = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._ticker = asyncio.create_task(self._tick())

    async def _one(self) -> None:
        try:
            await self._client.get(self._port, self._host, "/", PROBE_TIMEOUT_S)
        except (OSError, TimeoutError):
            self._failed += 1
        else:
            self._answered.append(time.monotonic())
            self._new_answer.set()

    async def _tick(self) -> None:
        while True:
            task = asyncio.create_task(self._one())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            await asyncio.sleep(PROBE_EVERY_S)

    async def answered_since(self, since: float, timeout_s: float) -> None:
        """Wait for an answer that came after `since` (time.monotonic)."""
        async with asyncio.timeout(timeout_s):
            while not self._answered or self._answered[-1] <= since:
                self._new_answer.clear()
                await self._new_answer.wait()

    async def stop(self) -> Gap:
        """End, and say what was seen."""
        self._ticker.cancel()
        await asyncio.gather(self._ticker, *self._running, return_exceptions=True)
        pairs = zip(self._answered, self._answered[1:], strict=False)
        longest = max((after - before for before, after in pairs), default=0.0)
        return Gap(longest, len(self._answered) + self._failed, self._failed)
