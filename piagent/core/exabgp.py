"""What exabgp 5 is told and what it says: its files, the commands of its API, its answers.

Nothing here is text from anybody's file but names, which are checked, addresses and numbers; a
password goes as base64. Its documentation: https://github.com/Exa-Networks/exabgp/wiki.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

import msgspec
from msgspec import Struct

from piagent.core.bgp import BgpRoute
from piagent.core.model import Bgp, BgpPeer

DONE: Final = "done"
ERROR: Final = "error"
VERSION: Final = "version"
WITHDRAW_ALL: Final = "clear adj-rib out"
RELOAD: Final = "reload"
PROCESS: Final = "piagent"
REASON_MAX: Final = 200

_LOOP_S: Final = 20
"""exabgp wakes up a hundred times in so many seconds. Its own 1 costs 2 % of a core for nothing:
commands and packets wake it up at once, only its timers may be 0.2 s late."""

SETTINGS: Final = f"""\
[exabgp.api]
cli = false
respawn = false
[exabgp.daemon]
user = root
[exabgp.log]
destination = stderr
level = WARNING
[exabgp.reactor]
speed = {_LOOP_S}
"""
"""Its environment file. `user`: whom to become when it is root, and that is nobody else, since it
has no capabilities then (adapters/exabgp.py)."""


class Changed(Struct, frozen=True):
    """A session has changed its state."""

    peer: str
    """The router's address."""
    up: bool
    local: str | None
    """This node's end; None when it is not known."""
    reason: str


def configuration(bgp: Bgp, relay: Sequence[str], *, last: bool = False) -> str:
    """Its configuration file. `relay`: the command whose standard streams are the API.

    `last`: the one to be read at the end. It only waits for routers to connect, which they cannot.
    So exabgp ends every session by NOTIFICATION Cease (RFC 4271 section 6.7) and begins no other.
    When it is told to tear a session down, it begins the next one within a millisecond, and our
    end would break that half-way: an error, after which routers may wait (BIRD: 60 s).
    """
    command = " ".join(f'"{word}"' for word in relay)
    process = _section(
        f"process {PROCESS}", [f"run {command}", "encoder json", "respawn false"], indent=""
    )
    return "\n".join([process, *(_neighbor(bgp, peer, last=last) for peer in bgp.peers)])


def announcement(route: BgpRoute, peer: BgpPeer, local: str) -> str:
    """The command that announces a route; `local`: this node's end of the session."""
    return f"neighbor {peer.address} announce {_route(route, local)}"


def withdrawal(announced: str) -> str:
    """The command that takes an announcement back."""
    return announced.replace(" announce ", " withdraw ", 1)


def changed(line: str) -> Changed | None:
    """What a line says of a session; None when it says something else."""
    try:
        event = msgspec.json.decode(line, type=_Event)
        peer = str(ip_address(event.neighbor.address.peer))
    except (msgspec.DecodeError, ValueError):
        return None
    state = event.neighbor.state
    return Changed(
        peer=peer,
        up=state == "up",
        local=_address(event.neighbor.address.local),
        reason=(event.neighbor.reason or state)[:REASON_MAX],
    )


class _Ends(Struct):
    peer: str
    local: str


class _Neighbor(Struct):
    address: _Ends
    state: str
    reason: str = ""


class _Event(Struct):
    neighbor: _Neighbor


def _neighbor(bgp: Bgp, peer: BgpPeer, *, last: bool) -> str:
    ttl = peer.multihop or (None if peer.asn == bgp.asn else 1)
    statements = [
        f"router-id {bgp.router_id}",
        f"local-address {peer.source_address or 'auto'}",
        f"local-as {bgp.asn}",
        f"peer-as {peer.asn}",
        f"connect {peer.port}",
        f"hold-time {peer.hold_s}",
        *([f"outgoing-ttl {ttl}"] if ttl is not None else []),
        *(["passive true"] if last else _password(peer.password)),
        "adj-rib-out true",  # what is sent again to a router that comes back, or asks (RFC 2918)
        _section("family", ["ipv4 unicast", "ipv6 unicast"]),
        # A restart is no excuse to send to a node that may be gone (RFC 4724).
        _section("capability", ["graceful-restart disable", "route-refresh enable"]),
        _section("api", [f"processes [ {PROCESS} ]", "neighbor-changes"]),
    ]
    return _section(f"neighbor {peer.address}", statements, indent="")


def _password(password: str | None) -> list[str]:
    if password is None:
        return []
    return [f'md5-password "{b64encode(password.encode()).decode()}"', "md5-base64 true"]


def _section(head: str, statements: Sequence[str], indent: str = "    ") -> str:
    inner = "".join(f"{indent}    {s}{'' if s.endswith('}') else ';'}\n" for s in statements)
    return f"{head} {{\n{inner}{indent}}}" + ("" if indent else "\n")


def _route(route: BgpRoute, local: str) -> str:
    bits = ip_address(route.vip).max_prefixlen
    words = [f"route {route.vip}/{bits} next-hop {route.next_hop or local}"]
    for name, parts in (("community", 2), ("large-community", 3)):
        chosen = [one for one in route.communities if one.count(":") == parts - 1]
        if chosen:
            words.append(f"{name} [ {' '.join(chosen)} ]")
    if route.local_pref is not None:
        words.append(f"local-preference {route.local_pref}")
    return " ".join(words)


def _address(text: str) -> str | None:
    try:
        return str(ip_address(text))
    except ValueError:
        return None
