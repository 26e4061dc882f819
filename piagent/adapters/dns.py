"""The DNS responder: UDP and TCP on one address (RFC 1035, 7766).

It answers from what this node knows, and asks nobody. That its port cannot be had is said, and
tried again: no other part of the agent depends on it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
from collections import Counter
from contextlib import suppress
from itertools import count
from typing import Final

from piagent.adapters.dns_limits import Limits, Verdict
from piagent.adapters.dns_wire import CODE, Answerer, Failure, failure, respond, without_answer
from piagent.core.model import Listen, host_port

log = logging.getLogger(__name__)

RETRY_S: Final = 10.0
IDLE_S: Final = 5.0
"""For the next query on a connection, and for its answer to be taken."""
CONNECTION_S: Final = 30.0
MAX_CONNECTIONS: Final = 32
MAX_PER_SOURCE: Final = 8
MAX_QUERY: Final = 4096
_CURES: Final = {
    errno.EADDRINUSE: "'ss -lntup' shows who uses it; systemd-resolved has 127.0.0.53 and .54,"
    " dnsmasq often port 53 of every address",
    errno.EACCES: "a port below 1024 needs CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "this host does not have the address",
}


_RESULTS: Final = ("noerror", "formerr", "servfail", "nxdomain", "notimp", "refused")
"""By response code."""


class DnsServer:
    """Answers questions until cancelled. No query, however malformed, ends it."""

    def __init__(self, listen: Listen, answer: Answerer) -> None:
        """`answer` is called for every question, and must not block."""
        self._listen = listen
        self._answer = answer
        self._limits = Limits(0.0)
        self._turn = count()
        self._writers: dict[asyncio.StreamWriter, str] = {}
        self.why_not: str | None = "not started"
        """Why there are no answers; None while there are."""
        self.results: Counter[str] = Counter()
        """What became of queries: the response code, `limited` (sent to TCP) or `dropped`."""

    async def run(self) -> None:
        """Listen, and try again every RETRY_S when that cannot be done."""
        while True:
            try:
                await self._serve()
            except OSError as error:
                self._cannot(error)
            await asyncio.sleep(RETRY_S)

    def _cannot(self, error: OSError) -> None:
        """Say it once."""
        what = os.strerror(error.errno) if error.errno else str(error)
        why = "; ".join(filter(None, (what, _CURES.get(error.errno or 0))))
        if why != self.why_not:
            place = host_port(self._listen.address, self._listen.port)
            log.error("[dns] listen %s: %s; trying again every %g s", place, why, RETRY_S)
        self.why_not = why

    async def _serve(self) -> None:
        """Answer until cancelled; raises OSError when the port cannot be had."""
        loop = asyncio.get_running_loop()
        self._limits = Limits(loop.time())
        datagrams, connections = _bind(self._listen)
        server = await asyncio.start_server(self._connected, sock=connections, limit=MAX_QUERY + 2)
        loop.add_reader(datagrams, self._readable, datagrams)
        try:
            self.why_not = None
            log.info("dns: answering on %s", host_port(self._listen.address, self._listen.port))
            await asyncio.Event().wait()
        finally:
            self.why_not = "stopped"
            loop.remove_reader(datagrams)
            datagrams.close()
            server.close()
            for writer in tuple(self._writers):
                writer.transport.abort()

    # ---- queries ------------------------------------------------------------------------------

    def _reply(self, data: bytes, *, udp: bool) -> bytes | None:
        """Answer one message; None: it gets nothing."""
        try:
            return respond(data, self._answer, udp=udp, turn=next(self._turn))
        except Exception:
            log.exception("dns: a question could not be answered")
            return failure(data, Failure.SERVFAIL)

    def _count(self, reply: bytes | None) -> None:
        self.results["dropped" if reply is None else _RESULTS[reply[3] & CODE]] += 1

    def _readable(self, datagrams: socket.socket) -> None:
        """Take one query; others than ours have their turn before the next one."""
        try:
            data, source = datagrams.recvfrom(MAX_QUERY)
        except OSError:
            return
        verdict = self._limits.udp(source[0], asyncio.get_running_loop().time())
        reply = None
        if verdict is Verdict.ANSWER:
            reply = self._reply(data, udp=True)
            self._count(reply)
        elif verdict is Verdict.ASK_BY_TCP:
            reply = without_answer(data)
            self.results["limited"] += 1
        else:
            self.results["dropped"] += 1
        if reply is not None:
            with suppress(OSError):  # no room, no way: lost, as UDP may lose anything
                datagrams.sendto(reply, source)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = (writer.get_extra_info("peername") or ("",))[0]
        others = sum(1 for other in self._writers.values() if other == source)
        if not source or len(self._writers) >= MAX_CONNECTIONS or others >= MAX_PER_SOURCE:
            writer.transport.abort()
            return
        self._writers[writer] = source
        try:
            async with asyncio.timeout(CONNECTION_S):
                await self._converse(reader, writer, source)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client's trouble: gone, slow, or done
        finally:
            # What is written is sent all the same, unless the client takes nothing.
            await _close(writer)
            del self._writers[writer]

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with asyncio.timeout(IDLE_S):
                (size,) = struct.unpack("!H", await reader.readexactly(2))
                if size > MAX_QUERY:
                    return
                data = await reader.readexactly(size)
            if not self._limits.tcp(source, loop.time()):
                self.results["dropped"] += 1
                return
            reply = self._reply(data, udp=False)
            self._count(reply)
            if reply is None:
                return
            async with asyncio.timeout(IDLE_S):
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
            await asyncio.sleep(0)  # whose queries come all at once lets others have a turn


async def _close(writer: asyncio.StreamWriter) -> None:
    try:
        writer.close()
        async with asyncio.timeout(IDLE_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()


def _bind(listen: Listen) -> tuple[socket.socket, socket.socket]:
    """Open both sockets, or none; raises OSError.

    Only the one for connections may be bound while old ones of a former life linger: two sockets
    for datagrams would share a port without a word, and only one would be asked.
    """
    family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    connections = socket.socket(family, socket.SOCK_STREAM)
    try:
        connections.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for each in (datagrams, connections):
            each.setblocking(False)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind((listen.address, listen.port))
        connections.listen(MAX_CONNECTIONS)
    except OSError:
        datagrams.close()
        connections.close()
        raise
    return datagrams, connections
