"""Why this node must not own a VIP now, from what it knows of itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import ip_address, ip_interface

from msgspec import Struct

from piagent.core.lease_types import Reason
from piagent.core.model import Announce, Config, Pool, Service, TrafficPolicy
from piagent.core.plan import is_loopback


class Standing(Struct, frozen=True, kw_only=True):
    """This host at one moment."""

    carrier: bool = True
    """The interface is there, switched on and has a link."""
    wireless: bool = False
    egress: bool = True
    """Somebody answers what the interface sends, as far as that can be told."""
    networks: tuple[str, ...] = ()
    """Addresses with prefix length on the interface; empty: not known."""
    draining: bool = False
    twin: bool = False
    """Another live host has this node's name."""
    down: frozenset[tuple[str, str]] = frozenset()
    """(service, backend id) that health checks found down."""
    left: Mapping[str, Reason] = {}
    """VIP -> why it is left to others for a while: in use by a stranger, not to be configured."""


def refusals(config: Config, standing: Standing) -> dict[str, Reason]:
    """VIP -> why this node must not own it; VIPs that it may own are not in it."""
    found = {vip: _refusal(config, standing, vip) for vip in config.vips()}
    return {vip: reason for vip, reason in found.items() if reason is not None}


def _refusal(config: Config, standing: Standing, vip: str) -> Reason | None:
    candidates = config.election.candidates
    if config.node.vip_weight == 0 or (candidates and config.node.name not in candidates):
        return Reason.NOT_WANTED
    if standing.twin:
        return Reason.TWIN
    if standing.draining:
        return Reason.DRAINED
    if vip in standing.left:
        return standing.left[vip]
    if not _serves_locally(config, standing, vip):
        return Reason.NO_LOCAL_BACKEND
    return None if is_loopback(vip) else _refusal_on_the_lan(config, standing, vip)


def _refusal_on_the_lan(config: Config, standing: Standing, vip: str) -> Reason | None:
    if not standing.carrier:
        return Reason.CARRIER_LOST
    if not standing.egress:
        return Reason.EGRESS_LOST
    if config.node.wired_only and standing.wireless:
        return Reason.NOT_ELIGIBLE
    pool = config.pool_of(vip)
    if pool is not None and not fits(config, pool):
        return Reason.NOT_ELIGIBLE
    announced = pool is None or pool.announce is not Announce.NONE
    if announced and not _on_link(vip, standing.networks):
        return Reason.NOT_ELIGIBLE
    return None


def fits(config: Config, pool: Pool) -> bool:
    """Whether this node is one for the pool: it wants these labels, and one of these interfaces."""
    if not config.node.has_labels(pool.nodes):
        return False
    return not pool.interfaces or config.node.interface in pool.interfaces


def _on_link(vip: str, networks: Collection[str]) -> bool:
    """Hosts of one of the interface's networks would ask for the VIP there."""
    address = ip_address(vip)
    return not networks or any(address in ip_interface(one).network for one in networks)


def _serves_locally(config: Config, standing: Standing, vip: str) -> bool:
    """Each service of the VIP with `traffic_policy = "local"` has a backend here that is up."""
    local = (
        service
        for service in config.services
        if vip in service.vips and service.traffic_policy is TrafficPolicy.LOCAL
    )
    return all(_has_backend(service, config.node.name, standing.down) for service in local)


def _has_backend(service: Service, node: str, down: frozenset[tuple[str, str]]) -> bool:
    return any(
        backend.node == node and (service.name, backend.id) not in down
        for backend in service.backends
    )
