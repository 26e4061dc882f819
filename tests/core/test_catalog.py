"""A node's file, what was applied, assigned and registered -> what is, and what is not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from piagent.core.allocation_types import AllocationReason
from piagent.core.assignments import Assignment, Assignments, Refused
from piagent.core.catalog import CatalogReason, Merged, Note, Thing, merge
from piagent.core.filters import Filters, ForwardAuth
from piagent.core.model import (
    AddressRange,
    Announce,
    Backend,
    Config,
    Pool,
    Protocol,
    RouteBackend,
    Service,
    ServicePort,
    ServiceType,
)
from tests.core.things import INSIDE, LAN, config, gateway, route, service

UDP = ServicePort(name="u", port=80, target_port=80, protocol=Protocol.UDP)


def merged(
    file: Config,
    given: dict[str, Assignment] | None = None,
    applied: dict[str, Thing | Note] | None = None,
    endpoints: dict[str, list[Backend]] | None = None,
) -> Merged:
    said = Assignments(node="pi-1", epoch=1, number=1, given=given or {})
    return merge(file, said, applied or {}, endpoints or {})


def named(made: Merged, name: str) -> Service:
    return next(one for one in made.config.services if one.name == name)


def reasons(made: Merged) -> list[tuple[str, str]]:
    return [(note.key, note.reason) for note in made.notes]


def test_a_file_is_served_as_it_is_before_anybody_leads() -> None:
    file = config(
        service("web", vips=("10.0.0.1",), node_ports=False),
        gateways=(gateway("front", vips=("10.0.0.2",)),),
        routes=(route("r", "front", "web"),),
    )
    assert merge(file, None, {}, {}) == Merged(file, ())


def test_what_is_assigned_is_put_in_its_place() -> None:
    given = {
        "service/web": Assignment(
            vips=("10.0.0.1",), cluster_ips=("10.96.0.1",), node_ports={"http": 30000}
        ),
        "gateway/front": Assignment(vips=("10.0.0.2",)),
    }
    made = merged(config(service("web"), gateways=(gateway("front"),)), given)
    web = named(made, "web")
    assert (web.vips, web.cluster_ips, web.ports[0].node_port) == (
        ("10.0.0.1",),
        ("10.96.0.1",),
        30000,
    )
    assert made.config.gateways[0].vips == ("10.0.0.2",)
    assert made.notes == ()


def test_what_is_not_assigned_yet_is_said() -> None:
    made = merge(config(service("web"), gateways=(gateway("front"),)), None, {}, {})
    assert reasons(made) == [
        ("service/web", CatalogReason.NOT_ASSIGNED_YET),
        ("gateway/front", CatalogReason.NOT_ASSIGNED_YET),
    ]
    assert [one.name for one in made.config.services] == ["web"], "its name and routes go on"


def test_an_address_in_the_file_counts_before_the_leader_has_followed() -> None:
    given = {"service/web": Assignment(vips=("10.0.0.1",), node_ports={"http": 30000})}
    made = merged(config(service("web", vips=("10.0.0.3",))), given)
    assert named(made, "web").vips == ("10.0.0.3",)


def test_the_second_address_of_two_is_added_to_the_one_in_the_file() -> None:
    pool = replace(LAN, addresses=(*LAN.addresses, AddressRange(first="fd00::1", last="fd00::3")))
    given = {"service/web": Assignment(vips=("10.0.0.1", "fd00::1"), node_ports={"http": 30000})}
    made = merged(config(service("web", vips=("10.0.0.1",)), pools=(pool,)), given)
    assert named(made, "web").vips == ("10.0.0.1", "fd00::1")


def test_an_applied_service_has_nothing_but_what_it_was_given() -> None:
    refused = Refused("vip", AllocationReason.IN_USE, "service/other has it")
    given = {"service/web": Assignment(refused=(refused,))}
    made = merged(config(), given, {"service/web": service("web", vips=("10.0.0.1",))})
    assert named(made, "web").vips == ()
    assert made.notes == (Note("service/web", "in-use", "vip: service/other has it"),)


def test_a_name_in_the_file_counts_here() -> None:
    made = merged(
        config(service("web", vips=("10.0.0.1",), node_ports=False)),
        applied={"service/web": service("web", vips=("10.0.0.2",))},
    )
    assert named(made, "web").vips == ("10.0.0.1",)
    assert reasons(made) == [("service/web", CatalogReason.NAME_TAKEN)]


def test_what_is_not_here_is_said_and_the_rest_is_served() -> None:
    note = Note("service/new", CatalogReason.UNREADABLE, "unknown key")
    inside = service("in", ServiceType.CLUSTER)
    made = merged(config(), applied={"service/new": note, "service/in": inside})
    assert made.notes == (note,)
    assert [one.name for one in made.config.services] == ["in"]


@pytest.mark.parametrize("pools", [(), (INSIDE,)])
def test_a_vip_of_a_pool_that_is_not_in_the_file_is_never_owned_here(
    pools: tuple[Pool, ...],
) -> None:
    given = {
        "service/web": Assignment(
            vips=("10.0.0.1",), cluster_ips=("10.96.0.1",), node_ports={"http": 30000}
        )
    }
    made = merged(config(pools=pools), given, {"service/web": service("web")})
    assert made.config.vips() == ()
    assert named(made, "web").cluster_ips == ("10.96.0.1",)
    assert reasons(made) == [("service/web", CatalogReason.NO_SUCH_POOL_HERE)]


def test_two_never_listen_at_one_place() -> None:
    both = {"vips": ("10.0.0.1",), "node_ports": False}
    made = merged(
        config(service("a", **both), gateways=(gateway("g", vips=("10.0.0.1",), ports=(80,)),)),
        {"service/b": Assignment(vips=("10.0.0.1",)), "service/c": Assignment(vips=("10.0.0.1",))},
        {
            "service/b": service("b", node_ports=False),
            "service/c": service(
                "c",
                node_ports=False,
                ports=(
                    UDP,
                    ServicePort(name="t", port=81, target_port=80),
                ),
            ),
        },
    )
    assert [one.name for one in made.config.services] == ["a", "c"]
    assert made.config.gateways == ()
    assert reasons(made) == [
        ("service/b", CatalogReason.PORT_TAKEN),
        ("gateway/g", CatalogReason.PORT_TAKEN),
    ]


def test_two_never_have_one_node_port() -> None:
    def with_port(name: str) -> Service:
        port = ServicePort(name="http", port=80, target_port=80, node_port=30080)
        return service(name, ServiceType.NODE_PORT, ports=(port,))

    made = merged(config(with_port("a"), with_port("b")))
    assert [one.name for one in made.config.services] == ["a"]
    assert made.notes[0].detail == "service/a has port 30080/tcp of every node here"


def test_there_are_at_most_a_hundred_vips() -> None:
    pool = replace(LAN, addresses=(AddressRange(first="10.0.0.1", last="10.0.0.250"),))
    services = [service(f"s{i:03}", vips=(f"10.0.0.{i}",), node_ports=False) for i in range(1, 104)]
    made = merged(config(*services, pools=(pool,)))
    assert len(made.config.vips()) == 100
    assert {reason for _, reason in reasons(made)} == {CatalogReason.TOO_MANY_VIPS}


def test_endpoints_join_the_backends_each_once() -> None:
    here = Backend(address="192.0.2.7", port=8081, node="pi-2")
    again = Backend(address="192.0.2.1")
    file = config(service("in", ServiceType.CLUSTER))
    made = merged(file, endpoints={"in": [here, again], "unknown": [here]})
    assert [one.id for one in named(made, "in").backends] == ["192.0.2.1", "192.0.2.7:8081"]


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (route("r", "nowhere", "web"), 'there is no gateway "nowhere"'),
        (route("r", "front", "nothing"), 'there is no service "nothing"'),
        (route("r", "front", "web", 81), 'service "web" has no TCP port 81'),
        (route("r", "front", "udp"), 'service "udp" has no TCP port'),
        (route("r", "front", "out"), 'service "out" has no TCP port'),
    ],
)
def test_an_applied_route_that_leads_nowhere_is_left_out(wanted: Thing, why: str) -> None:
    file = config(
        service("web", ServiceType.CLUSTER),
        service("udp", ServiceType.CLUSTER, ports=(UDP,)),
        service("out", ServiceType.EXTERNAL, ports=(), external_name="x.lan"),
        gateways=(gateway("front", vips=("10.0.0.1",)),),
    )
    made = merged(file, applied={"route/r": wanted})
    assert made.config.routes == ()
    assert made.notes == (Note("route/r", CatalogReason.LEADS_NOWHERE, why),)


def test_a_default_backend_that_leads_nowhere_is_left_out() -> None:
    wanted = gateway(
        "front", vips=("10.0.0.1",), default_backend=RouteBackend(service="web", port=81)
    )
    made = merged(config(service("web", ServiceType.CLUSTER), gateways=(wanted,)))
    assert [one.default_backend for one in made.config.gateways] == [None]
    why = 'service "web" has no TCP port 81'
    assert made.notes == (Note("gateway/front", CatalogReason.LEADS_NOWHERE, why),)
    right = replace(wanted, default_backend=RouteBackend(service="web"))
    made = merged(config(service("web", ServiceType.CLUSTER), gateways=(right,)))
    assert (made.config.gateways, made.notes) == ((right,), ())


def test_a_route_that_leads_somewhere_keeps_the_share_that_does_not() -> None:
    backends = RouteBackend(service="web", weight=9), RouteBackend(service="nothing")
    wanted = replace(route("r", "front", None), backends=backends)
    file = config(
        service("web", ServiceType.CLUSTER), gateways=(gateway("front", vips=("10.0.0.1",)),)
    )
    made = merged(file, applied={"route/r": wanted})
    assert made.config.routes == (wanted,)
    why = 'there is no service "nothing"'
    assert made.notes == (Note("route/r", CatalogReason.LEADS_NOWHERE, why),)


def test_a_route_whose_service_to_ask_is_not_there_stays_and_says_so() -> None:
    ask = ForwardAuth(service="auth", path="/")
    wanted = replace(route("r", "front", "web"), filters=Filters(forward_auth=ask))
    file = config(
        service("web", ServiceType.CLUSTER), gateways=(gateway("front", vips=("10.0.0.1",)),)
    )
    made = merged(file, applied={"route/r": wanted})
    assert made.config.routes == (wanted,)  # and answers 500
    why = 'there is no service "auth"'
    assert made.notes == (Note("route/r", CatalogReason.LEADS_NOWHERE, why),)


def test_an_applied_route_may_lead_to_applied_things() -> None:
    made = merged(
        config(),
        {"gateway/front": Assignment(vips=("10.0.0.1",))},
        {
            "gateway/front": gateway("front"),
            "service/web": service("web", ServiceType.CLUSTER),
            "route/r": route("r", "front", "web", 80),
            "route/none": route("none", "front", None),
        },
    )
    assert [one.name for one in made.config.routes] == ["none", "r"]
    assert made.notes == ()


@pytest.mark.parametrize(
    ("now", "vips", "inside", "port"),
    [
        (ServiceType.LOAD_BALANCER, ("10.0.0.1",), ("10.96.0.1",), 30000),
        (ServiceType.NODE_PORT, (), ("10.96.0.1",), 30000),
        (ServiceType.CLUSTER, (), ("10.96.0.1",), None),
    ],
)
def test_a_service_of_another_type_has_what_that_type_has_before_the_leader_has_followed(
    now: ServiceType, vips: tuple[str, ...], inside: tuple[str, ...], port: int | None
) -> None:
    had = Assignment(vips=("10.0.0.1",), cluster_ips=("10.96.0.1",), node_ports={"http": 30000})
    web = named(merged(config(service("web", now)), {"service/web": had}), "web")
    assert (web.vips, web.cluster_ips, web.ports[0].node_port) == (vips, inside, port)


def test_who_became_external_or_headless_has_no_address() -> None:
    had = {"service/web": Assignment(vips=("10.0.0.1",), cluster_ips=("10.96.0.1",))}
    for web in (
        service("web", ServiceType.EXTERNAL, ports=(), backends=()),
        service("web", ServiceType.CLUSTER, headless=True),
    ):
        made = named(merged(config(web), had), "web")
        assert (made.vips, made.cluster_ips) == ((), ())


def test_a_node_port_that_an_applied_service_asks_for_is_not_its_own_yet() -> None:
    ports = (ServicePort(name="http", port=80, target_port=8080, node_port=30005),)
    web = service("web", ServiceType.NODE_PORT, ports=ports)
    assert named(merged(config(), applied={"service/web": web}), "web").ports[0].node_port is None
    assert named(merged(config(web)), "web").ports[0].node_port == 30005


def test_a_gateway_that_is_refused_is_told_once() -> None:
    refused = (Refused("vip", AllocationReason.EXHAUSTED, "all are in use"),)
    made = merged(
        config(gateways=(gateway("front"),)), {"gateway/front": Assignment(refused=refused)}
    )
    assert reasons(made) == [("gateway/front", AllocationReason.EXHAUSTED)]


def test_a_loopback_vip_needs_no_pool_and_a_vip_no_cluster_pool() -> None:
    given = {
        "service/a": Assignment(vips=("127.0.0.1",)),
        "service/b": Assignment(vips=("10.96.0.5",)),
    }
    quiet = {f"service/{name}": service(name, node_ports=False) for name in "ab"}
    made = merged(config(), given, {**quiet})
    assert [named(made, name).vips for name in "ab"] == [("127.0.0.1",), ()]
    assert reasons(made) == [("service/b", CatalogReason.NO_SUCH_POOL_HERE)]


def test_vips_that_bgp_leads_to_are_not_of_the_hundred() -> None:
    wide = Pool(name="lan", addresses=(AddressRange(first="10.0.0.1", last="10.0.0.200"),))
    names = [f"s{i:03}" for i in range(120)]
    given = {f"service/{n}": Assignment(vips=(f"10.0.0.{i + 1}",)) for i, n in enumerate(names)}
    web = [service(name, node_ports=False) for name in names]
    assert len(merged(config(*web, pools=(wide,)), given).notes) == 20
    by_bgp = replace(wide, announce=Announce.BGP)
    assert merged(config(*web, pools=(by_bgp,)), given).notes == ()


def test_two_never_have_one_cluster_address_and_port() -> None:
    web = [service(name, ServiceType.CLUSTER) for name in "ab"]
    given = {f"service/{name}": Assignment(cluster_ips=("10.96.0.1",)) for name in "ab"}
    assert reasons(merged(config(*web), given)) == [("service/b", CatalogReason.PORT_TAKEN)]
