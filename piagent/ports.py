"""The edge as the agent sees it: what an adapter has to offer."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from msgspec import Struct

from piagent.core.bgp import BgpRoute
from piagent.core.checking import Question
from piagent.core.dsr import Accepted
from piagent.core.flow import Flow, FlowQuestion
from piagent.core.model import Bgp
from piagent.core.packets import ForwardingState
from piagent.core.plan import Plan

S = TypeVar("S")


class Clock(Protocol):
    """The lease clock."""

    def now_ns(self) -> int:
        """CLOCK_BOOTTIME in nanoseconds: it counts suspend and is never set."""
        ...

    def slept_ns(self) -> int:
        """For how long the host was suspended since its boot; wobbles by microseconds."""
        ...


class Subscribed(Struct, frozen=True):
    """A fresh connection is up and the broker confirmed its subscriptions (SUBACK)."""

    broker: str
    connection: str
    """The client id of this connection."""


class Disconnected(Struct, frozen=True):
    """The connection is gone, or an attempt failed."""

    broker: str
    reason: str


class Received(Struct, frozen=True):
    """A message as it came; nothing is checked yet."""

    broker: str
    connection: str
    topic: str
    payload: bytes
    retain: bool


BusEvent = Subscribed | Disconnected | Received


class Bus(Protocol):
    """A separate connection to each broker, each with its own back-off."""

    async def run(self, deliver: Callable[[BusEvent], None]) -> None:
        """Connect, and connect again, until cancelled; `deliver` is called in the event loop."""
        ...

    def publish(self, broker: str, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Send at QoS 1 now, or not at all: False when that connection is not up."""
        ...

    def close(self, broker: str, reason: str) -> None:
        """Drop the connection; a fresh one follows."""
        ...


class AddressError(Exception):
    """An address could not be configured; the text names the interface and the cure."""


class Addresses(Protocol):
    """VIPs on this host's interface."""

    async def add(self, address: str, valid_ms: int) -> None:
        """Configure the address, or renew it; the kernel removes it in `valid_ms` or earlier.

        Raises AddressError: no such interface, interface down, not allowed, or the address was
        configured by somebody else.
        """
        ...

    async def renew(self, addresses: Collection[str], valid_ms: int) -> None:
        """The same for addresses that are configured, all of them in one go."""
        ...

    async def remove(self, address: str) -> bool:
        """Remove the address; True when the kernel confirms that it is not there (any more)."""
        ...

    async def announce(self, address: str) -> None:
        """Tell the LAN: gratuitous ARP (request, reply) or unsolicited neighbour advertisements.

        Raises AddressError: the address is not there, or sending is not allowed.
        """
        ...

    def mac(self) -> bytes:
        """The interface's hardware address now; empty when it has none, or is not there."""
        ...

    def networks(self) -> tuple[str, ...]:
        """The host's own addresses on the interface, `address/prefix`; without the VIPs."""
        ...


class Fence(Protocol):
    """What the kernel lets this host answer and say for VIPs, whether the agent runs or not.

    Every guarded address is silent (no ARP, NDP or IP in or out) unless it is open. All calls are
    a few short system calls; OSError when the kernel refuses, and then nothing has changed.
    """

    @property
    def why_not(self) -> str | None:
        """Why there is no fence here, cure included; None when it stands."""
        ...

    def guard(self, interface: str, vips: Collection[str], accepted: Collection[str] = ()) -> None:
        """Guard exactly these addresses on the interface from now on; what is open stays open.

        `accepted`: those of them that this host serves as a backend, whoever owns them: IP goes in
        and out, and that is all.
        """
        ...

    def open(self, left_ms: Mapping[str, int]) -> None:
        """Open these for so many milliseconds from now, all in one transaction (grant or renew)."""
        ...

    def hide(self, vip: str, serve_ms: int) -> None:
        """Close for ARP, NDP and announcements; IP that still comes is served for `serve_ms`."""
        ...

    def close(self, vip: str) -> None:
        """Close for everything; also ends `take_over`."""
        ...

    def take_over(self, vip: str, mac: bytes, left_ms: int) -> None:
        """For so long pass packets of TCP flows that did not begin here on to their former owner.

        `mac` is the former owner's hardware address on the same network.
        """
        ...


class LocalAddresses(Protocol):
    """Service addresses on the loopback interface: each node has them, none owns them.

    They answer no ARP or NDP, are never announced, and never become the source address of
    anything else. Addresses of 127.0.0.0/8 and ::1 are every host's already: nothing is done.
    """

    @property
    def why_not(self) -> str | None:
        """Why nothing can be configured here, cure included; None when it can."""
        ...

    def own(self) -> frozenset[str]:
        """The addresses of this host that are none of ours."""
        ...

    def configure(
        self,
        inside: Collection[str],
        routed: Collection[str],
        accepted: Collection[Accepted] = (),
    ) -> dict[str, str]:
        """Have exactly these; idempotent, and cheap when nothing changes.

        `inside`: cluster addresses, which only this host can reach. `routed`: VIPs that routers
        lead here (BGP), which everybody can reach. `accepted`: VIPs that nodes forward to this host
        as a backend; it may own them as well. What is in several is the first of these. Gives why
        an address is not there, by address; all others are. Raises nothing.
        """
        ...

    def remove_all(self) -> None:
        """Have none, whoever of us configured them; raises nothing."""
        ...


class LinkState(Struct, frozen=True):
    """The interface of the VIPs, as it is now or has become."""

    up: bool
    """It is there, switched on, and has a carrier."""
    reason: str
    """In words for people: "carrier", "no carrier", "switched off", "no such interface"."""
    wireless: bool = False


class AddressGone(Struct, frozen=True):
    """Somebody (not this process) removed a VIP from the interface."""

    vip: str


class AddressConflict(Struct, frozen=True):
    """Another host says that a watched VIP is its own (RFC 5227 section 2.4, RFC 4861 7.2.5)."""

    vip: str
    mac: str
    """The rival's hardware address, `02:00:00:00:00:01`."""


class Egress(Struct, frozen=True):
    """Whether somebody on the LAN lately answered what this host sent."""

    proven: bool
    reason: str
    """In words for people: who answered, or who did not."""


LanEvent = LinkState | AddressGone | AddressConflict | Egress


class Lan(Protocol):
    """The network that the VIPs are on, as this host's interface sees it."""

    async def run(self, deliver: Callable[[LanEvent], None]) -> None:
        """Watch until cancelled; the first event is the `LinkState` that is found."""
        ...

    def watch(self, vips: Collection[str]) -> None:
        """Report conflicts and removals of exactly these, the VIPs owned; egress only if any."""
        ...

    async def probe(self, vip: str) -> str | None:
        """Ask the LAN who has the VIP (RFC 5227 section 2.1.1, RFC 4862 5.4): a MAC or None."""
        ...


class Letter(Struct, frozen=True):
    """One message that is ready to be published."""

    broker: str
    """Its label."""
    topic: str
    payload: bytes


class Will(Struct, frozen=True):
    """What is to be done when the agent dies: remove the VIPs, verify, then send the letters."""

    interface: str | None
    vips: tuple[str, ...]
    letters: tuple[Letter, ...]


class Guardian(Protocol):
    """The parent process."""

    def entrust(self, will: Will) -> None:
        """Replace the will; it holds from the return of this call on, even if we die then."""
        ...


class Store(Protocol[S]):
    """What an agent remembers over its end."""

    def load(self) -> S:
        """What was saved last; defaults when there is nothing that can be read."""
        ...

    def save(self, value: S) -> None:
        """Have it kept soon; does not wait."""
        ...

    async def close(self) -> None:
        """Wait until all is kept."""
        ...


class ProbeResult(Struct, frozen=True):
    """The outcome of one health check."""

    good: bool | None
    """None: it could not be made, for a reason that is not the backend's."""
    reason: str
    """Why, in words for people: "connected", "refused", "status 503", "timeout" …"""


class Prober(Protocol):
    """Health checks."""

    def ask(self, question: Question, answered: Callable[[ProbeResult], None]) -> None:
        """Check once; returns at once, and never raises for what a backend does.

        `answered` is called in the event loop, once, not before this has returned and at the latest
        when the check's timeout is over. A check may have to wait for its turn first.
        """
        ...

    def close(self) -> None:
        """End what is under way: nothing is answered any more, and nothing is left behind."""
        ...


class BgpSession(Struct, frozen=True):
    """A session with a router, as it has become."""

    peer: str
    """The router's name."""
    up: bool
    reason: str
    """In words for people: "established", "connecting", what the router or exabgp said."""


class Speaker(Protocol):
    """This node towards its routers."""

    async def run(self, deliver: Callable[[BgpSession], None]) -> None:
        """Keep the sessions until cancelled, and end them then: routers forget the routes at once.

        `deliver` is called in the event loop; first each session is reported as down. Whatever goes
        wrong is the reason of a session that is down, and is tried again.
        """
        ...

    def configure(self, bgp: Bgp | None) -> None:
        """With whom to speak, and how; None: with nobody.

        Another value than before ends all sessions and begins anew.
        """
        ...

    def announce(self, routes: frozenset[BgpRoute]) -> None:
        """Announce exactly these from now on, to the routers that are connected and those to come.

        Routes to peers that are not configured do not count.
        """
        ...


class Responder(Protocol):
    """Answers questions about names."""

    @property
    def why_not(self) -> str | None:
        """Why there are no answers; None while there are."""
        ...

    async def run(self) -> None:
        """Until cancelled; what cannot be had is tried again."""
        ...


class ListenError(OSError):
    """One listener cannot be had; the text says which one, why, and what helps."""

    def __init__(self, code: int, text: str, *, address: str, port: int, udp: bool) -> None:
        """`code`: as errno has it. The others identify the PlannedListener."""
        super().__init__(code, text)
        self.address = address
        self.port = port
        self.udp = udp


class ConnectionEnd(NamedTuple):
    """A connection that is over."""

    service: str
    """The name of a `PlannedService`."""
    backend: str | None
    """`address:port`; None: it never reached one."""
    client: str
    client_port: int
    address: str
    """Where the client connected to."""
    port: int
    started: float
    """Unix time in seconds."""
    connect_s: float | None
    """How long connecting to the backend took; None: as `backend`."""
    duration_s: float
    bytes_in: int
    """From the client."""
    bytes_out: int
    end: str
    """How it ended, or why it was turned away: the engine's words (docs/reference/reasons.md)."""


class RequestEnd(NamedTuple):
    """A request to a gateway that is over.

    Texts are the client's, byte by byte as in Latin-1; `...` follows what was too long to be kept.
    """

    gateway: str
    route: str | None
    """None: none matched, or it was not looked for."""
    service: str | None
    backend: str | None
    """The last one that got it; None: nobody did."""
    client: str
    """The address of who asks."""
    method: str
    host: str | None
    path: str | None
    """Canonical, without the query; None: the target has none."""
    version: str
    status: int
    """0: the client was sent none."""
    bytes_in: int
    """Of the body, from the client."""
    bytes_out: int
    started: float
    """Unix time in seconds: the first byte of the head."""
    head_s: float
    """From there to the head's last byte."""
    queue_s: float
    connect_s: float | None
    """Of the last try; 0: the socket was open already. None: as `backend`."""
    response_s: float | None
    """From when the backend could take the request to its response's head; None: there is none."""
    duration_s: float
    retries: int
    end: str
    """How it ended, or why it was refused: the engine's words (docs/reference/access-log.md)."""
    id: str | None
    referer: str | None
    agent: str | None


class Ends(Protocol):
    """The engine, as the access log sees it."""

    def log_fd(self) -> int:
        """A descriptor that is readable when `read_log` has something to say."""
        ...

    def read_log(self) -> Sequence[ConnectionEnd | RequestEnd]:
        """What ended since the last call, of services and gateways with an access log."""
        ...


class Lines(Protocol):
    """A file that lines are appended to."""

    trouble: str | None
    """Why the last lines could not be written; None: they could."""
    dropped: int
    """Lines that were not written."""

    def write(self, lines: Sequence[bytes]) -> None:
        """Have lines written, each with its end, without waiting for it."""
        ...

    def reopen(self) -> None:
        """Open the path anew: the file may have been moved away."""
        ...

    async def close(self) -> None:
        """Write what waits, unless that takes too long."""
        ...


class Forwarding(Protocol):
    """Packets that come to VIPs and go to backends as they are, or with other addresses."""

    def apply(self, plan: Plan) -> None:
        """Forward what the plan says, or raise ListenError or ValueError and change nothing."""
        ...

    def cut_backends(self, backends: Collection[tuple[str, str]]) -> None:
        """End the flows of these, each (service, backend) of the plan: they have drained."""
        ...

    def hold(self, ms: int) -> None:
        """VIPs are this node's for so long from now on: send nothing in their name after that.

        It is the kernel that keeps to it, whatever becomes of this process.
        """
        ...

    def state(self) -> ForwardingState | None:
        """How it goes; None when nothing is to be forwarded."""
        ...

    def stats(self) -> dict[str, Any]:
        """Counters since the start: by `service:port` and verdict in "packets"."""
        ...

    def explain(self, asked: FlowQuestion) -> dict[str, Any] | None:
        """What becomes of a flow that begins now, as `dataplane.PacketEngine.explain` gives it.

        None: it is not forwarded. Raises ValueError for a size that no packet has, and OSError,
        cure included.
        """
        ...

    def export_flows(self, vip: str, most: int, each: int) -> list[bytes]:
        """The VIP's connections by `nat`, for another node: batches of at most `each`.

        At most `most`, those used last; they stay. Waits for half a second at most, and so do the
        next two; call them from another thread. OSError: they cannot be had.
        """
        ...

    def adopt_flows(self, vip: str, batch: bytes) -> Mapping[str, int]:
        """Go on with connections of a VIP that another node has forwarded until now.

        How many: "adopted", and how many not, by reason. ValueError: it is no such batch; OSError.
        """
        ...

    def end_flows(self, vip: str) -> int:
        """End those that `export_flows` gives, and which another node has; how many. OSError."""
        ...

    async def run(self) -> None:
        """Follow the ways to backends, and repair what others break, until cancelled."""
        ...

    def stop(self) -> None:
        """Forward nothing more; VIPs are gone already."""
        ...


class DataPlane(Ends, Protocol):
    """The engine."""

    def apply(self, plan: Plan) -> None:
        """Make the plan true in one step, or raise ListenError and change nothing."""
        ...

    def explain(self, flow: Flow) -> dict[str, Any]:
        """What becomes of a flow that came now, as `fastpath.engine.Engine.explain` gives it."""
        ...

    def connections(self, address: str) -> int:
        """How many connections clients have to listeners on the address."""
        ...

    def cut(self, address: str) -> int:
        """Close them all; how many there were."""
        ...

    def cut_backends(self, backends: Collection[tuple[str, str]]) -> None:
        """Close the connections of these backends of the plan, each (service, backend)."""
        ...

    def relay(self, client: socket.socket, backend: socket.socket) -> None:
        """Take over two connected streams, detached then, and relay until both have ended.

        Raises OSError when it takes no more; both are the caller's still.
        """
        ...

    def stats(self) -> dict[str, Any]:
        """Counters since the start, as `fastpath.engine.Engine.stats` gives them."""
        ...

    async def drain(self, timeout_ms: int) -> int:
        """Accept nothing new, wait for what is under way; the number of connections still open."""
        ...

    def stop(self) -> None:
        """End the workers."""
        ...
