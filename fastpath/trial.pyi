"""A forwarder to try frames on: the live one's code and tables, and nothing of it is touched."""

from collections.abc import Sequence
from typing import NamedTuple

from fastpath.forwards import Forward
from fastpath.packet.flow_cache import FlowCache

class Out(NamedTuple):
    """A frame that would go out."""

    interface: int
    frame: bytes

class Taken(NamedTuple):
    """What became of a frame."""

    verdict: str
    """One of packet.verdicts.FORWARDED."""
    kind: str
    """What it was taken for: one of packet.verdicts.VERDICTS."""
    forward: str | None
    """The one that it came to; None: none has its destination."""
    key: bytes
    """Of its flow, flow_key_t, as a FlowCache has them."""
    hash: int
    """What the forward's Maglev table is asked with."""
    entry: int
    """Of that table."""
    table: str | None
    """The backend there; None: no backend is usable."""
    backend: str | None
    """The one that its flow has got; None: none."""
    mtu: int | None
    """The longest IP packet of that flow that may come in this way."""
    out: tuple[Out, ...]
    """In order: the frame as it goes on, or what its sender is told; those that had waited."""

class Trial:
    """Flows of its own, which vanish with it. It sends nothing, and needs no rights."""

    def __init__(
        self,
        forwards: Sequence[Forward],
        *,
        hash_key: bytes,
        interface: int,
        mtu: int,
        ports: tuple[int, int] = (49152, 57343),
        cache: FlowCache | None = None,
    ) -> None:
        """As Forwarder and its `publish`. Raises ValueError and OSError.

        `cache`: one that is attached nowhere, made for this trial: what is established is put in.
        """

    def take(self, frame: bytes) -> Taken:
        """Have it decide about an Ethernet frame that came in; ValueError: it is too long."""

    def wait(self, ms: int) -> None:
        """Let time pass for it."""
