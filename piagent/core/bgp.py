"""Which VIPs this node announces by BGP, to which routers, with what; and why the others not.

Unlike a VIP on the LAN, one that BGP leads to has no single owner: every node that may serve it
announces it, and routers share the traffic out (ECMP). So nothing is elected here.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from ipaddress import ip_address
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from piagent.core.eligibility import Standing, fits
from piagent.core.lease_types import Reason
from piagent.core.model import Announce, Bgp, BgpPeer, Config, Gateway, Service, TrafficPolicy

WELL_KNOWN: Final = {
    "graceful-shutdown": "65535:0",  # RFC 8326
    "blackhole": "65535:666",  # RFC 7999
    "no-export": "65535:65281",  # RFC 1997
    "no-advertise": "65535:65282",  # RFC 1997
    "no-export-subconfed": "65535:65283",  # RFC 1997
    "no-peer": "65535:65284",  # RFC 3765
}
"""Communities that have names."""


class Announcement(StrEnum):
    """Why a node announces a VIP, or why not; in the lease's words where they fit."""

    ANNOUNCED = "announced"
    NOT_WANTED = Reason.NOT_WANTED.value
    """`vip_weight = 0`."""
    DRAINED = Reason.DRAINED.value
    NOT_ELIGIBLE = Reason.NOT_ELIGIBLE.value
    """Labels or interface do not fit the VIP's pool, or the node is on Wi-Fi and wired-only."""
    NO_LOCAL_BACKEND = Reason.NO_LOCAL_BACKEND.value
    NO_BACKEND = "no-backend"
    """Nothing that is behind the VIP has a backend that is up and has a weight."""
    NO_PEER = "no-peer"
    """No router is there for this node, this pool and the VIP's IP version."""


class BgpRoute(Struct, frozen=True, kw_only=True):
    """One VIP as one router is told of it."""

    peer: str
    """The router's name."""
    vip: str
    next_hop: str | None = None
    """None: this node's end of the session."""
    communities: tuple[str, ...] = ()
    local_pref: int | None = None


def speaking(config: Config) -> Bgp | None:
    """How this node speaks BGP, with only the routers that it has sessions with.

    None: it does not, since it serves no VIPs, no pool wants it, or no router is for it.
    """
    wanted = any(pool.announce is Announce.BGP for pool in config.pools)
    if config.bgp is None or config.node.vip_weight == 0 or not wanted:
        return None
    peers = tuple(peer for peer in config.bgp.peers if config.node.has_labels(peer.nodes))
    return replace(config.bgp, peers=peers) if peers else None


def announcements(config: Config, standing: Standing) -> dict[str, Announcement]:
    """VIP -> whether this node announces it now and why, for every VIP that BGP leads to."""
    return {vip: _announcement(config, standing, vip) for vip in config.routed_vips()}


def routes(config: Config, standing: Standing) -> frozenset[BgpRoute]:
    """What this node's routers are to be told now."""
    return frozenset(
        route
        for vip, why in announcements(config, standing).items()
        if why is Announcement.ANNOUNCED
        for route in _routes(config, vip)
    )


def _announcement(config: Config, standing: Standing, vip: str) -> Announcement:
    if config.node.vip_weight == 0:
        return Announcement.NOT_WANTED
    if standing.draining:
        return Announcement.DRAINED
    if not _is_eligible(config, standing, vip):
        return Announcement.NOT_ELIGIBLE
    if not any(_routes(config, vip)):
        return Announcement.NO_PEER
    services = [service for service in config.services if vip in service.vips]
    local = [one for one in services if one.traffic_policy is TrafficPolicy.LOCAL]
    # Traffic for each of them would come here, and nobody may pass it on to another node.
    if not all(_has_backend(one, standing, config.node.name) for one in local):
        return Announcement.NO_LOCAL_BACKEND
    # A service without backends is as dead on every other node: it does not take down the others.
    behind = [*services, *_routed_to(config, vip)]
    if not any(_has_backend(one, standing) for one in behind):
        return Announcement.NO_BACKEND
    return Announcement.ANNOUNCED


def _is_eligible(config: Config, standing: Standing, vip: str) -> bool:
    pool = config.pool_of(vip)
    if pool is None or (config.node.wired_only and standing.wireless):
        return False
    return fits(config, pool)


def _routed_to(config: Config, vip: str) -> Iterable[Service]:
    """The services that the VIP's gateways have routes to. One without routes only answers 404."""
    gateways = {gateway.name for gateway in _gateways(config, vip)}
    names = {
        backend.service
        for route in config.routes
        if route.gateway in gateways
        for backend in route.backends
        if backend.weight > 0
    }
    return (service for service in config.services if service.name in names)


def _gateways(config: Config, vip: str) -> Iterable[Gateway]:
    return (gateway for gateway in config.gateways if vip in gateway.vips)


def _has_backend(service: Service, standing: Standing, node: str | None = None) -> bool:
    """Tell whether a backend is up and gets connections; `node`: one that runs there."""
    return any(
        backend.weight > 0
        and (service.name, backend.id) not in standing.down
        and node in {None, backend.node}
        for backend in service.backends
    )


def _routes(config: Config, vip: str) -> Iterable[BgpRoute]:
    bgp, pool = speaking(config), config.pool_of(vip)
    if bgp is None or pool is None:
        return
    for peer in bgp.peers:
        if carries(bgp, peer, vip) and (not pool.peers or peer.name in pool.peers):
            yield BgpRoute(
                peer=peer.name,
                vip=vip,
                next_hop=next_hop(bgp, vip),
                communities=pool.communities,
                # RFC 4271 section 5.1.5: not to other AS.
                local_pref=pool.local_pref if peer.asn == bgp.asn else None,
            )


def carries(bgp: Bgp, peer: BgpPeer, address: str) -> bool:
    """Tell whether routes of the address's IP version have a next hop in a session.

    A session carries both versions (RFC 4760), but its own end is a next hop for one of them only.
    """
    return _version(peer.address) == _version(address) or next_hop(bgp, address) is not None


def next_hop(bgp: Bgp, address: str) -> str | None:
    """The next hop that is configured for the address's IP version."""
    return next((hop for hop in bgp.next_hops if _version(hop) == _version(address)), None)


def _version(address: str) -> int:
    return ip_address(address).version
