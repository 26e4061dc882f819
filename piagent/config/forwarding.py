"""[[service]] mode: what goes with packets that are forwarded, and what only a proxy can do."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from piagent.config.proxying import refuse
from piagent.core.forwarding import Forwarding, Mode
from piagent.core.model import ServiceType
from piagent.core.packets import NAT_PORTS
from piagent.core.plan import is_loopback
from piagent.core.proxying import Balance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import File, Gateway, Service

OF_PROXIES: Final = (
    "trusted_proxies", "proxy_protocol", "source_addresses", "timeouts", "limits", "slow_start",
    "ejection", "access_log",
)  # fmt: skip
"""What needs a connection that ends here."""
PROXY_CURE: Final = 'leave it out, or write mode = "proxy"'


def check_forwarding(service: Service, path: KeyPath, report: Report) -> None:
    """Check what a service says of its packets; it is not external."""
    mode = service.mode
    if service.encapsulation is not None and mode in {Mode.PROXY, Mode.NAT}:
        what = f'is about packets that backends get as they are, and mode is "{mode}"'
        cure = 'write mode = "dsr", or leave it out'
        report.error((*path, "encapsulation"), what, cure)
    if mode not in {Mode.NAT, Mode.DSR} or not service.type:
        return
    if service.type is not ServiceType.LOAD_BALANCER:
        what = f'"{mode}" is about what comes to a VIP, and a {service.type} service has none'
        cure = 'write type = "load-balancer", or leave it out'
        report.error((*path, "mode"), what, cure)
        return
    what = f'needs a connection that ends here, and mode = "{mode}" only forwards packets'
    refuse(service, OF_PROXIES, path, what, report, cure=PROXY_CURE)
    if service.balance not in {"", Balance.MAGLEV}:
        what = f'mode = "{mode}" knows no connections: the hash of client and port chooses'
        report.error((*path, "balance"), what, PROXY_CURE)
    _check_ports(service, path, report)
    _check_loopback(service, path, report)
    _check_versions(service, path, report)


def check_shared(file: File, report: Report) -> None:
    """Check what `nat` services share their VIPs with.

    A backend of a `dsr` service has the VIP itself: what comes from there it takes for forged, and
    `nat` sends from there. And the VIP's upper ports are what `nat` connects from.
    """
    nat = [one for one in file.service if one.mode is Mode.NAT]
    for i, service in enumerate(file.service):
        with_it = [one for one in nat if one is not service and _share(one, service)]
        if with_it and service.mode is Mode.DSR:
            what = f'service "{with_it[0].name}" has the same VIP with mode = "nat"'
            report.error(("service", i, "mode"), what, "one mode for both, or a VIP for each")
        for j, port in enumerate(service.ports):
            places = [service] if service.mode is Mode.NAT else with_it
            _check_low(("service", i, "ports", j, "port"), port.port, places, report)
    for i, gateway in enumerate(file.gateway):
        with_it = [one for one in nat if _share(one, gateway)]
        for j, one in enumerate(gateway.listen):
            _check_low(("gateway", i, "listen", j), one.port, with_it, report)


def _share(one: Service, other: Service | Gateway) -> bool:
    """Tell whether both are known to have the same VIP."""
    by_key = one.sharing_key is not None and one.sharing_key == other.sharing_key
    return by_key or bool(set(filter(None, one.address)) & set(filter(None, other.address)))


def _check_low(path: KeyPath, port: int, nat: Sequence[Service], report: Report) -> None:
    first, last = NAT_PORTS
    if nat and first <= port <= last:
        what = f'service "{nat[0].name}" connects from port {port} (mode = "nat")'
        report.error(path, what, f"a port below {first}, or another VIP")


def _check_ports(service: Service, path: KeyPath, report: Report) -> None:
    how = Forwarding(service.mode, service.encapsulation)
    for i, port in enumerate(service.ports):
        if port.port and port.target_port and not how.keeps(port.port, port.target_port):
            what = f'with mode = "dsr" a packet keeps its port, which is {port.port}'
            cure = f'leave it out and have the backends serve port {port.port}, or mode = "nat"'
            report.error((*path, "ports", i, "target_port"), what, cure)


def _check_loopback(service: Service, path: KeyPath, report: Report) -> None:
    for address in service.address:
        if address and is_loopback(address):
            what = f"every host has {address} by itself: there are no packets to forward"
            report.error((*path, "address"), what, 'an address of the LAN, or mode = "proxy"')
    for i, backend in enumerate(service.backends):
        if backend.address and is_loopback(backend.address):
            what = f"every host has {backend.address} by itself: no packet gets there from another"
            cure = 'the address that its node has on the LAN, or mode = "proxy"'
            report.error((*path, "backends", i), what, cure)


def _check_versions(service: Service, path: KeyPath, report: Report) -> None:
    """Check that packets of a VIP's IP version get to each backend, and each VIP has one."""
    how = Forwarding(service.mode, service.encapsulation)
    backends = [(i, one.address) for i, one in enumerate(service.backends) if one.address]
    vips = [address for address in service.address if address]
    vips = vips or ["0.0.0.0" if "4" in one else "::" for one in service.ip_families if one]  # noqa: S104 -- stands for one
    if not all(service.address) or not vips:
        return  # not known here: what does not fit is left out when the address is
    for i, backend in backends:
        if not any(how.carries(vip, backend) for vip in vips):
            mine, others = ip_address(backend).version, ip_address(vips[0]).version
            what = f"{backend} is IPv{mine}, and the VIP is IPv{others}: {_why(service)}"
            cure = f'an IPv{others} address of the backend, or mode = "proxy"'
            report.error((*path, "backends", i), what, cure)
            return
    for vip in vips:
        if backends and not any(how.carries(vip, backend) for _, backend in backends):
            version = ip_address(vip).version
            what = f"no backend gets what comes to the IPv{version} one: {_why(service)}"
            cure = f'backends with IPv{version} addresses, or mode = "proxy"'
            report.error((*path, "address" if service.address else "ip_families"), what, cure)


def _why(service: Service) -> str:
    if service.mode is Mode.NAT:
        return "nat does not translate between IP versions"
    if service.encapsulation is not None:
        return "IPv6 packets are not put into IPv4 ones"
    return "the backend gets the packet as it is, so it needs an address of that version"
