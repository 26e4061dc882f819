"""Health checks: what is asked of which backend, which node asks, and whose word counts.

Nobody hands the work out. Each node that checks a backend has a rank for it, another one for each
backend. It checks, and says what it found, unless it knows a verdict that counts of a node that
ranks above it: then it takes that one's word, and is silent. So of those that are there and heard
the one that ranks highest is on duty, and whatever keeps its verdicts from counting (it is gone, it
says nothing more, it asks another question, it is of another version) puts the next one on duty.

A verdict counts while the life of its node that said it is there, for a while from when it was
heard, and only if it answers the very question that this node would ask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from piagent.core.lease_types import Count, Incarnation, Name
from piagent.core.model import Backend, HealthCheck, HealthKind, Service, checked_port
from piagent.core.proxying import NOBODYS_HEADER

REFRESH_S = 30.0
"""A verdict is said again so often though nothing has changed, or with each check if that is less
often."""
SILENCE = 2.5
"""So many times as long a verdict counts from when it was heard."""
MAX_BACKENDS = 4096
"""That verdicts are kept of; only members of the cluster can invent some."""
DETAIL_MAX = 200

Key = tuple[str, str]
"""(service, backend id)."""
Rank = tuple[bool, int, str]
"""How a node stands for a backend among those that check it: the highest is on duty."""


class Question(Struct, frozen=True):
    """What one check asks."""

    service: str
    backend: str
    """Its id within the service."""
    address: str
    port: int
    """0: the service has no port that this kind of check could ask."""
    check: HealthCheck
    preface: bytes = b""
    """What the backend's connections begin with: a PROXY header that names no client."""

    @property
    def key(self) -> Key:
        """What it is about."""
        return self.service, self.backend

    def digest(self) -> str:
        """The same on all nodes that ask the same, in the same way; 16 hex digits."""
        check = self.check
        what = (self.address, self.port, self.preface, check.kind, check.path, check.expect)
        asked = (*what, check.interval_ms, check.timeout_ms, check.rise, check.fall)
        return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:16]

    def is_common(self) -> bool:
        """Whether another node that asks it asks the same host, and nothing of its own."""
        address = ip_address(self.address)
        of_one_host = address.is_loopback or address.is_link_local
        return self.check.shared and self.check.kind is not HealthKind.EXEC and not of_one_host

    def refresh_s(self) -> float:
        """How long its verdict may go unsaid."""
        return max(REFRESH_S, (self.check.interval_ms + self.check.timeout_ms) / 1000)

    def silence_s(self) -> float:
        """How long a verdict counts from when it was heard."""
        return SILENCE * self.refresh_s()


def question(service: Service, check: HealthCheck, backend: Backend) -> Question:
    """What is asked of a backend of the service."""
    port = checked_port(service, check, backend)
    # Another port is another program's, which says nothing of the service's connections.
    preface = NOBODYS_HEADER[service.proxying.header if check.port is None else None]
    return Question(service.name, backend.id, backend.address, port, check, preface)


def questions(services: Iterable[Service]) -> Iterator[tuple[Question, Backend]]:
    """What is asked of each backend that is checked."""
    for service in services:
        check = service.health
        if check is None:
            continue
        for backend in service.backends:
            yield question(service, check, backend), backend


class Verdict(Struct, frozen=True, kw_only=True):
    """`health/<service>/<backend>`: what a node found out about a backend."""

    node: Name
    incarnation: Incarnation
    at: Count
    """Unix milliseconds, strictly rising for a node: what it said before is void."""
    question: Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{16})?\Z")]
    """`Question.digest`; empty: it does not check the backend any more."""
    near: bool
    """The backend is on the node itself, which nobody should judge who can help it."""
    up: bool
    since: Count
    """Since when it is so, in unix milliseconds."""
    detail: Annotated[str, Meta(max_length=DETAIL_MAX)]


class Heard(Struct, frozen=True):
    """A verdict of another node."""

    said: Verdict
    rank: Rank
    at_s: float
    """When it came."""


def rank(node: str, key: Key, *, near: bool) -> Rank:
    """Spread over the nodes by chance, the same everywhere; who is near comes last."""
    hashed = hashlib.blake2b("\0".join((node, *key)).encode(errors="surrogatepass"), digest_size=8)
    return not near, int.from_bytes(hashed.digest(), "big"), node


class Verdicts:
    """What other nodes said of backends."""

    def __init__(self, lives: Callable[[str], str | None]) -> None:
        """`lives`: incarnation of a node that is there."""
        self._lives = lives
        self._heard: dict[Key, dict[str, Heard]] = {}
        self._newest: dict[str, Verdict] = {}  # by node, of any backend

    def hear(self, key: Key, said: Verdict, now_s: float) -> bool:
        """Take note; False: it is nothing new.

        A former life's words are void when a later one has been heard, those of the same life about
        the same backend when later ones have. Who replays others finds them compared by their time:
        a node whose clock went back is not listened to before its time has come again.
        """
        newest = self._newest.get(said.node)
        if newest is not None and said.at <= newest.at and said.incarnation != newest.incarnation:
            return False
        of_key = self._heard.get(key)
        if of_key is None:
            if len(self._heard) >= MAX_BACKENDS:
                return False
            of_key = self._heard[key] = {}
        before = of_key.get(said.node)
        if before is not None and said.at <= before.said.at:
            return False
        if newest is None or said.at > newest.at:
            self._newest[said.node] = said
        of_key[said.node] = Heard(said, rank(said.node, key, near=said.near), now_s)
        return True

    def best(self, asked: Question, digest: str, now_s: float) -> Heard | None:
        """Of the verdicts that count the one of the node that ranks highest.

        `digest`: the question's, which the caller has at hand.
        """
        of_key = self._heard.get(asked.key)
        if of_key is None:
            return None
        heard_after_s = now_s - asked.silence_s()
        found: Heard | None = None
        for heard in of_key.values():
            said = heard.said
            counts = said.question == digest and heard.at_s > heard_after_s
            if not counts or self._lives(said.node) != said.incarnation:
                continue
            if found is None or heard.rank > found.rank:
                found = heard
        return found

    def keep(self, keys: set[Key]) -> None:
        """Make room: forget all others, and the nodes that are gone."""
        self._heard = {
            key: here
            for key, of_key in self._heard.items()
            if key in keys and (here := self._here(of_key))
        }

    def _here(self, of_key: dict[str, Heard]) -> dict[str, Heard]:
        return {node: one for node, one in of_key.items() if self._lives(node) is not None}
