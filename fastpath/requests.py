"""What Python hears of each request that is over, of gateways that log."""

from __future__ import annotations

from typing import NamedTuple

REQUEST_ENDS = (
    "done", "client-gone", "backend-cut", "timeout", "tunnel", "cut", "stopped", "trouble",
)  # fmt: skip
"""In the order of http/records.pxd's request_end_t."""


class RequestRecord(NamedTuple):
    """A request that is over.

    Texts are the client's, byte by byte as in Latin-1; `...` follows what was too long to be kept.
    """

    gateway: str
    route: str | None
    """None: none matched, or it was not looked for."""
    service: str | None
    backend: str | None
    """The last one that got it; None: nobody did."""
    client: str
    """The address of who asks."""
    method: str
    host: str | None
    path: str | None
    """Canonical, without the query; None: the target has none."""
    version: str
    status: int
    """0: the client was sent none."""
    bytes_in: int
    """Of the body, from the client."""
    bytes_out: int
    started: float
    """Unix time in seconds: the first byte of the head."""
    head_s: float
    """From there to the head's last byte."""
    queue_s: float
    connect_s: float | None
    """Of the last try; 0: the socket was open already. None: as `backend`."""
    response_s: float | None
    """From when the backend could take the request to its response's head; None: there is none."""
    duration_s: float
    retries: int
    end: str
    """One of REQUEST_ENDS, or the reason (http.answers) why it was answered by ourselves."""
    id: str | None
    referer: str | None
    agent: str | None
