"""The vocabulary of the silence lease: what goes in, what comes out, and why.

The rules R1 to R9 that the names refer to are those of the silence lease: quiet, window, barrier,
base, chain, yield, sender, quorum, lag guard. Times are nanoseconds on the caller's lease clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from piagent.core.model import Timing

Sender = tuple[str, str]
"""(node, incarnation): a restarted node is a different sender (R7)."""

NEVER = -(1 << 62)
FOREVER = 1 << 62

LEADER = "leader"
"""The key whose owner leads the cluster: it tidies up, and no failover needs it."""
MAX_KEYS = 101
"""Keys of one group: all of them fit into one message of `wire.MAX_SIZE` bytes."""
MAX_LEASE_MS = 600_000
"""No message may make others wait for longer than such a lease."""
MAX_COUNT = 1 << 53
"""The largest epoch or sequence number: what every JSON reader keeps exact."""

_NS_PER_MS = 1_000_000
_ECHO_PERIOD_MAX_MS = 1000
_PROBE_MARGIN_MS = 20
_PROBE_LEAD_MAX_MS = 100


class Spans(Struct, frozen=True):
    """The parameters of the protocol, in nanoseconds."""

    lease: int
    renew: int
    wait: int
    guard: int
    attempt: int
    stagger: int
    lag: int
    echo: int
    """Period of the self-echo. Not above `lag`: a stall that no check sees stays below 2 * lag."""
    probe_lead: int
    """How long before a claim the LAN is asked who has the address: when the former owner's kernel
    answers for certain no more, and no earlier."""

    @classmethod
    def of(cls, timing: Timing) -> Spans:
        """The same in nanoseconds; ValueError when the values cannot be safe or cannot work."""
        if not 0 < timing.lease_ms <= MAX_LEASE_MS:
            raise ValueError(f"lease must be at most {MAX_LEASE_MS} ms, and positive")
        if timing.wait_ms < timing.lease_ms:
            raise ValueError("wait must not be shorter than lease")
        if timing.lease_ms - timing.guard_ms < 3 * timing.renew_ms:
            raise ValueError("lease - guard must be at least 3 * renew")
        if timing.attempt_ms >= timing.lease_ms - timing.guard_ms:
            raise ValueError("attempt must be shorter than lease - guard")
        silent_ms = timing.wait_ms - timing.lease_ms + timing.guard_ms
        lead_ms = max(0, min(silent_ms - _PROBE_MARGIN_MS, _PROBE_LEAD_MAX_MS))
        return cls(
            probe_lead=lead_ms * _NS_PER_MS,
            lease=timing.lease_ms * _NS_PER_MS,
            renew=timing.renew_ms * _NS_PER_MS,
            wait=timing.wait_ms * _NS_PER_MS,
            guard=timing.guard_ms * _NS_PER_MS,
            attempt=timing.attempt_ms * _NS_PER_MS,
            stagger=timing.stagger_ms * _NS_PER_MS,
            lag=timing.lag_ms * _NS_PER_MS,
            echo=min(timing.lag_ms, _ECHO_PERIOD_MAX_MS) * _NS_PER_MS,
        )

    def wait_after(self, lease_ms: int) -> int:
        """How long an assertion blocks whose sender holds for `lease_ms`: never less than wait."""
        lease = lease_ms * _NS_PER_MS
        return self.wait if lease <= self.lease else -(-self.wait * lease // self.lease)


class Reason(StrEnum):
    """Why: the one vocabulary of status, logs, metrics and tests."""

    # acquired
    SILENCE = "silence"
    """Nobody was heard to assert the key for the whole wait."""
    YIELDED = "yielded"
    """The former owner gave the key up."""
    INVITED = "invited"
    """The former owner named this node as its successor."""
    # released
    LEASE_RAN_OUT = "lease-ran-out"
    """No majority of the brokers returned our renewals in time."""
    NOT_WANTED = "not-wanted"
    STOPPING = "stopping"
    ADDRESS_FAILED = "address-failed"
    """The host could not configure the address."""
    REMOVED = "removed"
    """The key is not in the configuration any more."""
    HANDED_OVER = "handed-over"
    DRAINED = "drained"
    """The node was drained by its operator."""
    CARRIER_LOST = "carrier-lost"
    """The interface has no link (any more)."""
    EGRESS_LOST = "egress-lost"
    """The interface receives, but nobody answers what this node sends."""
    ADDRESS_IN_USE = "address-in-use"
    """Another host answers for the address (RFC 5227)."""
    ADDRESS_TAKEN_AWAY = "address-taken-away"
    """Somebody removed the address from the interface, again and again."""
    NOT_ELIGIBLE = "not-eligible"
    """Labels, interface or subnet do not fit the VIP's pool."""
    NO_LOCAL_BACKEND = "no-local-backend"
    """`traffic_policy = "local"`, and no backend on this node is up."""
    BALANCED = "balanced"
    """Given to a node with fewer VIPs."""
    PREEMPTED = "preempted"
    """Given back to a preferred node."""
    ANOTHER_OWNER = "another-owner"
    """Somebody with a higher epoch acts as owner: an assumption of the protocol is broken."""
    QUORUM_LOST_HELD = "quorum-lost-held"
    """Kept without a quorum: `on_quorum_loss = "hold"`."""
    # neither: why a follower does not claim now
    STARTING = "starting"
    LISTENING = "listening"
    """Not yet silent for long enough, or not our turn."""
    OTHER_OWNS = "other-owns"
    NO_QUORUM = "no-quorum"
    """Fewer than a majority of the brokers are connected."""
    CLAIM_LOST = "claim-lost"
    WITHDRAWING = "withdrawing"
    """The address of the former lease is not yet confirmed to be gone."""
    UNREADABLE_HEARD = "unreadable-heard"
    """Lease messages that cannot be read block every claim."""
    # connections closed by the lag guard (R9)
    ECHO_OVERDUE = "echo-overdue"
    LOOP_LATE = "loop-late"
    TOO_MANY_UNECHOED = "too-many-unechoed"
    # alarms, and why a message is unreadable
    TOO_LARGE = "too-large"
    MALFORMED = "malformed"
    BAD_SIGNATURE = "bad-signature"
    OTHER_VERSION = "other-version"
    WRONG_SENDER = "wrong-sender"
    """The name in the message is not the one in the topic."""
    CONFIG_MISMATCH = "config-mismatch"
    """Other brokers, timing or candidates than ours."""
    BRIDGED = "bridged"
    """A message published to one broker came from another."""
    TWIN = "twin"
    """Another live node has this node's name."""
    REMOVAL_FAILED = "removal-failed"
    """The host could not confirm that an address is gone, so others are not told."""
    ALARMS_SUPPRESSED = "alarms-suppressed"


class State(StrEnum):
    """Where a node stands with a key."""

    FOLLOWER = "follower"
    CLAIMING = "claiming"
    OWNER = "owner"


class Role(StrEnum):
    """What a sender says it is to a key."""

    CLAIM = "c"
    OWNER = "o"


Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Incarnation = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
LeaseMs = Annotated[int, Meta(ge=1, le=MAX_LEASE_MS)]


class Assertion(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One key in a lease message."""

    epoch: Count
    role: Role


class LeaseMessage(
    Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={
        "version": "v",
        "node": "n",
        "incarnation": "i",
        "seq": "q",
        "broker": "b",
        "config_hash": "c",
        "lease_ms": "l",
        "asserts": "a",
        "yields": "y",
    },
):
    """Everything that a sender says to one broker about its keys; short names on the wire."""

    version: int = 1
    node: Name
    incarnation: Incarnation
    seq: Count
    """Strictly rising per incarnation, over all brokers."""
    broker: Name
    """The label of the broker that it was published to: an echo counts only from there."""
    config_hash: Name
    lease_ms: LeaseMs
    asserts: dict[Name, Assertion] = {}
    yields: dict[Name, Name | None] = {}
    """Key -> the successor, if one is named."""

    @property
    def sender(self) -> Sender:
        """Who said it."""
        return self.node, self.incarnation


# ---- events ----


class Subscribed(Struct, frozen=True):
    """A fresh connection is up and its subscriptions are confirmed."""

    broker: str
    connection: str


class Disconnected(Struct, frozen=True):
    """The connection to the broker is gone."""

    broker: str


class Heard(Struct, frozen=True):
    """An authentic lease message, not a retained one."""

    broker: str
    connection: str
    """The connection that it came over; what an earlier one still brings is ignored."""
    message: LeaseMessage


class Unreadable(Struct, frozen=True):
    """Something on a lease topic that cannot be trusted to mean nothing.

    It counts as a foreign assertion of every key: it blocks claims and takes nothing away.
    """

    broker: str
    connection: str
    sender: str
    """The node that the topic names."""
    reason: Reason
    lease_ms: int = 0
    """How long its sender's leases may be, when that could be read."""


class EchoReturned(Struct, frozen=True):
    """A self-echo came back."""

    broker: str
    connection: str
    nonce: str


class Tick(Struct, frozen=True):
    """Time has passed."""

    wall_ms: int | None = None
    """The wall clock in milliseconds since 1970, when it is to be taken over (for epochs only)."""


class Want(Struct, frozen=True):
    """This node may own the key, or may not (any more)."""

    key: str
    wanted: bool
    reason: Reason = Reason.NOT_WANTED
    """Why not: the reason of the release."""


class Rank(Struct, frozen=True):
    """This node's place among the candidates of the key; 0 claims first."""

    key: str
    rank: int


class Withdrawn(Struct, frozen=True):
    """The address of a released key is confirmed to be gone: only now others may be told (R6)."""

    key: str
    epoch: int
    """That of the `Released`."""


class HandOver(Struct, frozen=True):
    """Give an owned key to another node."""

    key: str
    successor: str
    reason: Reason = Reason.HANDED_OVER


class Occupied(Struct, frozen=True):
    """A host that is no owner by the protocol answers for the key's address: leave it for now."""

    key: str


class SetKeys(Struct, frozen=True):
    """The group's keys after a reload: key -> rank. Keys that are not in it are released first."""

    keys: Mapping[str, int]
    config_hash: str | None = None
    """When the reload changed what the hash covers."""


Event = (
    Subscribed
    | Disconnected
    | Heard
    | Unreadable
    | EchoReturned
    | Tick
    | Want
    | Rank
    | Withdrawn
    | HandOver
    | Occupied
    | SetKeys
)

# ---- effects ----


class Send(Struct, frozen=True):
    """Publish a lease message over the present connection to the broker."""

    broker: str
    message: LeaseMessage


class SendEcho(Struct, frozen=True):
    """Publish a self-echo over the connection."""

    broker: str
    connection: str
    nonce: str


class CloseConnection(Struct, frozen=True):
    """Drop the connection; it already counts as gone."""

    broker: str
    reason: Reason


class Probe(Struct, frozen=True):
    """A claim is near: ask the LAN who has the address, and send an `Occupied` if somebody does."""

    key: str


class Acquired(Struct, frozen=True):
    """Act for the key until `until_ns`."""

    key: str
    until_ns: int
    epoch: int
    """A fencing token for hooks and logs; rises as long as wall clocks agree to within a wait."""
    reason: Reason


class Extended(Struct, frozen=True):
    """Act for the key until the later time `until_ns`."""

    key: str
    until_ns: int


class Released(Struct, frozen=True):
    """Stop acting for the key at once; when that is confirmed, send back a `Withdrawn`."""

    key: str
    reason: Reason
    successor: str | None
    epoch: int


class Alarm(Struct, frozen=True):
    """Something that people should know; raised once for each reason and sender."""

    reason: Reason
    detail: str


Effect = Send | SendEcho | CloseConnection | Probe | Acquired | Extended | Released | Alarm


class KeyView(Struct, frozen=True):
    """Where this node stands with one key."""

    key: str
    state: State
    epoch: int
    until_ns: int | None
    """An owner's deadline, None for others."""
    since_ns: int
    """When the state began."""
    reason: Reason
    owner: tuple[str, int] | None
    """(node, epoch) of another owner that was heard lately."""
    holds: dict[str, int]
    """Broker -> until when its register is ours; only running ones."""
