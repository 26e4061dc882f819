"""What a node believes -> what it listens on and where that goes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from piagent.core.filters import Filters, ForwardAuth, Mirror
from piagent.core.model import (
    AddressRange,
    Announce,
    Backend,
    Broker,
    Config,
    Election,
    Gateway,
    HashOn,
    Mqtt,
    Node,
    PathKind,
    Pool,
    Protocol,
    Retries,
    Route,
    RouteBackend,
    Service,
    ServicePort,
    ServiceType,
    Sticky,
    TrafficPolicy,
    Wildcard,
    host_port,
)
from piagent.core.plan import (
    PlannedBackend,
    PlannedListener,
    PlannedRoute,
    PlannedService,
    is_loopback,
    places_of,
    plan,
    with_leaving,
)
from piagent.core.predicates import Predicate
from piagent.core.proxying import Proxying
from piagent.core.routing import Target
from tests.core.things import TIMING

VIP = "192.0.2.9"
WEB = Service(
    name="web",
    type=ServiceType.CLUSTER,
    ports=(
        ServicePort(name="http", port=80, target_port=8080),
        ServicePort(name="admin", port=81, target_port=8081),
    ),
    backends=(Backend(address="192.0.2.21"), Backend(address="fd00::21", weight=2)),
)
DNS = Service(
    name="dns",
    type=ServiceType.LOAD_BALANCER,
    vips=(VIP,),
    ports=(ServicePort(name="dns", port=53, target_port=53),),
    backends=(),
)


def route(name: str, path: str = "/", **changes: object) -> Route:
    base = Route(
        name=name,
        gateway="front",
        hosts=(),
        path_kind=PathKind.PREFIX,
        path=path,
        backends=(RouteBackend(service="web"),),
    )
    return replace(base, **changes)


def config(*routes: Route, vip: str = VIP, weight: int = 100) -> Config:
    return Config(
        node=Node(name="pi-1", interface="eth0", vip_weight=weight),
        cluster="home",
        secrets=(b"",),
        mqtt=Mqtt(brokers=(Broker(label="b1", host="127.0.0.1", port=1883),)),
        election=Election(profile="normal", timing=TIMING),
        admin_socket="/run/piagent/admin.sock",
        services=(WEB, replace(DNS, vips=(vip,))),
        gateways=(Gateway(name="front", vips=(vip,), ports=(80, 8000)),),
        routes=routes,
    )


NOTHING: frozenset[str] = frozenset()
ALL_UP: frozenset[tuple[str, str]] = frozenset()
LISTENERS = (
    PlannedListener(VIP, 53, "dns:53", http=False),
    PlannedListener(VIP, 80, "front", http=True),
    PlannedListener(VIP, 8000, "front", http=True),
)


def test_vips_are_listened_on_before_they_are_owned() -> None:
    assert plan(config(), NOTHING, ALL_UP).listeners == LISTENERS
    assert plan(config(), frozenset({VIP}), ALL_UP).listeners == LISTENERS


def test_a_loopback_vip_is_listened_on_only_while_it_is_owned() -> None:
    assert plan(config(vip="127.0.0.9"), NOTHING, ALL_UP).listeners == ()
    owned = plan(config(vip="127.0.0.9"), frozenset({"127.0.0.9"}), ALL_UP).listeners
    assert {listener.address for listener in owned} == {"127.0.0.9"}
    assert len(owned) == len(LISTENERS)


def test_a_vip_that_drains_is_listened_on_and_marked_and_no_other_is() -> None:
    other = Gateway(name="other", vips=("192.0.2.10",), ports=(80,))
    base = config()
    two = replace(base, gateways=(*base.gateways, other))
    made = plan(two, NOTHING, ALL_UP, frozenset({VIP})).listeners
    assert made == (
        *(replace(each, draining=True) for each in LISTENERS),
        PlannedListener("192.0.2.10", 80, "other", http=True, draining=False),
    )


def test_a_loopback_vip_that_drains_is_not_listened_on_once_it_is_another_nodes() -> None:
    vip = "127.0.0.9"
    draining = frozenset({vip})
    assert plan(config(vip=vip), NOTHING, ALL_UP, draining).listeners == ()
    owned = plan(config(vip=vip), frozenset({vip}), ALL_UP, draining).listeners
    assert all(listener.draining for listener in owned)


def test_a_node_that_never_owns_a_vip_listens_on_none() -> None:
    assert plan(config(weight=0), frozenset({VIP}), ALL_UP).listeners == ()


def test_each_port_of_each_service_is_a_balanced_set_of_backends() -> None:
    services = plan(config(), NOTHING, frozenset({("web", "fd00::21")})).services
    assert [service.name for service in services] == ["web:80", "web:81", "dns:53"]
    assert services[1] == PlannedService(
        "web:81",
        (
            PlannedBackend("192.0.2.21:8081", "192.0.2.21", 8081, 1, up=True),
            PlannedBackend("[fd00::21]:8081", "fd00::21", 8081, 2, up=False),
        ),
    )


def test_a_backend_is_down_only_for_the_service_whose_check_says_so() -> None:
    services = plan(config(), NOTHING, frozenset({("dns", "192.0.2.21")})).services
    assert all(backend.up for backend in services[0].backends)


def test_routes_are_laid_out_in_order_of_precedence() -> None:
    two = RouteBackend(service="web", port=81, weight=9), RouteBackend(service="gone")
    web = (Target("web:80"),)
    made = plan(
        config(
            route("all", hosts=("*.lan", "www.lan")),
            route("api", "/v1/", backends=two, request_timeout_ms=5, backend_timeout_ms=7),
            route("none", "/gone", path_kind=PathKind.EXACT, backends=()),
        ),
        NOTHING,
        ALL_UP,
    )
    (front,) = made.gateways
    assert (front.name, front.wildcard) == ("front", Wildcard.ONE_LABEL)
    assert front.routes == (
        PlannedRoute("all", "www.lan", "/", False, web, 0, 60_000),
        PlannedRoute("all", "*.lan", "/", False, web, 0, 60_000),
        PlannedRoute("none", "", "/gone", True, (), 0, 60_000),
        PlannedRoute("api", "", "/v1", False, (Target("web:81", 9), Target("")), 5, 7),
    )


def test_what_a_route_says_of_its_requests_is_laid_out() -> None:
    said = {
        "retries": Retries(attempts=2),
        "sticky": Sticky(cookie="sid"),
        "hash_on": HashOn(name="x-user"),
        "methods": ("GET",),
        "headers": (Predicate("x-canary", "yes"),),
        "query": (Predicate("v", "2"),),
        "filters": Filters(in_flight=3),
    }
    (front,) = plan(config(route("all", **said)), NOTHING, ALL_UP).gateways
    assert {name: getattr(front.routes[0], name) for name in said} == said


CLUSTER_IP, NODE_PORT = "10.96.0.9", 30053
EVERYWHERE = ("0.0.0.0", "::")
BOTH = (
    ServicePort(name="53", port=53, target_port=5353, node_port=NODE_PORT),
    ServicePort(
        name="53-udp", port=53, target_port=5300, protocol=Protocol.UDP, node_port=NODE_PORT
    ),
)
NAMES = Service(
    name="names",
    type=ServiceType.LOAD_BALANCER,
    vips=(VIP, "2001:db8::9"),
    cluster_ips=(CLUSTER_IP, "fd00:96::9"),
    ports=BOTH,
    backends=(
        Backend(address="192.0.2.21", node="pi-1"),
        Backend(address="192.0.2.22", node="pi-2"),
        Backend(address="192.0.2.23"),
    ),
)


def with_service(service: Service, weight: int = 100, **changes: object) -> Config:
    alone = config(weight=weight)
    return replace(alone, services=(service,), gateways=(), **changes)


def listened(made: Config, *owned: str) -> set[tuple[str, int, str, bool]]:
    """Return what is listened on: address, port, target, whether by UDP."""
    listeners = plan(made, frozenset(owned), ALL_UP).listeners
    assert not any(one.http or one.draining for one in listeners)
    found = [(one.address, one.port, one.target, one.udp) for one in listeners]
    assert len(found) == len(set(found))
    return set(found)


def on(addresses: tuple[str, ...], port: int, end: str = "") -> set[tuple[str, int, str, bool]]:
    """Say what NAMES listens on at addresses, by both protocols."""
    return {
        (address, port, f"names:53{protocol}{end}", bool(protocol))
        for address in addresses
        for protocol in ("", "/udp")
    }


def test_a_service_is_on_its_vips_its_cluster_addresses_and_its_node_ports_by_both_protocols() -> (
    None
):
    assert listened(with_service(NAMES)) == (
        on(NAMES.vips, 53) | on(NAMES.cluster_ips, 53) | on(EVERYWHERE, NODE_PORT)
    )


def test_a_node_that_never_owns_a_vip_has_cluster_addresses_and_node_ports() -> None:
    assert listened(with_service(NAMES, weight=0)) == (
        on(NAMES.cluster_ips, 53) | on(EVERYWHERE, NODE_PORT)
    )


def test_local_is_about_what_comes_from_outside_only() -> None:
    local = with_service(replace(NAMES, traffic_policy=TrafficPolicy.LOCAL))
    assert listened(local) == (
        on(NAMES.vips, 53, "@local")
        | on(NAMES.cluster_ips, 53)
        | on(EVERYWHERE, NODE_PORT, "@local")
    )


def test_local_targets_have_the_backends_of_this_node_and_the_others_all() -> None:
    local = with_service(replace(NAMES, traffic_policy=TrafficPolicy.LOCAL))
    down = frozenset({("names", "192.0.2.21")})
    services = {one.name: one for one in plan(local, NOTHING, down).services}
    assert {name: [b.name for b in one.backends] for name, one in services.items()} == {
        "names:53": ["192.0.2.21:5353", "192.0.2.22:5353", "192.0.2.23:5353"],
        "names:53@local": ["192.0.2.21:5353"],
        "names:53/udp": ["192.0.2.21:5300", "192.0.2.22:5300", "192.0.2.23:5300"],
        "names:53/udp@local": ["192.0.2.21:5300"],
    }
    assert not services["names:53@local"].backends[0].up


@pytest.mark.parametrize("policy", TrafficPolicy)
def test_whatever_is_listened_on_leads_somewhere(policy: TrafficPolicy) -> None:
    made = plan(with_service(replace(NAMES, traffic_policy=policy)), NOTHING, ALL_UP)
    names = [service.name for service in made.services]
    assert {one.target for one in made.listeners} <= set(names)
    assert len(names) == len(set(names))


def test_a_service_has_nothing_but_what_it_was_given() -> None:
    bare = replace(NAMES, vips=(), cluster_ips=(), ports=(replace(BOTH[0], node_port=None),))
    assert listened(with_service(bare)) == set()
    outside = Service(
        name="db", type=ServiceType.EXTERNAL, ports=(), backends=(), external_name="db.example"
    )
    made = plan(with_service(outside), NOTHING, ALL_UP)
    assert (made.listeners, made.services) == ((), ())


def test_a_loopback_cluster_address_is_every_nodes() -> None:
    made = with_service(replace(NAMES, vips=("127.0.0.9",), cluster_ips=("127.0.0.10",)))
    inside = on(("127.0.0.10",), 53) | on(EVERYWHERE, NODE_PORT)
    assert listened(made) == inside
    assert listened(made, "127.0.0.9") == inside | on(("127.0.0.9",), 53)


def test_only_the_vip_drains() -> None:
    made = plan(with_service(NAMES), NOTHING, ALL_UP, frozenset({VIP})).listeners
    assert {one.address for one in made if one.draining} == {VIP}


def test_a_vip_that_was_taken_away_is_served_to_the_end_and_nothing_else_is() -> None:
    before = plan(with_service(replace(NAMES, traffic_policy=TrafficPolicy.LOCAL)), NOTHING, ALL_UP)
    wanted = plan(with_service(replace(NAMES, vips=(), ports=())), NOTHING, ALL_UP)
    made = with_leaving(wanted, before, frozenset({VIP}))
    assert {(one.address, one.target, one.draining) for one in made.listeners} == {
        (VIP, "names:53@local", True),
        (VIP, "names:53/udp@local", True),
    }
    assert [one.name for one in made.services] == ["names:53@local", "names:53/udp@local"]


def test_who_is_asked_is_in_the_plan_by_its_ports_name() -> None:
    ask = ForwardAuth(service="web", port=81, path="/")
    routes = (
        route("a", filters=Filters(forward_auth=ask)),
        route("b", "/b", filters=Filters(forward_auth=replace(ask, port=None))),
        route("c", "/c", filters=Filters(forward_auth=replace(ask, service="gone"))),
        route("d", "/d", filters=Filters(forward_auth=replace(ask, port=99))),
    )
    (gateway,) = plan(config(*routes), NOTHING, ALL_UP).gateways
    asked = {one.name: one.filters.forward_auth for one in gateway.routes}
    names = {name: one.service for name, one in asked.items() if one is not None}
    assert names == {"a": "web:81", "b": "web:80", "c": "", "d": ""}


def test_who_gets_copies_is_in_the_plan_by_its_ports_name() -> None:
    to = Mirror(service="web", percent=3)
    one = route("a", filters=Filters(mirror=to))
    (gateway,) = plan(config(one), NOTHING, ALL_UP).gateways
    (entry,) = gateway.routes
    assert entry.filters.mirror == replace(to, service="web:80")
    assert entry.services == {"web:80"}


def test_who_is_asked_stays_as_long_as_a_vip_that_leaves() -> None:
    ask = ForwardAuth(service="names", path="/")
    before = plan(with_service(NAMES), NOTHING, ALL_UP)
    (gateway,) = plan(config(route("a")), NOTHING, ALL_UP).gateways
    (entry,) = gateway.routes
    asking = replace(entry, targets=(), filters=Filters(forward_auth=replace(ask, service="x")))
    front = replace(before.listeners[0], target=gateway.name, http=True)
    asked = replace(before.services[0], name="x")
    before = replace(before, listeners=(front,), services=(asked,),
                     gateways=(replace(gateway, routes=(asking,)),))  # fmt: skip
    left = with_leaving(replace(before, listeners=(), services=(), gateways=()), before,
                        frozenset({front.address}))  # fmt: skip
    assert [one.name for one in left.services] == ["x"]


def test_an_endpoint_brings_its_own_port_and_serves_one_port_if_it_says_so() -> None:
    endpoint = Backend(address="192.0.2.30", port=9999, only="53-udp")
    two = Backend(address="192.0.2.30", port=9998)
    assert (endpoint.id, two.id) == ("192.0.2.30:9999", "192.0.2.30:9998")
    made = with_service(replace(NAMES, backends=(NAMES.backends[0], endpoint, two)))
    down = frozenset({("names", "192.0.2.30:9998")})
    tcp, udp = plan(made, NOTHING, down).services
    assert [one.port for one in (*tcp.backends, *udp.backends)] == [5353, 9998, 5300, 9999, 9998]
    assert [(one.name, one.up) for one in tcp.backends] == [
        ("192.0.2.21:5353", True), ("192.0.2.30:9998", False),
    ]  # fmt: skip
    assert [(one.name, one.up) for one in udp.backends] == [
        ("192.0.2.21:5300", True), ("192.0.2.30:9999", True), ("192.0.2.30:9998", False),
    ]  # fmt: skip


def test_a_backend_is_found_in_a_plan_by_its_places() -> None:
    local = replace(WEB, traffic_policy=TrafficPolicy.LOCAL)
    on_nodes = tuple(replace(one, node="pi-1") for one in local.backends)
    local = replace(local, backends=(*on_nodes, Backend(address="192.0.2.30", port=9, only="http")))
    made = plan(with_service(local), NOTHING, ALL_UP).services
    for backend in local.backends:
        there = {(s.name, b.name) for s in made for b in s.backends if b.address == backend.address}
        assert there
        assert there <= places_of(local, backend)
        others = [places_of(local, one) for one in local.backends if one is not backend]
        assert not any(there & each for each in others)


def test_what_becomes_of_its_connections_is_of_every_port() -> None:
    sticky = Proxying(affinity_ms=1000, allowed=("192.0.2.0/24",))
    for how in (Proxying(), sticky):
        names = replace(NAMES, proxying=how, traffic_policy=TrafficPolicy.LOCAL)
        services = plan(with_service(names), NOTHING, ALL_UP).services
        assert [one.proxying for one in services] == [how] * 4


@pytest.mark.parametrize("ports", [BOTH, BOTH[::-1]])
@pytest.mark.parametrize("asked", [53, None])
def test_a_route_leads_to_the_tcp_port_of_a_number(
    ports: tuple[ServicePort, ...], asked: int | None
) -> None:
    base = config(route("all", backends=(RouteBackend(service="names", port=asked),)))
    made = plan(replace(base, services=(replace(NAMES, ports=ports),)), NOTHING, ALL_UP)
    assert made.gateways[0].routes[0].targets == (Target("names:53"),)


def test_a_gateway_of_two_ip_versions_listens_on_both() -> None:
    base = config()
    dual = replace(base, gateways=(replace(base.gateways[0], vips=(VIP, "2001:db8::9")),))
    addresses = {one.address for one in plan(dual, NOTHING, ALL_UP).listeners if one.http}
    assert addresses == {VIP, "2001:db8::9"}


def test_vips_that_bgp_leads_to_are_not_owned_but_listened_on() -> None:
    lan = Pool(name="lan", addresses=(AddressRange(first=VIP, last=VIP),))
    routed = Pool(
        name="far",
        addresses=(AddressRange(first="2001:db8::", last="2001:db8::ff"),),
        announce=Announce.BGP,
    )
    made = with_service(NAMES, pools=(lan, routed))
    assert (made.vips(), made.routed_vips()) == ((VIP,), ("2001:db8::9",))
    assert made.cluster_ips() == (CLUSTER_IP, "fd00:96::9")
    assert on(("2001:db8::9",), 53) <= listened(made)


def test_an_ipv6_address_is_bracketed_before_its_port() -> None:
    assert host_port("192.0.2.1", 80) == "192.0.2.1:80"
    assert host_port("fd00::1", 80) == "[fd00::1]:80"


def test_loopback_is_127_and_1() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.200.3.4", "::1")))
    assert not any(map(is_loopback, ("128.0.0.1", "12.7.0.1", "::2", "fd00::1")))
