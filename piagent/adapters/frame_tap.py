"""Hears who claims certain addresses on an interface, and sends frames; bounded under a flood.

The tap is a packet(7) socket for all protocols: such a one is served before the netdev hooks in
which the fence drops what concerns VIPs, and one for ARP alone after them. What leaves is not
tapped, and of what comes the filter lets through only claims to the addresses asked for, so a busy
LAN does not wake the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Collection

from piagent.adapters import bpf
from piagent.adapters.frames import Claim, claim

READ_MAX = 128
"""Frames that are read in a row; who sends more has to wait, and what the queue cannot hold is
lost."""
FLOOD_PAUSE_S = 0.1
"""For so long nothing is read after that: at most 1280 frames a second are looked at."""

_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_FRAME_MAX = 256
_RECEIVE_BUFFER = 64 * 1024
_NO_MORE = {errno.EAGAIN, errno.ENETDOWN}

_log = logging.getLogger(__name__)


class FrameTap:
    """One socket for everybody who wants to hear claims."""

    def __init__(self, heard: Callable[[Claim], None]) -> None:
        self._heard = heard
        self._socket: socket.socket | None = None
        self._place: tuple[str, int] | None = None
        self._addresses: frozenset[str] = frozenset()
        self._resume: asyncio.TimerHandle | None = None

    def listen(self, place: tuple[str, int] | None, addresses: Collection[str]) -> None:
        """Hear claims to exactly these from now on, on the interface of that name and index.

        Without a place or without addresses nothing is open. Called in the event loop, in the
        namespace of the interface; OSError when the kernel refuses.
        """
        wanted = frozenset(addresses)
        if place != self._place or place is None or not wanted:
            self.close()
        if place is None or not wanted:
            return
        if self._socket is None:
            self._socket = _open(place[0], wanted)
            self._place, self._addresses = place, wanted
            asyncio.get_running_loop().add_reader(self._socket, self._readable)
        elif wanted != self._addresses:
            bpf.attach(self._socket, bpf.claims(wanted))
            self._addresses = wanted

    def send(self, frame: bytes) -> None:
        """Send a frame as it is; OSError when the interface does not take it, or nothing is open.

        It does not wait: an interface that has stopped sending lets its queue run full.
        """
        if self._socket is None:
            raise OSError(errno.ENETDOWN, "no interface to send through")
        self._socket.send(frame)

    def drain(self) -> bool:
        """Hear what has come so far; False when there is more than one may read in a row."""
        for _ in range(READ_MAX):
            if self._socket is None:  # `heard` may close it
                return True
            try:
                frame = self._socket.recv(_FRAME_MAX)
            except OSError as error:
                if error.errno not in _NO_MORE:
                    _log.warning("cannot listen to the LAN: %s", error)
                return True
            claimed = claim(frame)
            if claimed is not None and claimed.address in self._addresses:
                self._heard(claimed)
        return False

    def close(self) -> None:
        """Hear nothing more."""
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        self._socket = self._place = None
        self._addresses = frozenset()

    def _readable(self) -> None:
        if self.drain() or self._socket is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        self._resume = loop.call_later(FLOOD_PAUSE_S, self._read_on)

    def _read_on(self) -> None:
        self._resume = None
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._readable)


def _open(interface: str, addresses: frozenset[str]) -> socket.socket:
    """Filtered before it is bound, so that it never holds anything else."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    opened = socket.socket(socket.AF_PACKET, kind, 0)
    try:
        bpf.attach(opened, bpf.claims(addresses))
        opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        opened.bind((interface, _ETH_P_ALL))
    except BaseException:
        with contextlib.suppress(OSError):
            opened.close()
        raise
    return opened
