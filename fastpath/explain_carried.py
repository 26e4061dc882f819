"""Whether the kernel's programs do with packets of a flow what the forwarder does.

In a trial the flow is brought so far that they may carry it; then both get the same packets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from fastpath.packet.conversation import (
    ACK,
    PSH,
    SYN,
    Ends,
    Segment,
    frame,
    headers,
    smallest,
)
from fastpath.packet.flow_cache import FlowCache
from fastpath.trial import Trial

_CLIENT, _BACKEND = 1000, 5000
"""Initial sequence numbers."""
_DATA = 64
_ASSURED_MS = 2000
"""As in packet/flow_states.pxd: after so long a flow that nobody is seen to answer is confirmed."""
_WORDS = {
    "xdp": {0: "aborted", 1: "dropped", 2: "passed", 3: "sent back", 4: "carried"},
    "tc": {2: "dropped", 7: "carried", 0xFFFFFFFF: "passed"},
}
"""linux/bpf.h: enum xdp_action, enum tcx_action_base, and TC_ACT_REDIRECT."""


class Conversation:
    """A client and its backend, as far as the trial lets them speak."""

    def __init__(self, trial: Trial, ends: Ends, macs: tuple[bytes, bytes]) -> None:
        """`macs`: destination and source of the client's frames."""
        self.trial = trial
        self._ways = {"request": (ends, macs)}
        """Those that packets come by."""

    def establish(self, *, answers: bool) -> bool:
        """Say what it takes until the kernel may have the flow; whether there is one.

        `answers`: those of the backend come this way, too.
        """
        taken = self.trial.take(self._say("request", Segment(SYN, _CLIENT)))
        if taken.verdict != "sent":
            return False
        if answers:
            sent = headers(taken.out[0].frame)
            self._ways["answer"] = sent.ends.reverse, (sent.source_mac, sent.destination_mac)
            self.trial.take(self._say("answer", Segment(SYN | ACK, _BACKEND, _CLIENT + 1)))
        else:
            self.trial.wait(_ASSURED_MS)
        self.trial.take(self._say("request", Segment(ACK, _CLIENT + 1, _BACKEND + 1)))
        return True

    def packets(self, size: int) -> Iterator[tuple[str, bytes]]:
        """One in the midst of the flow, each way; `size`: of the packet, 0: any."""
        numbers = {"request": (_CLIENT + 1, _BACKEND + 1), "answer": (_BACKEND + 1, _CLIENT + 1)}
        for way, (ends, _) in self._ways.items():
            said = Segment(ACK | PSH, *numbers[way])
            yield way, self._say(way, said, size or smallest(ends) + _DATA)

    def _say(self, way: str, segment: Segment, size: int = 0) -> bytes:
        return frame(*self._ways[way], segment, size=size)


def carried_alike(
    talk: Conversation, cache: FlowCache, interface: int, *, size: int = 0, nat: bool = False
) -> list[dict[str, Any]]:
    """What each program does with a packet of each way, and whether the forwarder does the same.

    Empty: there is no such flow. `same` is None for what a program leaves to the forwarder.
    """
    if not talk.establish(answers=nat):
        return []
    found = []
    for way, sent in talk.packets(size):
        taken = talk.trial.take(sent)
        went = taken.out[0].frame if taken.verdict == "sent" else None
        programs: tuple[Literal["xdp", "tc"], ...] = ("xdp", "tc")
        for program in programs:
            # XDP never asks where a frame came in.
            ran = cache.run(program, sent, interface=interface if program == "tc" else 0)
            verdict = _WORDS[program].get(ran.verdict, str(ran.verdict))
            same = None if verdict == "passed" else ran.frame == went
            found.append({"program": program, "way": way, "verdict": verdict, "same": same})
    return found
