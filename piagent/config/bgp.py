"""[bgp] and the pools that are announced by it: what they must be to each other, and the model."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from piagent.config.key_files import read_password, resolve
from piagent.config.problems import did_you_mean, elements, key_path, unique
from piagent.core import model

if TYPE_CHECKING:
    from pathlib import Path

    from piagent.config.host import Host
    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import Bgp, BgpPeer, File, Pool

PASSWORD_MAX: Final = 80
"""Bytes, TCP_MD5SIG_MAXKEYLEN of linux/tcp.h."""
OF_ROUTES: Final = ("communities", "local_pref", "peers")
"""Keys of a pool that are about its routes."""


def check_bgp(file: File, report: Report) -> None:
    """Check the routers, and the pools whose addresses they are to be told of."""
    routed = [i for i, pool in enumerate(file.pool) if pool.announce is model.Announce.BGP]
    for i, pool in enumerate(file.pool):
        if i not in routed:
            _check_unrouted(pool, ("pool", i), report)
    if file.bgp is None:
        for i in routed:
            what = '"bgp", and the file does not say to which routers'
            cure = "write [bgp] with asn = 64512 and a router: [[bgp.peers]]"
            report.error(("pool", i, "announce"), what, cure)
        return
    _check_peers(file.bgp, report)
    for i in routed:
        _check_routed(file.pool[i], file.bgp, ("pool", i), report)
    if not routed:
        what = "no pool is announced by BGP: there are no sessions"
        report.warn(("bgp",), what, 'write announce = "bgp" in a [[pool]]')
    labels = file.node.labels.items()
    if file.bgp.peers and not any(p.nodes.items() <= labels for p in file.bgp.peers):
        what = "none is for a node with this one's labels: it announces nothing"
        report.warn(("bgp", "peers"), what, "other labels in [node], or in a router's nodes")


def build_bgp(file: File, host: Host, folder: Path, report: Report) -> model.Bgp | None:
    """How the node speaks BGP, with the passwords from the files that are named."""
    bgp = file.bgp
    if bgp is None:
        return None
    interface = file.node.interface or host.interface
    router_id = host.ipv4.get(interface or "") if bgp.router_id is None else bgp.router_id
    if router_id is None:
        what = f"{interface or 'this host'} has no IPv4 address that could be it"
        report.error(("bgp", "router_id"), what, 'write router_id = "192.168.1.21"')
    peers = (_peer(bgp, i, folder, report) for i in range(len(bgp.peers)))
    return model.Bgp(
        asn=bgp.asn, router_id=router_id or "", peers=tuple(peers), next_hops=bgp.next_hop
    )


def _peer(bgp: Bgp, index: int, folder: Path, report: Report) -> model.BgpPeer:
    peer = bgp.peers[index]
    hold_ms = bgp.hold_time if peer.hold_time is None else peer.hold_time
    return model.BgpPeer(
        name=peer.name,
        address=peer.address,
        asn=peer.asn,
        hold_s=hold_ms // 1000,
        port=peer.port,
        password=_password(peer, ("bgp", "peers", index, "password_file"), folder, report),
        source_address=peer.source_address,
        multihop=peer.multihop,
        nodes=peer.nodes,
    )


def _password(peer: BgpPeer, path: KeyPath, folder: Path, report: Report) -> str | None:
    if not peer.password_file:
        return None
    password = read_password(peer.password_file, folder, path, report)
    if password is not None and len(password.encode()) > PASSWORD_MAX:
        what = f"{resolve(peer.password_file, folder)} has more than {PASSWORD_MAX} bytes"
        report.error(path, what, "TCP-MD5 takes no longer ones")
    return password


def _check_peers(bgp: Bgp, report: Report) -> None:
    peers = [(("bgp", "peers", i), peer) for i, peer in enumerate(bgp.peers)]
    unique(report, (((*path, "name"), peer.name) for path, peer in peers))
    unique(report, (((*path, "address"), peer.address) for path, peer in peers))
    seen: dict[int, KeyPath] = {}
    for path, hop in elements(("bgp", "next_hop"), bgp.next_hop):
        if hop and (other := seen.setdefault(_version(str(hop)), path)) != path:
            what = f"{key_path(other)} is one of that IP version already"
            report.error(path, what, "one IPv4 and one IPv6 address at most")
    holds = [(("bgp",), bgp.hold_time), *((path, peer.hold_time) for path, peer in peers)]
    for path, hold_ms in holds:
        if hold_ms == 0:
            what = "no keepalives: what a host announced that lost its power never goes away"
            report.warn((*path, "hold_time"), what, 'write "9s", or let the routers use BFD')
    for path, peer in peers:
        source = peer.source_address
        if peer.address and source and _version(source) != _version(peer.address):
            what = f"{source} is not of the IP version of {peer.address}"
            report.error((*path, "source_address"), what, "an address that can reach the router")


def _check_unrouted(pool: Pool, path: KeyPath, report: Report) -> None:
    for key in OF_ROUTES:
        if getattr(pool, key) not in {None, ()}:
            what = f'the pool is announced by "{pool.announce}", not to routers'
            report.error((*path, key), what, 'write announce = "bgp", or leave it out')


def _check_routed(pool: Pool, bgp: Bgp, path: KeyPath, report: Report) -> None:
    unique(report, elements((*path, "communities"), pool.communities), "once is enough")
    unique(report, elements((*path, "peers"), pool.peers), "once is enough")
    names = [peer.name for peer in bgp.peers]
    for i, name in enumerate(pool.peers):
        if name and name not in names and all(names):
            what = f'there is no router "{name}"'
            report.error((*path, "peers", i), what, did_you_mean(name, names))
    peers = [p for p in bgp.peers if p.address and (not pool.peers or p.name in pool.peers)]
    if pool.local_pref is not None and peers and all(p.asn != bgp.asn for p in peers):
        what = f"its routers are of other AS than {bgp.asn}: they are not told (RFC 4271 5.1.5)"
        report.warn((*path, "local_pref"), what, "a community, which the router takes for one")
    for version in sorted(_versions(pool)):
        hop = any(hop and _version(hop) == version for hop in bgp.next_hop)
        if peers and not hop and all(_version(p.address) != version for p in peers):
            what = f"IPv{version} addresses, and every session with its routers is over the other"
            example = "192.168.1.21" if version == 4 else "fd00::21"
            cure = f'write next_hop = "{example}" in [bgp]: this node\'s own IPv{version} address'
            report.error((*path, "addresses"), what, cure)


def _versions(pool: Pool) -> set[int]:
    return {_version(span.first) for span in pool.addresses if span is not None}


def _version(address: str) -> int:
    return ip_address(address).version
