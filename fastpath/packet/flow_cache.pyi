"""The kernel's part of forwarding: flows that the forwarder decided about, carried by a program."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from fastpath.packet.attachment import How, Mode

class Unavailable(OSError):
    """The kernel does not let us; the text says why and what helps.

    Then the forwarder carries every packet itself.
    """

class Stats(NamedTuple):
    """Counters since the start."""

    flows: int
    """That the kernel carries now."""
    put: int
    deleted: int
    full: int
    """Times that a flow found no room; the forwarder carries it then."""

class Use(NamedTuple):
    """What the kernel carried of one direction of a flow."""

    packets: int
    bytes: int
    last_ns: int
    """CLOCK_MONOTONIC, as coarse as the kernel's tick."""

class Carried(NamedTuple):
    """How the kernel carries one direction of a flow."""

    interface: int
    """That it leaves by."""
    mac: bytes
    """To which hardware."""
    address: bytes
    """The new or the outer destination, 16 bytes; zeros: it stays."""
    port: int
    """Likewise; 0: it stays."""
    use: Use

class Ran(NamedTuple):
    """What became of a frame in a program."""

    verdict: int
    frame: bytes
    ns: int
    """That one run took, on average."""

class FlowCache:
    """Maps and programs of the flow cache. They vanish with the object, and with the process."""

    mode: Mode
    reason: str
    """Why this mode, in words."""

    adopted: bool
    """Whether the flows are those that a former process left pinned."""

    def __init__(self, flows: int = 65536, uses: int = 0, *, pin: str = "") -> None:
        """Have the kernel check and take the programs, attached nowhere yet.

        `flows`: how many it carries at most, each direction by itself; `uses`: how many places
        there are to count in, as many as flows unless given. Raises Unavailable.

        `pin`: a folder of ours alone in a BPF file system (/sys/fs/bpf/…). With it flows go on
        being carried when the process ends, however it does, until `close`; the next one that is
        given the same folder and sizes has them, and attaches its own programs without a gap.
        Whoever adopts them has to look after each of `carried`, or to close and open again.
        """

    def open(self, interfaces: Sequence[int], how: How = "auto") -> None:
        """Attach to interfaces, by index in the calling thread's network namespace.

        Flows may come in and leave by all of these. "auto" is native XDP if all of them can do
        that, else tc; "xdp" and "xdp-generic" are either done or refused. Raises Unavailable, and
        it is attached nowhere then; `reason` says why as well.
        """

    def close(self) -> None:
        """Detach, and carry no flow; it may be opened again."""

    def put(self, key: bytes, rewrite: bytes) -> bool:
        """Carry a flow (flow_key_t) by a rewrite (rewrite_t); False: there is no room.

        ValueError when the rewrite is none, or leaves by an interface that is not open.
        """

    def delete(self, key: bytes) -> bool:
        """No longer carry a flow; False: it was not carried."""

    def carried(self) -> list[tuple[bytes, bytes]]:
        """Key and rewrite of each flow, as `put` has them; in no order."""

    def find(self, key: bytes) -> Carried | None:
        """How a flow is carried, by its key (flow_key_t); None: it is not. Any thread may ask."""

    def use(self, index: int) -> Use:
        """What was counted at a rewrite's `use`."""

    def stats(self) -> Stats:
        """Counters; counts the flows, so not for each packet."""

    def hide_from(self, tap: int) -> None:
        """Let a packet socket have no frame that tc carries; it is bound, in no fanout group.

        Packet sockets see frames before tc does, so without this both would forward. The kernel
        has a program choose between the tap and a second socket, which hears nothing; frames that
        go out it gives to neither. With XDP there is nothing to do, nor is anything done. To be
        said of each tap after `open`, before flows are put in, and again of one made anew.
        """

    def run(
        self,
        program: Literal["xdp", "tc", "tap"],
        frame: bytes,
        *,
        interface: int = 0,
        gso: tuple[int, int] = (0, 0),
        repeat: int = 1,
    ) -> Ran:
        """Let a program have a frame that no interface has seen (BPF_PROG_TEST_RUN).

        `interface`: what it came in by; `gso`: segments and payload of each, of a super-frame.
        """
