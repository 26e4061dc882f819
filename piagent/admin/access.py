"""Who may ask what over TCP. On the Unix socket, the mode of its file says it.

With a token, a request is its bearer's (RFC 6750) and may do everything. Without one, anybody may
ask for the health; anybody on this host may read, where no token is configured; nobody may write.
Browsers on this host are kept from being somebody else's hands: what a page of another origin
writes has an Origin, and what a name that was made to lead here reads has a strange Host.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final

from piagent.admin.answer import Answer, problem, with_header
from piagent.admin.api import HEALTH, READS, TUNNEL

CURE: Final = "give [admin] a token_file and send its token: `Authorization: Bearer ...`"

Headers = Mapping[bytes, bytes]
"""Names are lower case."""


class Access:
    """The rules of one TCP listener."""

    def __init__(self, token: str | None) -> None:
        """`token`: what writes need, and reads too; None: reads need none, writes are refused."""
        self.token = token
        self._names = _own_names()

    def refusal(self, method: str, path: str, headers: Headers) -> Answer | None:
        """Why a request must not be answered, None when it may be."""
        writes = method not in READS or path == TUNNEL
        if writes and b"origin" in headers:
            return problem(403, "forbidden", "a browser's page changes nothing here: it has Origin")
        if self.is_bearer(headers) or (path in HEALTH and not writes):
            return None
        if self.token is not None:
            return self._unauthorized(headers)
        if writes:
            return problem(403, "forbidden", f"over TCP this needs a token: {CURE}")
        if not self._is_here(headers.get(b"host", b"")):
            what = "the Host is neither an IP address nor this host's name"
            return problem(403, "forbidden", f"{what}: ask by one of these, or {CURE}")
        return None

    def is_bearer(self, headers: Headers) -> bool:
        """Whether the request has the token."""
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if self.token is None or scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(given.strip(), self.token.encode())

    def _unauthorized(self, headers: Headers) -> Answer:
        if b"authorization" in headers:
            reply = problem(401, "unauthorized", "this is not the token of this agent")
            challenge = 'Bearer realm="piagent", error="invalid_token"'
        else:
            reply = problem(401, "unauthorized", "send `Authorization: Bearer ...` with the token")
            challenge = 'Bearer realm="piagent"'
        return with_header(reply, "WWW-Authenticate", challenge)

    def _is_here(self, host: bytes) -> bool:
        """Whether a Host cannot be a name that a stranger made lead here (DNS rebinding)."""
        text = host.decode("latin-1").lower()
        bare = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
        try:
            ip_address(bare)
        except ValueError:
            return bare.rstrip(".") in self._names
        return True


def _own_names() -> frozenset[str]:
    """This host's name, alone and in multicast DNS (RFC 6762), and localhost."""
    full = socket.gethostname().lower()
    short = full.partition(".")[0]
    return frozenset({"localhost", full, short, f"{short}.local"})
