"""Which brokers this node reaches, since when, and why not."""

from __future__ import annotations

from piagent.adapters.clock import wall_ms
from piagent.admin.status import BrokerStatus
from piagent.core.model import Broker, host_port


class BrokerBook:
    """The state of each connection; one that comes anew has another id."""

    def __init__(self, brokers: tuple[Broker, ...]) -> None:
        """All of them are down before the first connection."""
        now_ms = wall_ms()
        self._known = {
            broker.label: BrokerStatus(
                name=broker.label,
                address=host_port(broker.host, broker.port),
                up=False,
                since=now_ms,
                reason="connecting",
            )
            for broker in brokers
        }
        self._connections: dict[str, str] = {}
        self._up_ns: dict[str, int] = {}

    def up(self, broker: str, connection: str, now_ns: int) -> None:
        """Connected and subscribed, at that time of the lease clock."""
        self._connections[broker] = connection
        self._up_ns[broker] = now_ns
        self._note(broker, up=True, reason="subscribed")

    def down(self, broker: str, reason: str) -> None:
        """The connection has gone, or could not be had."""
        self._connections.pop(broker, None)
        self._note(broker, up=False, reason=reason)

    def is_current(self, broker: str, connection: str) -> bool:
        """Whether this is the connection that is up; others are of the past."""
        return self._connections.get(broker) == connection

    def labels(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._known)

    def connected(self) -> tuple[str, ...]:
        """The labels of those that are up."""
        return tuple(self._connections)

    def quorum(self) -> bool:
        """Whether a majority is up."""
        return 2 * len(self._connections) > len(self._known)

    def quorum_since(self, at_ns: int) -> bool:
        """Whether a majority is up, and was at that time on the same connections."""
        lasting = sum(self._up_ns[broker] <= at_ns for broker in self._connections)
        return 2 * lasting > len(self._known)

    def statuses(self) -> tuple[BrokerStatus, ...]:
        """All of them, in the file's order."""
        return tuple(self._known.values())

    def _note(self, broker: str, *, up: bool, reason: str) -> None:
        before = self._known[broker]
        since = before.since if before.up == up else wall_ms()
        self._known[broker] = BrokerStatus(
            name=broker, address=before.address, up=up, since=since, reason=reason
        )
