"""How many connections the process's descriptors allow."""

from __future__ import annotations

import contextlib
import resource
from typing import NamedTuple

_OTHERS = 64
"""Descriptors kept for the rest of the agent: broker, admin connections, files, probes."""
_PER_WORKER = 4
_PLENTY = 1 << 24
_PER_CONNECTION = 2
"""One to the client, one to the backend."""
_SESSIONS_MAX = 4096
"""UDP sessions of a worker, as in proxy/sessions.pxd."""
_PIPES_MAX = 32
"""Pipes of a worker, as in memory/pipes.pxd."""
_PER_PIPE = 2


def raise_descriptor_limit(connections: int, workers: int) -> None:
    """Raise the soft limit as far as these connections need it and the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections * _PER_CONNECTION + _OTHERS
    wanted += workers * (_PER_WORKER + 16 + min(connections, _SESSIONS_MAX))
    wanted += workers * _PIPES_MAX * _PER_PIPE
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with contextlib.suppress(ValueError, OSError):  # then clients_max goes by what there is
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Limits(NamedTuple):
    """What the workers may use."""

    clients: int
    """Client connections of all workers together."""
    sockets_per_worker: int
    """Two for each of its clients, and idle ones to backends."""
    sessions_per_worker: int
    """One for each of its UDP sessions."""
    pipes_per_worker: int
    """Two descriptors each, to splice streams through."""


def limits_now(connections: int, workers: int, listening: int, *, udp: bool) -> Limits:
    """What the descriptors allow; `listening`: sockets that only listen.

    `udp`: there are UDP listeners, whose sessions may have up to a quarter of what is left. Pipes,
    which only make streams cheaper, may have a sixteenth.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = _PLENTY
    left = max(soft - _OTHERS - listening, _PER_CONNECTION)
    sessions = min(connections, _SESSIONS_MAX, left // 4 // workers) if udp else 0
    left = max(left - sessions * workers, _PER_CONNECTION)
    pipes = min(_PIPES_MAX, left // 16 // _PER_PIPE // workers)
    left -= pipes * _PER_PIPE * workers
    clients = min(connections, left // _PER_CONNECTION)
    return Limits(clients, min(left, _PLENTY) // workers, sessions, pipes)
