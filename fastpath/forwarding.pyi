"""Packet forwarding: a thread that takes frames from an interface and sends them to backends."""

from collections.abc import Sequence
from typing import Any

from fastpath.forwards import Forward
from fastpath.packet.flow_cache import FlowCache

class TapError(OSError):
    """Frames cannot be had from an interface; the text says why."""

class Forwarder:
    """Flows, the interface that they come in by, and the thread that carries them."""

    def __init__(
        self,
        interface: int,
        mtu: int,
        *,
        hash_key: bytes,
        ports: tuple[int, int] = (49152, 57343),
        new_flows: int = 16384,
        flows: int = 65536,
        new_flows_per_s: int | None = None,
        cache: FlowCache | None = None,
    ) -> None:
        """Listen on an interface, by index, for nothing yet.

        `mtu`: the interface's, in bytes. `hash_key`: 16 bytes, the same on all nodes of a cluster.
        `ports`: the first and the last one that nat connects from. `new_flows`, `flows`: how many
        of those that nothing has confirmed yet there may be, and of the others. `new_flows_per_s`:
        how many dsr ones may begin in a second; beyond that it sends by the hash alone. None: as
        `new_flows`, so that each stays for a second, in which a handshake comes to its end; 0: as
        many as come. `cache`: where confirmed flows are put; it has to be open. Raises TapError and
        OSError.
        """

    def start(self) -> None:
        """Start the thread."""

    def publish(
        self, forwards: Sequence[Forward], program: Sequence[tuple[int, int, int, int]]
    ) -> None:
        """Go over to these forwards in one step.

        `program`: classic BPF that lets their frames through and no others. Flows of what is gone
        or down end; flows to a backend that has moved follow it. Raises ValueError for what the
        forwarder cannot do, and nothing has changed; TapError when the filter is refused.
        """

    @property
    def is_gone(self) -> bool:
        """Whether the interface has gone for good: one of the same name takes another forwarder."""

    def export(self, address: str, most: int = 16384, each: int = 800) -> list[bytes]:
        """The established `nat` flows of a VIP, for another node that goes on with them.

        At most `most`, those used last, `each` in a batch at most; the flows stay here until
        `end`. Only those that backends see come from the VIP itself. Raises TimeoutError, and
        TapError.
        """

    def adopt(self, address: str, batch: bytes) -> dict[str, int]:
        """Go on with flows of a VIP that another node has forwarded until now.

        How many are here now, as "adopted", and how many are not by reason (packet/verdicts.py);
        none takes the place of a flow that is here. ValueError: it is no batch about that VIP;
        also TimeoutError (some may be adopted) and TapError.
        """

    def end(self, address: str) -> int:
        """End the flows that `export` gives: another node goes on with them. How many there were.

        Raises TimeoutError and TapError.
        """

    def hold(self, ms: int) -> None:
        """Let nat speak in the name of VIPs for so long from now on, and no longer.

        It holds for the kernel's flow cache, too, and whether this process runs or not. Without a
        word it is for ever.
        """

    def stats(self) -> dict[str, Any]:
        """Counters since the start."""

    def stop(self) -> None:
        """End the thread; flows are forgotten."""
