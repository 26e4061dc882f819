"""What a node believes -> what it listens on and where that goes."""

from __future__ import annotations

from msgspec.structs import replace

from piagent.core.model import (
    Backend,
    Broker,
    Config,
    Election,
    Gateway,
    Mqtt,
    Node,
    PathKind,
    Route,
    Service,
    ServicePort,
    ServiceType,
    Timing,
    Wildcard,
    host_port,
)
from piagent.core.plan import (
    PlannedBackend,
    PlannedListener,
    PlannedRoute,
    PlannedService,
    is_loopback,
    plan,
)

VIP = "192.0.2.9"
TIMING = Timing(
    lease_ms=1500,
    renew_ms=300,
    wait_ms=1550,
    guard_ms=100,
    attempt_ms=250,
    stagger_ms=40,
    lag_ms=500,
)
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
        name=name, gateway="front", hosts=(), path_kind=PathKind.PREFIX, path=path, service="web"
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
    made = plan(
        config(
            route("all", hosts=("*.lan", "www.lan")),
            route("api", "/v1/", service_port=81, request_timeout_ms=5, backend_timeout_ms=7),
            route("none", "/gone", path_kind=PathKind.EXACT, service=None),
        ),
        NOTHING,
        ALL_UP,
    )
    (front,) = made.gateways
    assert (front.name, front.wildcard) == ("front", Wildcard.ONE_LABEL)
    assert front.routes == (
        PlannedRoute("all", "www.lan", "/", False, "web:80", 0, 60_000),
        PlannedRoute("all", "*.lan", "/", False, "web:80", 0, 60_000),
        PlannedRoute("none", "", "/gone", True, "", 0, 60_000),
        PlannedRoute("api", "", "/v1", False, "web:81", 5, 7),
    )


def test_an_ipv6_address_is_bracketed_before_its_port() -> None:
    assert host_port("192.0.2.1", 80) == "192.0.2.1:80"
    assert host_port("fd00::1", 80) == "[fd00::1]:80"


def test_loopback_is_127_and_1() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.200.3.4", "::1")))
    assert not any(map(is_loopback, ("128.0.0.1", "12.7.0.1", "::2", "fd00::1")))
