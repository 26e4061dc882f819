"""Routes with basic_auth, who asks there, and a gate before the checks of their passwords."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from fastpath.engine import Engine, Route
from fastpath.filters import BasicAuth, Filters
from fastpath.users import Crypt, Users
from tests.fastpath.http.gateways import Client, to
from tests.waiting import wait_until

SECRET = (
    "$6$rounds=1000$abc$MqEcPZUYRGGcOeq7PhMpfjfu/F0HrVEI0OlZBijWvO8mSG77iNUDP5MqFceKpJTBc8iITVtNy"
    "LiNTRNCxv6oh0"
)
"""Of the password "secret"."""
OTHER = (
    "the minimum number is still observed",
    (
        "$6$rounds=1000$roundstoolow$kUMsbe306n21p9R.FRkW3IGn.S9NPN0x50YhH1xh"
        "LsPuWGsUSklZt58jaTfF4ZEQpyUNGc0dqbpBYYBaHHrsX."
    ),
)
"""Another password and its hash: the last vector of the SHA-crypt specification."""


def basic(user: str, password: str) -> str:
    """The field line of a client that knows a password."""
    return f"Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


ALICE = basic("alice", "secret")


def locked(realm: str = "a", users: dict[str, str] | None = None, **filters: Any) -> Route:
    """A route for "alice" with "secret", or for those users."""
    auth = BasicAuth(realm, Users({"alice": SECRET} if users is None else users))
    return to(filters=Filters(auth=auth, **filters))


def asking(line: str, path: str = "/") -> bytes:
    """A GET with that field line."""
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n".encode()


class From(Client):
    """A client at an address of its own."""

    def __init__(self, port: int, source: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 20, (source, 0))
        self.heard = b""


class Gate:
    """Lets checks begin; they are the real ones."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._opens = threading.Event()
        self.opens()
        self.checked: list[bytes] = []

    def shuts(self) -> None:
        self._opens.clear()

    def opens(self) -> None:
        self._opens.set()

    @property
    def checks(self) -> Callable[[Crypt, bytes, bytes], bool]:
        def matches(crypt: Crypt, password: bytes, hashed: bytes) -> bool:
            self.checked.append(password)
            self._opens.wait(20)
            return bool(self._real(crypt, password, hashed))

        return matches


def http(engine: Engine) -> dict[str, Any]:
    return dict(engine.stats()["http"])


def rejected(engine: Engine, reason: str) -> int:
    return int(http(engine)["rejected"][reason])


def wait_for(engine: Engine, n: int) -> None:
    """Until so many wait for a check."""
    wait_until(lambda: http(engine)["checking"] == n, lambda: str(http(engine)["checking"]))


@contextlib.contextmanager
def gated() -> Iterator[Gate]:
    """Let every check go through a gate, which is open."""
    real = Crypt.matches
    gate = Gate(real)
    Crypt.matches = gate.checks  # type: ignore[method-assign]
    try:
        yield gate
    finally:
        gate.opens()
        Crypt.matches = real  # type: ignore[method-assign]
