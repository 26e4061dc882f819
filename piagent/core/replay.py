"""Messages that count once: what was captured and is sent again is told from what is new."""

from __future__ import annotations

from collections import OrderedDict

from piagent.core.lease_types import Sender

MAX_SENDERS = 1000
"""Senders that are remembered; each start of an agent is another one."""


class Replay:
    """Remembers the last sequence number of each sender.

    Give it authentic messages only: a stranger's would push the memory of others out. A sender
    that has been forgotten is as good as new, so a message must also name whom it is meant for
    (`wire.Control.to`): then the memory need not be longer than one life of the receiver.
    """

    def __init__(self, max_senders: int = MAX_SENDERS) -> None:
        self._last: OrderedDict[Sender, int] = OrderedDict()
        self._max_senders = max_senders

    def accepts(self, node: str, incarnation: str, seq: int) -> bool:
        """Whether the message is newer than all that came from its sender; it is noted then."""
        sender = (node, incarnation)
        if seq <= self._last.get(sender, -1):
            return False
        self._last[sender] = seq
        self._last.move_to_end(sender)
        if len(self._last) > self._max_senders:
            self._last.popitem(last=False)
        return True
