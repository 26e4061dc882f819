"""Where packets in an outer IP header are unpacked: a device for each IP version of that header.

The devices are our own (`piagent4`, `piagent6`), so nothing of the host's is changed. They unpack
what comes from anywhere, as who forwards may be any node; so nothing gets out of them but packets
to VIPs that this host has as a backend: they are no way around a firewall to anything else.
"""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import Collection
from typing import Final

from piagent.adapters import netlink_messages, nftables
from piagent.adapters.fence_table import FAMILIES
from piagent.adapters.interface_settings import RP_FILTER, set_ipv4
from piagent.adapters.netlink_messages import RTM_GETLINK, read_link
from piagent.adapters.nftables import (
    DROP,
    META_PROTOCOL,
    NETWORK,
    Batch,
    Nftables,
    attribute,
    counted,
    equals,
    load,
    meta,
    nested,
    not_within,
    text,
    verdict,
)
from piagent.adapters.rtnetlink import (
    IFF_UP,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    RTM_NEWLINK,
    Rtnetlink,
)

DEVICES: Final = {4: "piagent4", 6: "piagent6"}
"""By the IP version of the outer header."""
OWNER: Final = "piagent: packets to VIPs for this backend"
"""The alias of our devices, by which a later life knows them."""

_KINDS = {4: ("ipip", "ipip", "NET_IPIP"), 6: ("ip6tnl", "ip6_tunnel", "IPV6_TUNNEL")}
"""Kind, module and kernel option."""
_RTM_DELLINK = 17
_HEADER = struct.Struct("=IHHII")
_IFINFOMSG = struct.Struct("=BxHiII")
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_IFALIAS = 3, 18, 20
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_IFLA_IPTUN_PROTO, _IFLA_IPTUN_COLLECT_METADATA = 9, 19
_PRIORITY = -300
_LOOSE = 2
"""rp_filter: who can be reached by any interface may be the source (RFC 3704 section 2.4)."""

_log = logging.getLogger(__name__)


class Tunnels:
    """The devices and their filters, in the calling thread's namespace."""

    def __init__(self) -> None:
        self._passed: dict[int, set[bytes]] = {}
        """By the device's version: the VIPs that its filter lets through."""

    def open(self, version: int, vips: Collection[bytes]) -> None:
        """Have the device, with exactly these packed VIPs let through; OSError.

        The filter is there before the first packet can come.
        """
        name, wanted = DEVICES[version], set(vips)
        if self._passed.get(version) == wanted and _ours(name):
            return
        if not _ours(name):
            _add(version)
        with Nftables() as kernel:
            kernel.commit(passing(name, name, wanted))
        set_ipv4(name, {RP_FILTER: _LOOSE})
        _up(name)
        self._passed[version] = wanted

    def close(self, version: int) -> None:
        """Have it no more, whoever of us made it; raises nothing."""
        self._passed.pop(version, None)
        name = DEVICES[version]
        try:
            if not _ours(name):
                return
            _delete(name)
            with Nftables() as kernel:
                kernel.commit(removed(name))
        except OSError as error:
            _log.warning("%s stays: %s", name, error.strerror or error)


def passing(table: str, device: str, vips: Collection[bytes]) -> Batch:
    """Have a table by which nothing comes in by the device but packets to these, packed."""
    batch = Batch(table)
    batch.remove_table()
    batch.new_table()
    batch.new_base_chain("ingress", nftables.INGRESS, device, _PRIORITY)
    for family in FAMILIES:
        name = f"vips{family.version}"
        batch.new_set(name, (family.kind, family.size))
        batch.add(name, sorted(vip for vip in vips if len(vip) == family.size))
        destination = load(NETWORK, family.destination, family.size)
        is_its = meta(META_PROTOCOL) + equals(family.ethertype)
        batch.rule("ingress", is_its, destination + not_within(name), counted() + verdict(DROP))
    return batch


def removed(table: str) -> Batch:
    """Have no such table."""
    batch = Batch(table)
    batch.remove_table()
    return batch


def why(version: int, error: OSError) -> str:
    """What is missing for a device, and the cure."""
    kind, module, option = _KINDS[version]
    if error.errno in {errno.EPERM, errno.EACCES}:
        return f"{DEVICES[version]}: not allowed: run piagent as root or with CAP_NET_ADMIN"
    if error.errno == errno.EOPNOTSUPP:
        return f"this kernel has no {kind} tunnels: sudo modprobe {module} ({option})"
    if error.errno == errno.EEXIST:
        return (
            f"there is a {DEVICES[version]}, or an {kind} device for all addresses ('external'),"
            " that piagent did not make: remove it (ip link del), or use another mode"
        )
    return f"{DEVICES[version]}: {error.strerror or error}"


def request(version: int) -> bytes:
    """The message of rtnetlink(7) that makes a device, without its header.

    It takes packets from and to any address (`external`), besides devices for certain ones that
    the host may have.
    """
    kind, _, _ = _KINDS[version]
    data = attribute(_IFLA_IPTUN_COLLECT_METADATA, b"")
    data += attribute(_IFLA_IPTUN_PROTO, b"\0") if version == 6 else b""
    info = text(_IFLA_INFO_KIND, kind) + nested(_IFLA_INFO_DATA, data)
    return (
        _IFINFOMSG.pack(0, 0, 0, 0, 0)
        + text(_IFLA_IFNAME, DEVICES[version])
        + text(_IFLA_IFALIAS, OWNER)
        + nested(_IFLA_LINKINFO, info)
    )


def _ours(name: str) -> bool:
    with netlink_messages.open_socket() as channel:
        links = map(read_link, netlink_messages.dump(channel, RTM_GETLINK))
        return any(link and (link.name, link.alias) == (name, OWNER) for link in links)


def _add(version: int) -> None:
    _change(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, request(version))


def _up(name: str) -> None:
    with Rtnetlink() as kernel:
        index = kernel.link(name).index
    _change(RTM_NEWLINK, 0, _IFINFOMSG.pack(0, 0, index, IFF_UP, IFF_UP))


def _delete(name: str) -> None:
    with Rtnetlink() as kernel:
        index = kernel.link(name).index
    _change(_RTM_DELLINK, 0, _IFINFOMSG.pack(0, 0, index, 0, 0))


def _change(kind: int, flags: int, body: bytes) -> None:
    its = NLM_F_REQUEST | NLM_F_ACK | flags
    with Rtnetlink() as kernel:
        kernel.repeat(bytearray(_HEADER.pack(_HEADER.size + len(body), kind, its, 0, 0) + body))
