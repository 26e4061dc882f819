"""Is this host ready as a backend of `dsr` services? What `piagent doctor` says of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from piagent.adapters import interface_settings, netlink_messages
from piagent.adapters.interface_settings import SETTINGS
from piagent.adapters.netlink_messages import (
    RTM_GETADDR,
    RTM_GETLINK,
    AddressMessage,
    read_address,
    read_link,
)
from piagent.adapters.tunnels import DEVICES, OWNER
from piagent.core.dsr import Accepted, accepted
from piagent.core.finding import Finding, error, good, warning
from piagent.core.model import Config

CHECK: Final = "dsr"
_LOOPBACK_INDEX = 1
_ARP_WHY: Final = {
    "arp_ignore": "this host answers ARP for VIPs that another one owns, and gets their traffic",
    "arp_announce": "this host asks for neighbours in a VIP's name, and they believe it has it",
}
_AGENT_CURE: Final = (
    "start the agent (systemctl start piagent), which sees to it; if it runs,"
    " `piagent status` says why not"
)


def dsr(config: Config) -> list[Finding]:
    """Nothing for a host that is no backend of such a service by the file."""
    try:
        with netlink_messages.open_socket() as channel:
            read = [read_address(body) for body in netlink_messages.dump(channel, RTM_GETADDR)]
            links = [read_link(body) for body in netlink_messages.dump(channel, RTM_GETLINK)]
    except OSError as failure:
        what = f"not checked: the kernel does not say its addresses: {failure}"
        why = "VIPs of dsr services may be missing on a backend"
        return [warning(CHECK, what, why=why, cure="sudo piagent doctor")]
    found = [one for one in read if one is not None]
    needed = accepted(config, {one.address for one in found})
    if not needed:
        return []
    devices = {link.name for link in links if link is not None and link.alias == OWNER}
    findings = [*_addresses(needed, found), *_settings(needed), *_tunnels(needed, devices)]
    vips = ", ".join(sorted({one.vip for one in needed}))
    return findings or [good(CHECK, f"a backend, ready for {vips}")]


def _addresses(
    needed: Collection[Accepted], found: Collection[AddressMessage]
) -> Iterator[Finding]:
    here = {one.address for one in found if one.index == _LOOPBACK_INDEX}
    for vip in sorted({one.vip for one in needed} - here):
        what = f"{vip} is not on lo, and this host is a backend of it"
        why = "packets that are forwarded here are dropped: it is nobody's address"
        yield error(CHECK, what, why=why, cure=_AGENT_CURE)


def _settings(needed: Collection[Accepted]) -> Iterator[Finding]:
    if all(":" in one.vip for one in needed):
        return
    wanted = {setting.name: setting.value for setting in SETTINGS}
    for interface, name, value in interface_settings.unfit():
        what = f"{name} of {interface} is {value}, and has to be {wanted[name]}"
        cure = f"sudo sysctl -w net.ipv4.conf.{interface}.{name}={wanted[name]}; or {_AGENT_CURE}"
        yield error(CHECK, what, why=_ARP_WHY[name], cure=cure)


def _tunnels(needed: Collection[Accepted], devices: Collection[str]) -> Iterator[Finding]:
    for version in sorted({one.tunnel for one in needed} & DEVICES.keys()):
        if DEVICES[version] not in devices:
            what = f"there is no {DEVICES[version]}, where packets in IPv{version} are unpacked"
            why = "packets that are forwarded here in an outer header are dropped"
            module = "ipip" if version == 4 else "ip6_tunnel"
            yield error(CHECK, what, why=why, cure=f"sudo modprobe {module}; then {_AGENT_CURE}")
