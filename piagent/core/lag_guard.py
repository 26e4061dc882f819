"""R9: a connection, or a process, that lags may have missed messages without knowing it.

Brokers drop silently what a slow subscriber does not take. So each connection carries a self-echo
through the same queue as the lease messages, and the process watches its own lateness. Both are
needed: a process that was stopped has no echo under way that could be late.
"""

from __future__ import annotations

from piagent.core.lease_types import NEVER, Spans

UNECHOED_MAX = 4
"""Lease messages under way on one connection; no more are sent."""
UNECHOED_URGENT_MAX = 3
"""From here on only the renewals that are due go out; the rest waits for an echo."""


class EchoGuard:
    """Watches one connection."""

    def __init__(self, spans: Spans, now: int) -> None:
        self._spans = spans
        self._nonce = ""
        self._sent_at = NEVER
        self._due_at = now
        self._unechoed: list[int] = []

    def overdue(self, now: int) -> bool:
        """The self-echo under way is older than lambda: nothing this connection brings counts."""
        return self._nonce != "" and now - self._sent_at > self._spans.lag

    def due(self, now: int) -> bool:
        """Time for the next self-echo."""
        return self._nonce == "" and now >= self._due_at

    def echo_sent(self, nonce: str, now: int) -> None:
        """A self-echo goes out."""
        self._nonce, self._sent_at = nonce, now
        self._due_at = now + self._spans.echo

    def echo_returned(self, nonce: str) -> None:
        """A self-echo came back; others than the one under way mean nothing."""
        if nonce == self._nonce:
            self._nonce = ""

    def lease_sent(self, seq: int) -> None:
        """A lease message goes out."""
        self._unechoed.append(seq)

    def lease_echoed(self, seq: int) -> None:
        """A lease message came back, and so did or never will all before it."""
        self._unechoed = [s for s in self._unechoed if s > seq]

    def crowded(self) -> bool:
        """Only what cannot wait may go out."""
        return len(self._unechoed) >= UNECHOED_URGENT_MAX

    def full(self) -> bool:
        """Nothing more may go out."""
        return len(self._unechoed) >= UNECHOED_MAX

    def wakeup(self) -> int:
        """When there is something to check or to send."""
        return self._due_at if self._nonce == "" else self._sent_at + self._spans.lag + 1


class LoopGuard:
    """Watches the process itself."""

    def __init__(self, spans: Spans, now: int) -> None:
        self._spans = spans
        self._promised = now

    def promise(self, wakeup: int) -> None:
        """The process will be asked again by then."""
        self._promised = wakeup

    def late(self, now: int) -> bool:
        """It was not: whatever is read now may have holes."""
        return now - self._promised > self._spans.lag
