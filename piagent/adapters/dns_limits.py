"""How many answers who gets a second, so that nobody can aim the responder at somebody else.

A query by UDP may carry a stranger's address as its sender, and an answer is longer than its
query. So no address on the network gets more than a few full answers a second; then it gets short
ones that say "ask by TCP" (as "response rate limiting" of BIND and NSD does). Programs on this host
have a limit of their own: what comes from the network cannot keep them from being answered.
"""

from __future__ import annotations

from enum import Enum, auto
from ipaddress import ip_address
from typing import Final

SOURCE_PER_S: Final = 50
"""Full answers to one IPv4 address, or one IPv6 /64."""
TOTAL_PER_S: Final = 1000
"""Answers to this host, and answers to all others."""
BURST: Final = 2
"""Seconds' worth of answers that one may get at once."""
MAX_SOURCES: Final = 1024


class Verdict(Enum):
    """What a query gets."""

    ANSWER = auto()
    ASK_BY_TCP = auto()
    NOTHING = auto()


class _Bucket:
    """A token bucket."""

    __slots__ = ("_at_s", "_left", "_per_s")

    def __init__(self, per_s: int, now_s: float) -> None:
        self._per_s = per_s
        self._left = float(per_s * BURST)
        self._at_s = now_s

    def take(self, now_s: float) -> bool:
        """Take one, if there is one."""
        gained = (now_s - self._at_s) * self._per_s
        self._left = min(self._left + gained, float(self._per_s * BURST))
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Limits:
    """Judges queries by where they come from."""

    def __init__(self, now_s: float) -> None:
        """`now_s`: of any clock that never goes back."""
        self._here = _Bucket(TOTAL_PER_S, now_s)
        self._others = _Bucket(TOTAL_PER_S, now_s)
        self._sources: dict[bytes, _Bucket] = {}

    def udp(self, source: str, now_s: float) -> Verdict:
        """Judge a query whose sender may be a lie."""
        address = ip_address(source)
        if address.is_loopback:
            return Verdict.ANSWER if self._here.take(now_s) else Verdict.NOTHING
        if not self._others.take(now_s):
            return Verdict.NOTHING
        key = address.packed if address.version == 4 else address.packed[:8]
        bucket = self._sources.get(key)
        if bucket is None:
            if len(self._sources) >= MAX_SOURCES:
                del self._sources[next(iter(self._sources))]
            bucket = self._sources[key] = _Bucket(SOURCE_PER_S, now_s)
        return Verdict.ANSWER if bucket.take(now_s) else Verdict.ASK_BY_TCP

    def tcp(self, source: str, now_s: float) -> bool:
        """Judge a query on a connection: whether it is answered."""
        here = ip_address(source).is_loopback
        return (self._here if here else self._others).take(now_s)
