"""Frames of 60 bytes of UDP, and flows begun with them."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.forward.lab import BACKEND_MAC, CLIENT_MAC, PORT, Node
from benchmarks.forward.wire import SLOT

SIZE = 60
_HEADERS = 14 + 20 + 8
_SOL_PACKET, _IGNORE_OUTGOING = 263, 23
_ETH_P_ALL = 3
_TRIES = 20
_PATIENCE_S = 0.2
_QUEUE_SIZE = 4 << 20


class FlowError(RuntimeError):
    """A node does not forward what it should, or not as it should."""


class Datagram(NamedTuple):
    """One, from and to an address and a port each; in its frame it has its number."""

    source: tuple[str, int]
    destination: tuple[str, int]
    number: int = 0

    def frame(self, mac: bytes, own_mac: bytes) -> bytes:
        """With all its checksums."""
        ends = socket.inet_aton(self.source[0]) + socket.inet_aton(self.destination[0])
        data = struct.pack("!I", self.number).ljust(SIZE - _HEADERS, b"\0")
        size = 8 + len(data)
        udp = struct.pack("!HHHH", self.source[1], self.destination[1], size, 0)
        pseudo = ends + struct.pack("!HH", socket.IPPROTO_UDP, size)
        udp = udp[:6] + struct.pack("!H", _checksum(pseudo + udp + data) or 0xFFFF)
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 0, 0, 64, socket.IPPROTO_UDP, 0) + ends
        ip = ip[:10] + struct.pack("!H", _checksum(ip)) + ip[12:]
        return mac + own_mac + b"\x08\0" + ip + udp + data


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - ((total & 0xFFFF) + (total >> 16))


def read(frame: bytes) -> Datagram | None:
    """What is in it, if it is one of ours; FlowError when it is broken."""
    if len(frame) != SIZE or frame[12:15] != b"\x08\0\x45" or frame[23] != socket.IPPROTO_UDP:
        return None
    source, destination, sport, dport = struct.unpack_from("!4s4sHH", frame, 26)
    pseudo = frame[26:34] + struct.pack("!HH", socket.IPPROTO_UDP, len(frame) - 34)
    if _checksum(frame[14:34]) or _checksum(pseudo + frame[34:]):
        raise FlowError(f"a wrong checksum came out: {frame.hex()}")
    return Datagram(
        (socket.inet_ntoa(source), sport), (socket.inet_ntoa(destination), dport),
        struct.unpack_from("!I", frame, _HEADERS)[0],
    )  # fmt: skip


def client_of(number: int) -> tuple[str, int]:
    """Where the flow of that number comes from: another address and another port each."""
    return f"10.79.{number >> 8 & 255}.{number & 255}", 1024 + number % 60000


def asked(number: int, destination: str) -> Datagram:
    """The datagram by which that flow is sent."""
    return Datagram(client_of(number), (destination, PORT), number)


def write(file: Path, frames: Iterable[bytes]) -> Path:
    """Let the wire read them from a file."""
    file.write_bytes(b"".join(frame.ljust(SLOT, b"\0") for frame in frames))
    return file


class Port:
    """The far end of a node's cable, from which frames are sent to it and heard from it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        with node.host.bridge.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._socket.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_SIZE)
            self._socket.bind((node.host.port, _ETH_P_ALL))  # others the bridge takes first
        self._socket.settimeout(_PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def through(self, datagrams: Sequence[Datagram], *, to_client: bool) -> list[Datagram]:
        """What becomes of each; FlowError when one never comes out, or goes elsewhere."""
        mac, own = (CLIENT_MAC, BACKEND_MAC) if to_client else (BACKEND_MAC, CLIENT_MAC)
        found: dict[int, Datagram] = {}
        for _ in range(_TRIES):
            missing = [d for d in datagrams if d.number not in found]
            if not missing:
                return [found[d.number] for d in datagrams]
            for first in range(0, len(missing), 64):
                for each in missing[first : first + 64]:
                    with contextlib.suppress(TimeoutError):  # too much waits: as if lost
                        self._socket.send(each.frame(self._node.mac, own))
                self._hear(found, {d.number for d in missing[first : first + 64]}, mac)
        raise FlowError(f"{self._node.host.name} forwards {len(found)} of {len(datagrams)} flows")

    def _hear(self, found: dict[int, Datagram], numbers: set[int], mac: bytes) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while numbers - found.keys() and time.monotonic() < deadline:
            try:
                frame = self._socket.recv(2048)
            except TimeoutError:
                return
            datagram = read(frame) if frame.startswith(mac) else None
            if datagram is not None and datagram.number in numbers:
                found[datagram.number] = datagram
