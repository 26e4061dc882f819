"""The flow table in plain Python: lists and dictionaries, nothing of hashing or of memory."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
TCP, UDP = 6, 17
REFRESH_MS, ASSURED_MS, REVIVED_MS, SYN_AGAIN_MS = 1000, 2000, 2000, 4000
WINDOW = 65535


class State(IntEnum):
    """As in flow_states.pxd."""

    ABORTED = 0
    HALF_OPEN = 1
    UNREPLIED = 2
    CLOSED = 3
    DONE = 4
    CLOSING = 5
    ESTABLISHED = 6
    STREAM = 7


PATIENCE_MS = {
    State.ABORTED: 10_000,
    State.HALF_OPEN: 60_000,
    State.UNREPLIED: 30_000,
    State.CLOSED: 10_000,
    State.DONE: 60_000,
    State.CLOSING: 120_000,
    State.ESTABLISHED: 7_440_000,
    State.STREAM: 120_000,
}


class Why(IntEnum):
    """As in flows.pxd."""

    EXPIRED = 0
    EVICTED_NEW = 1
    EVICTED_CONFIRMED = 2
    BACKEND_DOWN = 3
    DRAINED = 4
    RESELECTED = 5
    REFUSED = 6
    STOPPED = 7
    HANDED_OVER = 8


class Admit(IntEnum):
    """As in flows.pxd."""

    BY_FLOW = 0
    NEW = 1
    ANEW = 2
    STATELESS = 3
    NONE = 4


def address(text: str) -> bytes:
    """An IPv4 one as 16 bytes."""
    return bytes(10) + b"\xff\xff" + bytes(int(part) for part in text.split("."))


def flow_key(source: str, source_port: int, to: str, to_port: int, protocol: int) -> bytes:
    """A flow_key_t."""
    ports = struct.pack("!HH", source_port, to_port)
    return address(source) + address(to) + ports + bytes([protocol, 0, 0, 0])


def confirmed(state: State) -> bool:
    return state >= State.CLOSED


@dataclass
class Flow:
    """What is known of one."""

    original: bytes
    reply: bytes | None
    backend: int
    began: int
    seen: int
    state: State
    answered: bool = False
    first_ack: int = 0
    fins: set[int] = field(default_factory=set)
    used: int = 0
    """By the kernel, in milliseconds."""


Segment = tuple[int, int, int]
"""Flags, sequence and acknowledgment."""


def _assured(flow: Flow, way: int, now: int) -> bool:
    if way == 1:
        return False
    return flow.answered if flow.reply else now - flow.began >= ASSURED_MS


def _by_fins(flow: Flow) -> State:
    return [State.ESTABLISHED, State.CLOSING, State.DONE][len(flow.fins)]


def _after_datagram(flow: Flow, way: int, now: int) -> State:
    if flow.state is State.UNREPLIED and _assured(flow, way, now):
        return State.STREAM
    flow.answered |= way == 1
    return flow.state


def state_after(flow: Flow, way: int, tcp: Segment | None, now: int) -> State:
    """What a packet makes of its flow."""
    if tcp is None:
        return flow.state if flow.original[36] == TCP else _after_datagram(flow, way, now)
    flags, sequence, acknowledgment = tcp
    if flags & RST:
        return State.CLOSED if confirmed(flow.state) else State.ABORTED
    if flags & SYN:
        if way == 1 and flags & ACK and not confirmed(flow.state):
            flow.answered, flow.first_ack = True, (sequence + 1) % 2**32
        return flow.state
    if flow.state is State.UNREPLIED:
        if flags & FIN:
            return State.ABORTED
        return State.ESTABLISHED if _assured(flow, way, now) else State.UNREPLIED
    if not confirmed(flow.state):
        in_window = (acknowledgment - flow.first_ack) % 2**32 <= WINDOW
        if way == 1 or not flags & ACK or (flow.reply and not (flow.answered and in_window)):
            return flow.state
    if flow.state is State.CLOSED and now - flow.seen < REVIVED_MS:
        return State.CLOSED
    if flags & FIN:
        flow.fins.add(way)
    return _by_fins(flow)


def begins_anew(flow: Flow, now: int) -> bool:
    """Whether a SYN from the client chooses again."""
    if flow.state in {State.HALF_OPEN, State.UNREPLIED}:
        return now - flow.began >= SYN_AGAIN_MS
    if flow.state is State.ESTABLISHED or (flow.state is State.CLOSING and 0 not in flow.fins):
        return now - flow.seen >= SYN_AGAIN_MS
    return True


class Model:
    """The table; what has ended since is in `ended`."""

    def __init__(self, new_max: int, confirmed_max: int) -> None:
        self.new_max = new_max
        self.confirmed_max = confirmed_max
        self.keys: dict[bytes, tuple[Flow, int]] = {}
        self.order: dict[State, list[Flow]] = {state: [] for state in State}
        """The newest first."""
        self.ended: list[tuple[bytes, int]] = []

    def flows(self) -> list[Flow]:
        """All of them."""
        return [flow for flows in self.order.values() for flow in flows]

    def admit(self, key: bytes, *, nat: bool, flags: int, now: int) -> Admit:
        """What to do with a packet."""
        begins = key[36] == TCP and flags & (SYN | ACK | RST | FIN) == SYN
        if key in self.keys:
            flow, way = self.keys[key]
            if begins and way == 0:
                self._kernel_renews(flow)
                return Admit.ANEW if begins_anew(flow, now) else Admit.BY_FLOW
            return Admit.BY_FLOW
        if nat:
            return Admit.NEW if begins or key[36] != TCP else Admit.NONE
        goes_on = begins or key[36] != TCP or flags & (SYN | ACK | RST | FIN) == ACK
        return Admit.NEW if goes_on else Admit.STATELESS

    def add(self, original: bytes, reply: bytes | None, flags: int, backend: int, now: int) -> bool:
        """A new flow, unless a key is there."""
        if original in self.keys or reply in {original, *self.keys}:
            return False
        if sum(not confirmed(flow.state) for flow in self.flows()) >= self.new_max:
            self._evict(State.ABORTED, State.HALF_OPEN, State.UNREPLIED, why=Why.EVICTED_NEW)
        begins = original[36] == TCP and flags & (SYN | ACK | RST | FIN) == SYN
        state = State.HALF_OPEN if begins else State.UNREPLIED
        flow = Flow(original, reply, backend, now, now, state)
        self.keys[original] = flow, 0
        if reply:
            self.keys[reply] = flow, 1
        self.order[state].insert(0, flow)
        return True

    def _kernel_renews(self, flow: Flow) -> bool:
        if flow.state < State.ESTABLISHED or flow.used <= flow.seen:
            return False
        self._renew(flow, flow.used)
        return True

    def _victim(self, *states: State) -> Flow:
        *over, one, other = states
        for state in over:
            if self.order[state]:
                return self.order[state][-1]
        heads = [self.order[state][-1] for state in (one, other) if self.order[state]]
        return min(heads, key=lambda flow: flow.seen)

    def _evict(self, *states: State, why: Why) -> None:
        victim = self._victim(*states)
        for _ in range(16):
            if not self._kernel_renews(victim):
                break
            victim = self._victim(*states)
        self.remove(victim, why)

    def _renew(self, flow: Flow, now: int) -> None:
        flow.seen = now
        self.order[flow.state].remove(flow)
        self.order[flow.state].insert(0, flow)

    def seen(self, flow: Flow, way: int, tcp: Segment | None, now: int) -> int:
        """A packet goes on: 0, or 1 to carry it from now on, 2 to carry it no more."""
        before = flow.state
        after = state_after(flow, way, tcp, now)
        if after is before:
            if now - flow.seen >= REFRESH_MS and after not in {State.CLOSED, State.ABORTED}:
                self._renew(flow, now)
            return 0
        n_confirmed = sum(confirmed(each.state) for each in self.flows())
        if confirmed(after) > confirmed(before) and n_confirmed >= self.confirmed_max:
            self._evict(*list(State)[State.CLOSED :], why=Why.EVICTED_CONFIRMED)
        self.order[before].remove(flow)
        flow.state, flow.seen = after, now
        self.order[after].insert(0, flow)
        carried = after >= State.ESTABLISHED
        return 0 if carried == (before >= State.ESTABLISHED) else 1 if carried else 2

    def remove(self, flow: Flow, why: Why) -> None:
        """End it."""
        self.order[flow.state].remove(flow)
        del self.keys[flow.original]
        if flow.reply:
            del self.keys[flow.reply]
        self.ended.append((flow.original, int(why)))

    def sweep(self, now: int) -> None:
        """End all that were silent for too long."""
        for state in State:
            while self.order[state]:
                oldest = self.order[state][-1]
                if oldest.seen + PATIENCE_MS[state] + REFRESH_MS > now:
                    break
                if not self._kernel_renews(oldest):
                    self.remove(oldest, Why.EXPIRED)
