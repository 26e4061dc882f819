"""The engine's face to Python. Everything below it runs without the interpreter."""

from collections.abc import Iterable
from typing import Any

from fastpath.conditions import Predicate as Predicate
from fastpath.requests import RequestRecord as RequestRecord
from fastpath.tables import Backend as Backend
from fastpath.tables import Gateway as Gateway
from fastpath.tables import HashOn as HashOn
from fastpath.tables import Listener as Listener
from fastpath.tables import ListenError as ListenError
from fastpath.tables import LogRecord as LogRecord
from fastpath.tables import Retries as Retries
from fastpath.tables import Route as Route
from fastpath.tables import Service as Service
from fastpath.tables import Sticky as Sticky
from fastpath.tables import Tables as Tables
from fastpath.tables import Target as Target

class Engine:
    """Worker threads and the tables they work by. Its methods may be called from any thread."""

    def __init__(
        self, *, workers: int = 1, connections: int = 16384, hash_key: bytes | None = None
    ) -> None:
        """Set aside memory for `connections` clients in all.

        UDP sessions have room of their own once there is a UDP listener: as many in each worker as
        `connections`, 4096 and a quarter of its descriptors at most. Of that one client address
        (an IPv6 /64) has a quarter, 64 at least, or Service.connections_per_source; beyond it the
        client's own sessions make room, the unanswered and longest silent ones first.

        Raises the process's soft limit of descriptors as far as that needs and the hard limit
        allows; what is not allowed then lowers the number of connections that are admitted.
        `hash_key`: 16 bytes that key the flow hash, the same on every node; None: random ones.
        """

    def start(self) -> None:
        """Start the workers."""

    def publish(self, tables: Tables) -> int:
        """Swap in new tables in one step and return their generation.

        A listener whose (address, port, udp) was there before goes on without a gap; a new one
        listens when this returns, one that is gone has taken what had connected and is closed.
        Connections live on, whatever becomes of their backend; new choices go by the new tables.
        Waits for the workers to have gone over, 200 ms at most.

        A listener that becomes `draining`, or no longer is, goes on in the same way. Of a draining
        one each HTTP response says `Connection: close` and ends its connection; idle connections
        stay, for a request may be on its way; TCP streams and WebSockets live on.

        A UDP session ends when its listener is gone or its backend is down or gone; what its client
        sends next begins another.

        Raises ListenError, an OSError, when a listener cannot be bound, ValueError for tables that
        contradict themselves; nothing has changed then. While draining it leaves out the listeners.
        """

    def drain(self) -> None:
        """Close the listeners; HTTP connections end with the exchange under way."""

    def relay(self, client_fd: int, backend_fd: int, idle_timeout_ms: int = 3_600_000) -> None:
        """Adopt two connected streams (TCP or Unix), and relay until both sides have ended.

        As a TCP listener's connections: ends and resets are passed on (a Unix socket's peer sees a
        reset as an end), nothing is read ahead of who does not write, silence of `idle_timeout_ms`
        (0: none) ends both. New tables and `cut` do not touch them, `stop` closes them, `active`
        counts them. What the caller has read from either socket it must have written to the other.
        The engine closes both descriptors; a duplicate that is left open keeps the peer from seeing
        the end.

        Raises, and has closed neither: ValueError for what is not two streams; OSError for a
        socket that is not connected (any more), while draining (ESHUTDOWN), and when there are too
        many connections (EAGAIN).
        """

    def active(self) -> int:
        """Client connections open now."""

    def active_on(self, address: str) -> int:
        """Client connections open now that were accepted on this address, as the tables spell it.

        Those of listeners that are gone count too. A connection to a wildcard listener counts for
        the wildcard, whichever address it came to. UDP sessions do not count: nothing waits for
        them.
        """

    def cut(self, address: str) -> int:
        """Reset the client connections that were accepted on this address; how many there were.

        Those of listeners that are gone are meant too. Listeners stay: what connects later is
        served. Clients and backends get a RST, and no packet of these connections follows it. UDP
        sessions end. Waits for the workers as `publish` does; one that is late does it when it can.
        """

    def cut_backends(self, backends: Iterable[tuple[str, str]]) -> None:
        """Reset the client connections that these backends, (service, backend), serve now.

        Those that are not in the tables of now are passed over. Otherwise as `cut`.
        """

    def log_fd(self) -> int:
        """A descriptor that is readable when `read_log` has something to say; the engine's."""

    def read_log(self) -> list[LogRecord | RequestRecord]:
        """The connections and requests that are over since the last call, of services and gateways
        with `logs`.

        Each worker keeps 4096 of each that were not read; what has no room is counted. After
        `stop` once those that were left, and those that it ended.
        """

    def turns(self) -> list[int]:
        """How often each worker has turned.

        Wakes the workers too, idle ones included: a healthy worker's number is higher at the next
        call, a stuck one's is not.
        """

    def stats(self) -> dict[str, Any]:
        """Counters, summed over the workers.

        {
          "services": {service: {backend: {
              "connections": established in all, UDP sessions included,
              "active": sockets to it that serve a client now, connecting ones included,
              "open": "active" and idle ones kept for HTTP requests to come,
              "bytes_in": from clients to it, "bytes_out": from it to clients,
              "connect_failures": refused or timed out,
              "connect_seconds", "session_seconds": histograms of TCP connections, in seconds:
                  how long connecting took, and from accept to end,
              "ejections": how often it was ejected for failures in a row,
              "ejected": whether it is passed over for them now}}},
          "ends": {service: {
              "ended": {how: TCP connections},          # fastpath.tables.ENDS
              "rejected": {reason: TCP connections}}},  # fastpath.tables.REASONS
          "listeners": {"address:port" or "address:port/udp": {
              "accepted": connections or sessions, those turned away included}},
          "relays": {"total": handed to `relay`, "active": open now,
                     "bytes_in": from clients to backends, "bytes_out": back},
          "udp": {"sessions": open now,
                  "evicted": {reason: ended to make room for newer ones},
                  "dropped": {reason: datagrams},
                  "segments": {"received": datagrams that came several in one message,
                               "sent": those that left so}},
                  # reasons: fastpath.tables.EVICTIONS, fastpath.tables.DROPS
          "rejected": {reason: connections turned away},   # reasons: fastpath.tables.REASONS
          "log_dropped": records that `read_log` was too late for,
          "workers": [{"turns": n, "active": client connections}],
          "http": {
              "requests": {gateway: {route: {method: {status: responses sent}}}},
              "durations": {gateway: {route: a histogram}},
              "waiting": n,                   # requests that wait for a place now
              "checking": n,                  # … for their credentials to be checked
              "checks": credentials that were checked, for none were remembered,
              "compressed": {encoding: {      # fastpath.filters.ENCODINGS
                  "responses": n, "bytes_in": from backends, "bytes_out": to clients}},
              "compressing": n,               # responses that are being compressed now
              "uncompressed": n,              # responses that there was no memory to compress for
              "mirrored": {result: n},      # copies: answered, failed, too-long, too-many, unsent
              "retries": {gateway: {route: {"begun": n, "denied": n}}},     # tries after the first
              "rejected": {reason: requests answered by the gateway itself},
              "others": {"requests": responses that "requests" had no room for,
                         "durations": a histogram of those that "durations" had none for}},
        }
        A histogram: {"buckets": [(at most so many seconds or None, how many, cumulative), …],
        "sum": in seconds, "count": n}.
        Services, backends and listeners are those of the tables of now. Counters live through
        reloads, and begin at 0 for what comes back after it was gone.
        """

    def explain(
        self, src: str, sport: int, dst: str, dport: int, udp: bool = False
    ) -> dict[str, Any]:
        """What becomes of a flow that came now, and why; nothing changes by asking.

        {
          "listener": "address:port" that gets it, or None: nobody listens there,
          "gateway": the listener's; requests are routed one by one, so the rest is None,
          "service": the listener's,
          "allowed": whether the service takes connections from there,
          "header": whether it must begin with a PROXY header. Who comes by that proxy is known
              only then, so what follows holds if the proxy itself is the client.
          "policy": one of fastpath.tables.BALANCES that chooses; with affinity it is "maglev",
          "affinity": whether it is the client that is hashed and not the flow,
          "hash": 16 hexadecimal digits, "entry": of the Maglev table that it hits,
          "table": the backend there, None when none is usable,
          "remembered": the backend that the client had last, for a service with an
              affinity_timeout: it goes first,
          "chosen": the backend that the flow goes to; None: to none, or it depends on the worker,
          "orders": [for each worker: backends in the order in which they are tried],
          "backends": {name: {
              "weight", "up": as in the tables,
              "active": connections, sessions and requests that it serves now,
              "share": the part of its share that it gets while it starts slowly,
              "ejected_ms": for how long it is ejected still,
              "passed_over": why a first choice leaves it out, as fastpath.tables.PASSES}},
        }
        Raises ValueError for what is no address or port.
        """

    def stop(self) -> None:
        """End the workers and free everything; the engine cannot be started again."""
