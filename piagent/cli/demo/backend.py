"""A backend of the demo: `python -m piagent.cli.demo.backend NAME ADDRESS HTTP_PORT TCP_PORT`.

Over HTTP it answers with its name and what it saw of the request; over TCP it says its name and
then echoes every line. A real server would be nginx or the user's own program.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

MAX_LINE = 64 * 1024

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _read_head(reader: asyncio.StreamReader) -> list[str]:
    """The lines of one request's head; empty at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return []
    return head.decode("latin-1").split("\r\n")[:-2]


def _headers(lines: list[str]) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, value in pairs}


async def serve_http(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests on one kept-alive connection until it ends."""
    while lines := await _read_head(reader):
        headers = _headers(lines[1:])
        await reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = lines[0].split(" ", 2)
        body = (
            f"{name} got {method} {path} for {headers.get('host', '?')}"
            f" from {headers.get('x-forwarded-for', 'no proxy')}\n"
        ).encode()
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nX-Backend: {name}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()


async def serve_tcp(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say who answers, then echo lines."""
    writer.write(f"{name}\n".encode())
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()


async def main(name: str, address: str, http_port: int, tcp_port: int) -> None:
    """Serve both until SIGTERM."""

    def handler(serve: Serve) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(name, reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, ValueError):
                pass  # the client went away or talks nonsense: its connection ends
            finally:
                writer.close()

        return handle

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    servers = [
        await asyncio.start_server(handler(serve), address, port, limit=MAX_LINE)
        for serve, port in ((serve_http, http_port), (serve_tcp, tcp_port))
    ]
    await stop.wait()
    for server in servers:
        server.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
