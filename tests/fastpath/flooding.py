"""A flood of packets that begin flows, from random sources, until standard input ends.

    python -m tests.fastpath.flooding MAC ADDRESS PORT PER_SECOND

SYNs and datagrams in turn, by the interface of a test's host; says in the end how many were sent.
A field that differs has its complement elsewhere in the packet: one checksum is right for all.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator

from piagent.adapters.netns import INTERFACE
from tests.fastpath.packet import frames

SOURCES = "198.18.0.0/16"
_TURN_S = 0.001
_IP, _L4 = 14, 34
_ONES = 0xFFFF


def _frames(mac: bytes, address: str, port: int) -> Iterator[bytes]:
    """Never the same one again, or hardly ever."""
    source = SOURCES.removesuffix("/16")
    ports = frames.Ports(0, port)
    syn = frames.tcp(ports, flags=frames.SYN, sequence=_ONES << 16 | _ONES)
    datagram = frames.udp(ports, b"\xff" * 4)
    made = []
    for protocol, l4, complements in (
        (frames.TCP, syn, _L4 + 4),
        (frames.UDP, datagram, _L4 + 8),
    ):
        summed = frames.summed(source, address, protocol, l4)
        packet = frames.ipv4(source, address, protocol, summed, identity=_ONES)
        made.append((bytearray(mac + frames.ether(packet)[6:]), complements))
    chance = random.Random()
    while True:
        for frame, complements in made:
            host, its_port = chance.getrandbits(16), chance.getrandbits(16)
            struct.pack_into(">H", frame, _IP + 4, _ONES - host)
            struct.pack_into(">H", frame, _IP + 14, host)
            struct.pack_into(">H", frame, _L4, its_port)
            struct.pack_into(">HH", frame, complements, _ONES - host, _ONES - its_port)
            yield frame


def _flood(send: Callable[[bytes], object], made: Iterator[bytes], per_s: int) -> int:
    """How many were sent."""
    began = time.monotonic()
    sent = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        due = int((time.monotonic() - began) * per_s)
        # Who was kept waiting does not catch up all at once.
        for _ in range(min(due - sent, int(per_s * 20 * _TURN_S))):
            with contextlib.suppress(OSError):  # a queue is full
                send(next(made))
            sent += 1
        began = max(began, time.monotonic() - (sent / per_s + 20 * _TURN_S))
        time.sleep(_TURN_S)
    return sent


def main() -> None:
    mac, address, port, per_s = sys.argv[1:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((INTERFACE, 0))
        print(_flood(out.send, _frames(bytes.fromhex(mac), address, int(port)), int(per_s)))


if __name__ == "__main__":
    main()
