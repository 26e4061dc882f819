"""One connection to the admin API: HTTP/1.1 (h11) on a socket that is this process's own.

No transport of the event loop has the socket, so that it can be given away when a request becomes
a tunnel.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

import h11

from piagent.admin.answer import Answer, problem

REQUEST_S = 30.0
"""For a request's head to arrive, the wait for it included; and then for its body."""
WRITE_S = 10.0
LINGER_S = 1.0
"""For a client that is still sending what nobody reads: a reset would take its answer away."""
MAX_HEAD: Final = 16 * 1024
MAX_BODY: Final = 64 * 1024
_CHUNK: Final = 4096


class Connection:
    """Requests come out, answers go in."""

    def __init__(
        self, sock: socket.socket, kept_waiting: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """`kept_waiting` is entered while it is the client's turn."""
        self._sock: socket.socket | None = sock
        self._kept_waiting = kept_waiting
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    async def request(self) -> h11.Request | None:
        """The next request's head; None when the client has gone. Raises RemoteProtocolError."""
        async with asyncio.timeout(REQUEST_S):
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:
                    return None
                self._http.receive_data(await self._receive())

    async def body(self) -> bytes | None:
        """All of the request's body; None when it is too large. Raises RemoteProtocolError."""
        body = bytearray()
        async with asyncio.timeout(REQUEST_S):
            while len(body) <= MAX_BODY:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self._receive())
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    return bytes(body)
                else:
                    raise h11.RemoteProtocolError("the request ended early")
        return None

    async def answer(self, reply: Answer, *, head_only: bool = False, last: bool = False) -> bool:
        """Send an answer; whether another request may follow. `last`: none may.

        After a request whose body nobody has read, none may either.
        """
        headers = [
            ("Content-Type", reply.content_type),
            ("Content-Length", str(len(reply.body))),
            ("Cache-Control", "no-store"),
            *reply.headers,
        ]
        if last:
            headers.append(("Connection", "close"))
        data = self._http.send(h11.Response(status_code=reply.status, headers=headers)) or b""
        if not head_only:
            data += self._http.send(h11.Data(data=reply.body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        await self._send(data)
        if self._http.their_state is h11.SEND_BODY:
            self._http.next_event()  # the end of the request, when it has no body
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            return True
        return False

    async def refuse(self, error: h11.RemoteProtocolError) -> None:
        """Say what is wrong with what is no HTTP, if the client can still hear it."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            refusal = problem(error.error_status_hint, "bad request", str(error)[:200])
            await self.answer(refusal, last=True)

    async def switch(self, protocol: str, header: tuple[str, str]) -> bytes:
        """Answer 101; what the client has sent already in the other protocol."""
        headers = [("Connection", "Upgrade"), ("Upgrade", protocol), header]
        response = h11.InformationalResponse(status_code=101, headers=headers)
        await self._send(self._http.send(response) or b"")
        early, _ = self._http.trailing_data
        return early

    def release(self) -> socket.socket:
        """The socket, which is the caller's now."""
        sock, self._sock = self._socket(), None
        return sock

    async def end(self) -> None:
        """Close, unless the socket was released; what was sent before arrives."""
        if self._sock is None:
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(LINGER_S):
                while await self._receive():
                    pass
        except (OSError, TimeoutError):
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once, unless the socket was released."""
        if self._sock is not None:
            self._sock.close()
        self._sock = None

    def _socket(self) -> socket.socket:
        if self._sock is None:
            raise RuntimeError("the socket was released")
        return self._sock

    async def _receive(self) -> bytes:
        with self._kept_waiting():
            return await asyncio.get_running_loop().sock_recv(self._socket(), _CHUNK)

    async def _send(self, data: bytes) -> None:
        with self._kept_waiting():
            async with asyncio.timeout(WRITE_S):
                await asyncio.get_running_loop().sock_sendall(self._socket(), data)


def offers(request: h11.Request, protocol: str) -> bool:
    """Whether a request may become another protocol's connection (RFC 9110, section 7.8)."""
    return (
        request.http_version == b"1.1"
        and b"upgrade" in _words(request, b"connection")
        and protocol.encode() in _words(request, b"upgrade")
    )


def _words(request: h11.Request, header: bytes) -> set[bytes]:
    values = (value for name, value in request.headers if name == header)
    return {word.strip().lower() for value in values for word in value.split(b",")}
