"""Whether this host's frames leave it: others are asked, and their silence is judged.

A transmitter may stop while the link stays up and receiving works, without an error (a Pi 5's
does, firmware-notes/ethernet.md). So an owner of VIPs asks hosts on its network, once a second,
whether they are there. A host that has answered is a witness. Silence of all witnesses means that
nothing leaves this host, but only if

- it lasts: `SILENT_ROUNDS` rounds of questions, of which all but the first go to every witness;
- frames still come in, between any two rounds: else the cable, the switch or everybody else is
  at fault (a bridge that speaks now and then is no proof that somebody is there);
- the witnesses are there: two of them do not fail in the same second, or one is heard to speak
  otherwise. A router that restarts takes no VIP away.

Who answers no more while others do was a witness (it left), and is one again when it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

ASK_EVERY_MS = 1000
ASK_AGAIN_MS = 500
"""While nobody answers."""
SILENT_ROUNDS = 4
"""Lost after 1000 + 3 * 500 ms, 2.5 s after the first question that nobody answered."""
WITNESSES_MAX = 4


class Verdict(StrEnum):
    """What is believed."""

    UNKNOWN = "unknown"
    """Nobody has answered yet, or the silence has another explanation."""
    PROVEN = "proven"
    LOST = "lost"
    """Stays until somebody answers or the link is another."""


class EgressProof:
    """The questions and answers of one link. Hosts are named by their addresses."""

    def __init__(self) -> None:
        self.reset("nobody was asked yet")

    def reset(self, reason: str) -> None:
        """What was known is worth nothing any more, as after the link went down."""
        self.verdict = Verdict.UNKNOWN
        self.reason = reason
        """In words for people."""
        self._witnesses: list[str] = []
        self._asked: tuple[str, ...] = ()
        self._answered: set[str] = set()
        self._spoke: set[str] = set()
        self._turn = 0
        self._received: list[int] = []
        """Counts of received packets, one for each silent round in a row."""

    @property
    def witnesses(self) -> tuple[str, ...]:
        """Who answered when last asked, while somebody did."""
        return tuple(self._witnesses)

    @property
    def doubtful(self) -> bool:
        """Nobody answered the last questions, or nobody ever did."""
        return bool(self._received) or not self._witnesses

    @property
    def pause_ms(self) -> int:
        """How long to wait for answers until the next round."""
        return ASK_AGAIN_MS if 0 < len(self._received) < SILENT_ROUNDS else ASK_EVERY_MS

    def round(self, received: int, candidates: Sequence[str]) -> tuple[str, ...]:
        """End a round of questions and begin the next: whom to ask.

        `received` counts the packets that have come in so far, broadcasts and all. Candidates are
        whom else one could ask, the gateway first.
        """
        if self._answered:
            self._witnesses = [w for w in self._witnesses if not self._failed(w)]
            new = [who for who in self._asked if who in self._answered - set(self._witnesses)]
            self._witnesses = (self._witnesses + new)[:WITNESSES_MAX]
            self._spoke.clear()
        elif self._witnesses and self._asked:
            self._received = [*self._received, received][-SILENT_ROUNDS:]
            if len(self._received) == SILENT_ROUNDS:
                self._judge()
        self._answered = set()
        self._asked = self._next(candidates)
        return self._asked

    def answered(self, who: str) -> None:
        """An answer came: what was asked has left this host."""
        if who in self._asked or who in self._witnesses:
            self._answered.add(who)
            self._received = []
            self.verdict, self.reason = Verdict.PROVEN, f"{who} answers"

    def spoke(self, who: str) -> None:
        """A host was heard, but not in answer to a question."""
        if who in self._witnesses:
            self._spoke.add(who)

    def _failed(self, who: str) -> bool:
        return who in self._asked and who not in self._answered

    def _judge(self) -> None:
        if self.verdict is Verdict.LOST:
            return
        silent = ", ".join(self._witnesses)
        self.verdict = Verdict.UNKNOWN
        if any(later <= earlier for earlier, later in pairwise(self._received)):
            self.reason = f"{silent}: no answer, but hardly anything is received either"
        elif len(self._witnesses) >= 2 or self._spoke:
            self.verdict = Verdict.LOST
            self.reason = f"{silent}: no answer any more, though frames are received"
        else:
            self.reason = f"{silent}: no answer, but there is no other witness that it is not gone"

    def _next(self, candidates: Sequence[str]) -> tuple[str, ...]:
        """A witness and a candidate by turns; all witnesses while nobody answers."""
        self._turn += 1
        others = [who for who in candidates if who not in self._witnesses]
        if len(self._witnesses) == WITNESSES_MAX:
            others = []
        asked = [] if not others else [others[self._turn % len(others)]]
        if self.doubtful:
            return (*self._witnesses, *asked)
        return (self._witnesses[self._turn % len(self._witnesses)], *asked)
