"""What a backend of `dsr` services has to be ready for: packets to VIPs that are not its own."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from piagent.core.forwarding import Mode
from piagent.core.model import Config


class Accepted(Struct, frozen=True, order=True):
    """A VIP whose packets come to this host as a backend, and in what."""

    vip: str
    tunnel: int = 0
    """The IP version of the header around them; 0: there is none."""


def accepted(config: Config, own: Collection[str]) -> dict[Accepted, int]:
    """Say what comes to this host, which has the addresses `own`.

    With it, for how many milliseconds its connections may go on when it is not said any more.

    The addresses decide, not what a backend's `node` says: what runs on a node with an address of
    its own (a container, a virtual machine) gets its packets itself. A backend that is down, or has
    a weight of 0, may have connections still.
    """
    found: dict[Accepted, int] = {}
    for service in config.services:
        how, drain_ms = service.forwarding, service.proxying.drain_ms
        here = [one.address for one in service.backends if one.address in own]
        for backend in here if how.mode is Mode.DSR else ():
            for vip in service.vips:
                if how.carries(vip, backend):
                    one = Accepted(vip, _tunnel(how.encapsulation, backend))
                    found[one] = max(found.get(one, 0), drain_ms)
    return found


def _tunnel(encapsulation: object, backend: str) -> int:
    if encapsulation is None:
        return 0
    return 6 if ":" in backend else 4
