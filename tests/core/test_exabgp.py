"""What exabgp is told, word by word, and what its answers mean."""

from __future__ import annotations

import json

from msgspec.structs import replace

from piagent.core.bgp import BgpRoute
from piagent.core.exabgp import Changed, announcement, changed, configuration, withdrawal
from piagent.core.model import Bgp, BgpPeer

PEER = BgpPeer(name="router", address="192.0.2.1", asn=64500, hold_s=9)
BGP = Bgp(asn=64512, router_id="192.0.2.21", peers=(PEER,))
WHOLE = """\
process piagent {
    run "/usr/bin/python3" "-I" "/a folder/relay.py";
    encoder json;
    respawn false;
}

neighbor 192.0.2.1 {
    router-id 192.0.2.21;
    local-address auto;
    local-as 64512;
    peer-as 64500;
    connect 179;
    hold-time 9;
    outgoing-ttl 1;
    adj-rib-out true;
    family {
        ipv4 unicast;
        ipv6 unicast;
    }
    capability {
        graceful-restart disable;
        route-refresh enable;
    }
    api {
        processes [ piagent ];
        neighbor-changes;
    }
}
"""


def test_a_configuration_has_a_process_and_a_neighbor_for_each_router() -> None:
    relay = ["/usr/bin/python3", "-I", "/a folder/relay.py"]
    assert configuration(BGP, relay) == WHOLE
    two = configuration(replace(BGP, peers=(PEER, replace(PEER, address="192.0.2.2"))), relay)
    assert two.count("neighbor 192.0.2.") == 2


def test_what_a_router_asks_for_is_in_its_section() -> None:
    peer = replace(
        PEER,
        port=1790,
        hold_s=30,
        source_address="192.0.2.21",
        multihop=255,
        password='"; } run "/bin/sh',
    )
    text = configuration(replace(BGP, peers=(peer,)), ["relay"])
    for line in (
        "connect 1790;",
        "hold-time 30;",
        "local-address 192.0.2.21;",
        "outgoing-ttl 255;",
        'md5-password "IjsgfSBydW4gIi9iaW4vc2g=";',
        "md5-base64 true;",
    ):
        assert f"    {line}\n" in text
    assert "/bin/sh" not in text


def test_the_last_configuration_waits_for_nobody_in_particular_and_has_no_password() -> None:
    bgp = replace(BGP, peers=(replace(PEER, password="secret"),))
    text = configuration(bgp, ["relay"], last=True)
    assert "    passive true;\n" in text
    assert "md5" not in text
    assert "passive" not in configuration(bgp, ["relay"])


def test_a_session_within_an_as_has_the_kernels_ttl() -> None:
    inner = replace(BGP, peers=(replace(PEER, asn=64512),))
    assert "outgoing-ttl" not in configuration(inner, ["relay"])


def test_a_route_is_one_command_and_its_withdrawal_another() -> None:
    plain = announcement(BgpRoute(peer="router", vip="198.51.100.1"), PEER, "192.0.2.21")
    assert plain == "neighbor 192.0.2.1 announce route 198.51.100.1/32 next-hop 192.0.2.21"
    route = BgpRoute(
        peer="router",
        vip="fd09::1",
        next_hop="fd00::21",
        communities=("64512:1:2", "64512:100", "65535:65281"),
        local_pref=0,
    )
    rich = announcement(route, PEER, "192.0.2.21")
    assert rich == (
        "neighbor 192.0.2.1 announce route fd09::1/128 next-hop fd00::21"
        " community [ 64512:100 65535:65281 ] large-community [ 64512:1:2 ] local-preference 0"
    )
    assert withdrawal(plain) == plain.replace("announce", "withdraw")


def event(**neighbor: object) -> str:
    address = {"local": "192.0.2.21", "peer": "192.0.2.1"}
    return json.dumps({"type": "state", "neighbor": {"address": address, **neighbor}})


def test_events_of_sessions_are_told_from_other_lines() -> None:
    assert changed(event(state="up")) == Changed("192.0.2.1", True, "192.0.2.21", "up")
    gone = changed(event(state="down", reason="lost " * 100))
    assert gone is not None
    assert (gone.up, len(gone.reason)) == (False, 200)
    early = changed(event(state="connected", address={"local": "None", "peer": "FD00::1"}))
    assert early == Changed("fd00::1", False, None, "connected")
    for line in ("", "exabgp 5.0.15", "{", "[]", '{"neighbor": 1}', event(), "done"):
        assert changed(line) is None
