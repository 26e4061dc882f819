"""Gateways that ask another service before a request goes on, for tests."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from fastpath.engine import Backend, Engine, Gateway, Listener, Service, Tables
from fastpath.filters import Filters, ForwardAuth
from tests.fastpath.http.gateways import Peer, Seen, Web, ok, to
from tests.fastpath.peers import running
from tests.net import free_port

NO_FILTERS = Filters()
YES = ok(b"yes", b"X-User: u", b"x-groups: a", b"X-Groups: b", b"X-Other: o", b"Connection: x-hop")
NO = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno"
ASK = ForwardAuth("auth", "/check?by=gateway", ("x-user", "X-Groups"))


def asking_tables(
    port: int,
    web: Backend,
    *asked: Backend,
    auth: ForwardAuth = ASK,
    filters: Filters = NO_FILTERS,
    of_auth: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> Tables:
    """One route for every request, whose backend is `web`; `asked` are those of "auth"."""
    route = to(filters=filters._replace(forward_auth=auth), **changes)
    return Tables(
        (Listener("127.0.0.1", port, "g", http=True),),
        (Service("s", (web,)), Service("auth", asked, **(of_auth or {}))),
        (Gateway("g", False, (route,), **(options or {})),),
    )


@contextlib.contextmanager
def asking(web: Backend, *asked: Backend, **changes: Any) -> Iterator[tuple[Engine, int]]:
    """A running gateway with those tables, and its port."""
    with running() as engine:
        engine.publish(asking_tables(port := free_port(), web, *asked, **changes))
        yield engine, port


class Doubting(Web):
    """Answers no question before it is told to."""

    def __init__(self, answer: bytes = ok(b"yes", b"X-User: u")) -> None:
        self.knows = threading.Semaphore(0)
        self.says = answer
        super().__init__(self._answer)

    def _answer(self, _peer: Peer, _seen: Seen) -> bytes:
        self.knows.acquire(timeout=20)
        return self.says


def saying(answer: bytes) -> Web:
    """A service that answers every question so."""
    return Web(lambda _peer, _seen: answer)


def rejected(engine: Engine) -> dict[str, int]:
    return {k: n for k, n in engine.stats()["http"]["rejected"].items() if n}


def sends(*parts: bytes) -> Callable[[Peer], None]:
    def talk(peer: Peer) -> None:
        peer.request()
        peer.send(*parts)

    return talk
