"""[[service]] mode: what goes with packets that are forwarded, and what only a proxy can do."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from piagent.config.proxying import refuse
from piagent.core.forwarding import Forwarding, Mode
from piagent.core.model import ServiceType
from piagent.core.plan import is_loopback
from piagent.core.proxying import Balance

if TYPE_CHECKING:
    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import Service

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
