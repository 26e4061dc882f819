"""Which VIPs a node announces to which routers, and why the others not."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from piagent.core.bgp import Announcement, BgpRoute, announcements, routes, speaking
from piagent.core.eligibility import Standing
from piagent.core.model import (
    AddressRange,
    Announce,
    Backend,
    Bgp,
    BgpPeer,
    Broker,
    Config,
    Election,
    Gateway,
    Mqtt,
    Node,
    PathKind,
    Pool,
    Route,
    RouteBackend,
    Service,
    ServicePort,
    ServiceType,
    TrafficPolicy,
)
from tests.core.things import TIMING

VIP, VIP6 = "198.51.100.1", "fd09::1"
ROUTER = BgpPeer(name="router", address="192.0.2.1", asn=64500, hold_s=9)
ROUTER6 = BgpPeer(name="router6", address="fd00::1", asn=64500, hold_s=9)
INSIDE = BgpPeer(name="inside", address="192.0.2.2", asn=64512, hold_s=9)
BGP = Bgp(asn=64512, router_id="192.0.2.21", peers=(ROUTER,))
POOL = Pool(
    name="vips",
    addresses=(
        AddressRange(first="198.51.100.0", last="198.51.100.15"),
        AddressRange(first="fd09::", last="fd09::f"),
    ),
    announce=Announce.BGP,
)
HERE = Backend(address="192.0.2.31", node="pi-1")
THERE = Backend(address="192.0.2.32", node="pi-2")
WEB = Service(
    name="web",
    type=ServiceType.LOAD_BALANCER,
    ports=(ServicePort(name="http", port=80, target_port=8080),),
    backends=(HERE, THERE),
    vips=(VIP,),
)
LOCAL = replace(WEB, traffic_policy=TrafficPolicy.LOCAL)
INNER = replace(WEB, name="inner", type=ServiceType.CLUSTER, vips=())
GATEWAY = Gateway(name="front", ports=(80,), vips=(VIP,))
NODE = Node(name="pi-1", interface="eth0", labels={"rack": "a"})
WELL = Standing()


def config(*services: Service, **changes: Any) -> Config:
    base = Config(
        node=NODE,
        cluster="home",
        secrets=(b"",),
        mqtt=Mqtt(brokers=(Broker(label="b1", host="127.0.0.1", port=1883),)),
        election=Election(
            profile="normal",
            timing=TIMING,
        ),
        admin_socket="/run/piagent/admin.sock",
        pools=(POOL,),
        services=services or (WEB,),
        bgp=BGP,
    )
    return replace(base, **changes)


def down(*pairs: tuple[Service, Backend]) -> Standing:
    return Standing(down=frozenset((service.name, backend.id) for service, backend in pairs))


def leading(service: str | None = "inner") -> Route:
    return Route(
        name="all",
        gateway="front",
        hosts=(),
        path_kind=PathKind.PREFIX,
        path="/",
        backends=() if service is None else (RouteBackend(service=service),),
    )


WEIGHTLESS = replace(WEB, backends=(replace(HERE, weight=0),))
OWN_PORT = replace(HERE, port=9000)
OTHER = replace(WEB, name="other")


@pytest.mark.parametrize(
    ("config", "standing", "why"),
    [
        (config(), WELL, "announced"),
        (config(), down((WEB, HERE)), "announced"),
        (config(), down((WEB, THERE)), "announced"),
        (config(), down((WEB, HERE), (WEB, THERE)), "no-backend"),
        (config(replace(WEB, backends=())), WELL, "no-backend"),
        (config(WEIGHTLESS), WELL, "no-backend"),
        (config(replace(WEB, backends=(OWN_PORT,))), down((WEB, HERE)), "announced"),
        (config(replace(WEB, backends=(OWN_PORT,))), down((WEB, OWN_PORT)), "no-backend"),
        # One of two services on the VIP is enough, unless traffic must stay on the node.
        (config(WEB, OTHER), down((WEB, HERE), (WEB, THERE)), "announced"),
        (config(LOCAL), WELL, "announced"),
        (config(LOCAL), down((LOCAL, THERE)), "announced"),
        (config(LOCAL), down((LOCAL, HERE)), "no-local-backend"),
        (config(replace(LOCAL, backends=(THERE,))), WELL, "no-local-backend"),
        (config(LOCAL, OTHER), down((LOCAL, HERE)), "no-local-backend"),
        # A gateway is worth as much as what it leads to.
        (config(INNER, gateways=(GATEWAY,), routes=(leading(),)), WELL, "announced"),
        (config(INNER, gateways=(GATEWAY,)), WELL, "no-backend"),
        (config(INNER, gateways=(GATEWAY,), routes=(leading(None),)), WELL, "no-backend"),
        (
            config(INNER, gateways=(GATEWAY,), routes=(leading(),)),
            down((INNER, HERE), (INNER, THERE)),
            "no-backend",
        ),
        # The node.
        (config(node=replace(NODE, vip_weight=0)), WELL, "not-wanted"),
        (config(), Standing(draining=True), "drained"),
        (config(node=replace(NODE, wired_only=True)), Standing(wireless=True), "not-eligible"),
        (config(), Standing(wireless=True), "announced"),
        (config(pools=(replace(POOL, nodes={"rack": "a"}),)), WELL, "announced"),
        (config(pools=(replace(POOL, nodes={"rack": "b"}),)), WELL, "not-eligible"),
        (config(pools=(replace(POOL, interfaces=("eth0",)),)), WELL, "announced"),
        (config(pools=(replace(POOL, interfaces=("eth1",)),)), WELL, "not-eligible"),
        # Routers.
        (config(bgp=None), WELL, "no-peer"),
        (config(pools=(replace(POOL, peers=("router",)),)), WELL, "announced"),
        (config(pools=(replace(POOL, peers=("another",)),)), WELL, "no-peer"),
        (config(bgp=replace(BGP, peers=(replace(ROUTER, nodes={"rack": "b"}),))), WELL, "no-peer"),
        (config(bgp=replace(BGP, peers=(ROUTER6,))), WELL, "no-peer"),
    ],
)
def test_whether_a_vip_is_announced_and_why(config: Config, standing: Standing, why: str) -> None:
    assert announcements(config, standing) == {VIP: Announcement(why)}
    assert bool(routes(config, standing)) == (why == "announced")


def test_vips_of_other_pools_are_no_routes() -> None:
    on_the_lan = replace(POOL, announce=Announce.ARP)
    assert announcements(config(pools=(on_the_lan,)), WELL) == {}
    assert routes(config(pools=(on_the_lan,)), WELL) == frozenset()


def test_each_router_is_told_in_its_own_session() -> None:
    pool = replace(POOL, communities=("64512:100",), local_pref=200)
    both = replace(WEB, vips=(VIP, VIP6))
    bgp = replace(BGP, peers=(ROUTER, ROUTER6, INSIDE))
    first = BgpRoute(peer="router", vip=VIP, communities=("64512:100",))
    inside = replace(first, peer="inside", local_pref=200)
    assert routes(config(both, pools=(pool,), bgp=bgp), WELL) == {
        first,
        inside,
        replace(first, peer="router6", vip=VIP6),
    }

    hop = replace(bgp, next_hops=("fd00::21",))
    assert routes(config(both, pools=(pool,), bgp=hop), WELL) == {
        first,
        inside,
        replace(first, vip=VIP6, next_hop="fd00::21"),
        replace(inside, vip=VIP6, next_hop="fd00::21"),
        replace(first, peer="router6", vip=VIP6, next_hop="fd00::21"),
    }


def test_a_node_speaks_only_to_its_own_routers_and_only_about_something() -> None:
    elsewhere = replace(ROUTER6, nodes={"rack": "b"})
    bgp = replace(BGP, peers=(ROUTER, elsewhere))
    assert speaking(config(bgp=bgp)) == BGP
    assert speaking(config(bgp=replace(BGP, peers=(elsewhere,)))) is None
    assert speaking(config(bgp=None)) is None
    assert speaking(config(node=replace(NODE, vip_weight=0))) is None
    assert speaking(config(pools=(replace(POOL, announce=Announce.ARP),))) is None
