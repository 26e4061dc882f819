"""One key at one broker: when it may be claimed, and until when it is ours (rules R1 to R6).

A broker is a sequencer without memory, so a register is nothing but one node's record of what it
said and heard on its present connection. `hold_until` alone survives a reconnect.
"""

from __future__ import annotations

from collections import deque

from piagent.core.lease_types import FOREVER, NEVER, Sender, Spans

_SENDERS_KEPT = 16
"""With more, those that block no longer are forgotten."""


class Said:
    """One own message about the key, on its way to the broker and back."""

    __slots__ = ("at", "claim", "seq")

    def __init__(self, seq: int, at: int, *, claim: bool) -> None:
        self.seq = seq
        self.at = at
        self.claim = claim
        """R1 held when it was sent, and R2 holds still."""


class Register:
    """The silence register of one key at one broker."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self.hold_until = NEVER
        self._quiet_since = FOREVER
        self._blocked_until: dict[Sender, int] = {}
        self._unechoed: deque[Said] = deque()
        self._echoed: Said | None = None
        self.confirm_due = False
        """R3: the window is open and the message that can end it is not sent yet."""

    def listen(self, now: int) -> None:
        """Everything about the key is heard from now on: a fresh connection, or a new key."""
        self.deafen()
        self._quiet_since = now

    def deafen(self) -> None:
        """The connection is gone: what was said and heard on it proves nothing any more."""
        self._quiet_since = FOREVER
        self._blocked_until.clear()
        self._forget_said()

    def quiet_at(self) -> int:
        """When a claim may be sent if nothing more is heard (R1); FOREVER without a connection."""
        if self._quiet_since == FOREVER:
            return FOREVER
        return max(self._quiet_since + self._spans.wait, *self._blocked_until.values(), NEVER)

    def say(self, seq: int, now: int) -> None:
        """An own assertion goes out."""
        self._unechoed.append(Said(seq, now, claim=now >= self.quiet_at()))
        self.confirm_due = False

    def hear_assertion(self, sender: Sender, now: int, lease_ms: int = 0) -> None:
        """Somebody else asserts the key; `lease_ms` is how long they may then hold it."""
        if len(self._blocked_until) > _SENDERS_KEPT:
            self._forget_silent(now)
        until = now + self._spans.wait_after(lease_ms)
        self._blocked_until[sender] = max(until, self._blocked_until.get(sender, NEVER))
        self._close_windows()

    def hear_yield(self, sender: Sender) -> None:
        """The sender holds nothing any more; the wait after the subscription remains (R6)."""
        self._blocked_until.pop(sender, None)

    def hear_own(self, seq: int, now: int) -> None:
        """An own assertion came back: it certifies the own message before it (R3)."""
        while self._unechoed and self._unechoed[0].seq < seq:
            self._unechoed.popleft()
        if not self._unechoed or self._unechoed[0].seq != seq:
            return  # a duplicate, or from an earlier connection
        certified, self._echoed = self._echoed, self._unechoed.popleft()
        if certified is None:
            self.confirm_due = not self._unechoed
        else:
            self._certify(certified, now)

    def _certify(self, said: Said, now: int) -> None:
        until = said.at + self._spans.lease  # R4: from the sending, never from the echo
        running = now < self.hold_until  # R5: what has run out is not extended
        if until > now and (running or said.claim):
            self.hold_until = max(self.hold_until, until)

    def claimable(self, now: int) -> bool:
        """A first claim may go out now."""
        return not self._unechoed and self._echoed is None and now >= self.quiet_at()

    def claimed(self) -> bool:
        """A claim is under way and its window was not broken."""
        return any(s.claim for s in self._unechoed) or (
            self._echoed is not None and self._echoed.claim
        )

    def holds(self, now: int) -> bool:
        """The key is ours at this broker."""
        return now < self.hold_until

    def blocked_by(self, sender: Sender, now: int) -> bool:
        """An assertion of that sender blocks claims."""
        return now < self._blocked_until.get(sender, NEVER)

    def drop(self) -> None:
        """Give up the hold, and whatever was under way to one."""
        self.hold_until = NEVER
        self._forget_said()

    def _forget_silent(self, now: int) -> None:
        """It changes nothing but memory: those assertions block no longer."""
        for sender in [s for s, until in self._blocked_until.items() if until <= now]:
            del self._blocked_until[sender]

    def _forget_said(self) -> None:
        self._unechoed.clear()
        self._echoed = None
        self.confirm_due = False

    def _close_windows(self) -> None:
        """R2: no message sent until now begins a hold."""
        for said in self._unechoed:
            said.claim = False
        if self._echoed is not None:
            self._echoed.claim = False
