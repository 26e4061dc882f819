"""Datagrams in a row, for the tests: of what sizes, and whether the kernel gets them as one."""

from __future__ import annotations

import socket
from typing import NamedTuple

from hypothesis import strategies as st

# linux/udp.h; not in Python's socket module.
UDP_SEGMENT, UDP_GRO = 103, 104
LONGEST = 65507
"""Bytes of a datagram over IPv4."""
PIECE_MAX = 65_000
"""Bytes of a piece of one message: it and its headers fit into one packet of the loopback."""
HEAD_SIZE = 1600
"""Where the engine's memory for a message has a joint, as in proxy/batch.pxd."""
_BYTES = bytes(range(256)) * 257


class Burst(NamedTuple):
    """Datagrams that are sent one after the other, or as one message that the kernel cuts up."""

    size: int
    count: int
    rest: int
    """Size of a shorter one at the end; 0: none."""
    together: bool

    @property
    def sizes(self) -> list[int]:
        """Of the datagrams."""
        return [self.size] * self.count + ([self.rest] if 0 < self.rest < self.size else [])

    def send(self, sender: socket.socket, to: object = None, first: int = 0) -> list[bytes]:
        """Send them, told apart by their bytes, to a place or where `sender` is connected to."""
        datagrams = [_BYTES[(first + i) % 256 :][:size] for i, size in enumerate(self.sizes)]
        messages = datagrams
        if self.together and 0 < self.size <= PIECE_MAX:
            messages = [b"".join(datagrams)]
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, self.size)
        for message in messages:
            if to is None:
                sender.send(message)
            else:
                sender.sendto(message, to)  # type: ignore[arg-type]
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        return datagrams


def bounded(burst: Burst) -> bool:
    """Whether one message may hold it: its bytes, and fewer than 64 pieces."""
    return sum(burst.sizes) <= LONGEST and len(burst.sizes) <= 60


SIZES = st.one_of(
    st.integers(0, 3),
    st.sampled_from([HEAD_SIZE - 1, HEAD_SIZE, HEAD_SIZE + 1, LONGEST]),
    st.integers(0, 3000),
    st.integers(0, LONGEST),
)
BURST = st.builds(Burst, SIZES, st.integers(1, 40), SIZES, st.booleans()).filter(bounded)
BURSTS = st.lists(BURST, min_size=1, max_size=6).filter(
    lambda bursts: (
        sum(sum(each.sizes) for each in bursts) <= LONGEST
        and sum(len(each.sizes) for each in bursts) <= 80
    )
)
