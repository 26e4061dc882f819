"""What packets get to which backends, and what a node forwards."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from piagent.core.draining import drained
from piagent.core.forwarding import Encapsulation, Forwarding, Mode
from piagent.core.model import Backend, Config, Protocol, Service, ServicePort, TrafficPolicy
from piagent.core.plan import Plan, places_of, plan, unreached, with_leaving
from piagent.core.proxying import Proxying
from tests.core.things import config, service

VIP4, VIP6 = "10.0.0.1", "fd00::1"
ONE, TWO, SIX = (
    Backend(address="192.0.2.1"),
    Backend(address="192.0.2.2"),
    Backend(address="fd09::1"),
)
NAT, DSR = Forwarding(Mode.NAT), Forwarding(Mode.DSR)
IPIP = Forwarding(Mode.DSR, Encapsulation.IPIP)
HTTP = ServicePort(name="http", port=80, target_port=80)
MOVED = replace(HTTP, target_port=8080)


def forwarded(how: Forwarding, *backends: Backend, **keys: object) -> Service:
    fields = {"vips": (VIP4,), "ports": (HTTP,), "backends": backends, **keys}
    return service("web", forwarding=how, **fields)


def made(of: Config, *owned: str, draining: str = "") -> Plan:
    return plan(of, frozenset(owned), frozenset(), frozenset({draining} - {""}))


def names(of: Plan, target: str) -> list[str]:
    (found,) = (one for one in of.services if one.name == target)
    return [backend.name for backend in found.backends]


@pytest.mark.parametrize(
    ("how", "same", "four_in_six", "six_in_four"),
    [
        (Forwarding(), True, False, False),
        (NAT, True, False, False),
        (DSR, True, False, False),
        (IPIP, True, True, False),
    ],
)
def test_only_an_outer_header_changes_the_ip_version(
    how: Forwarding, *, same: bool, four_in_six: bool, six_in_four: bool
) -> None:
    assert how.carries(VIP4, ONE.address) == how.carries(VIP6, SIX.address) == same
    assert how.carries(VIP4, SIX.address) == four_in_six
    assert how.carries(VIP6, ONE.address) == six_in_four


def test_a_packet_keeps_its_port_unless_it_is_translated() -> None:
    assert NAT.keeps(80, 8080)
    assert not DSR.keeps(80, 8080)
    assert not IPIP.keeps(80, 8080)
    assert DSR.keeps(80, 80)


def test_what_is_forwarded_has_no_listener_on_its_vip_and_all_others() -> None:
    ports = (replace(HTTP, node_port=30080),)
    of = config(forwarded(DSR, ONE, ports=ports, cluster_ips=("10.96.0.1",)))
    listened = {(one.address, one.port) for one in made(of, VIP4).listeners}
    assert listened == {("10.96.0.1", 80), ("0.0.0.0", 30080), ("::", 30080)}
    (forward,) = made(of, VIP4).forwards
    assert (forward.address, forward.port, forward.how) == (VIP4, 80, DSR)
    assert names(made(of), "web:80") == names(made(of), forward.target) == ["192.0.2.1:80"]


def test_what_is_proxied_is_not_forwarded() -> None:
    assert made(config(service("web", vips=(VIP4,))), VIP4).forwards == ()


def test_a_forward_says_whether_its_vip_is_here_and_whether_it_is_leaving() -> None:
    of = config(forwarded(NAT, ONE))
    for owned, draining in product((False, True), repeat=2):
        (forward,) = made(of, *([VIP4] * owned), draining=VIP4 * draining).forwards
        assert (forward.owned, forward.draining) == (owned, draining)


def test_a_node_that_never_owns_a_vip_forwards_nothing() -> None:
    of = config(forwarded(DSR, ONE))
    never = replace(of, node=replace(of.node, vip_weight=0))
    assert made(never).forwards == ()
    assert {one.name for one in made(never).services} == {"web:80"}


def test_each_vip_has_the_backends_that_its_packets_get_to() -> None:
    both = made(config(forwarded(DSR, ONE, SIX, TWO, vips=(VIP4, VIP6))))
    assert [(one.address, one.target) for one in both.forwards] == [
        (VIP4, "web:80@ipv4"),
        (VIP6, "web:80@ipv6"),
    ]
    assert names(both, "web:80@ipv4") == ["192.0.2.1:80", "192.0.2.2:80"]
    assert names(both, "web:80@ipv6") == ["[fd09::1]:80"]
    inside = made(config(forwarded(IPIP, ONE, SIX)))
    assert names(inside, "web:80@ipv4") == ["192.0.2.1:80", "[fd09::1]:80"]


def test_a_backend_with_another_port_gets_translated_packets_only() -> None:
    other = Backend(address="192.0.2.3", port=8081)
    assert names(made(config(forwarded(DSR, ONE, other))), "web:80@ipv4") == ["192.0.2.1:80"]
    translated = made(config(forwarded(NAT, ONE, other, ports=(MOVED,))))
    assert names(translated, "web:80@ipv4") == ["192.0.2.1:8080", "192.0.2.3:8081"]


def test_with_a_local_policy_only_the_backends_of_this_node_get_anything() -> None:
    here = replace(ONE, node="pi-1")
    of = made(config(forwarded(DSR, here, TWO, traffic_policy=TrafficPolicy.LOCAL)))
    (forward,) = of.forwards
    assert forward.target == "web:80@ipv4@local"
    assert names(of, forward.target) == ["192.0.2.1:80"]
    assert names(of, "web:80") == ["192.0.2.1:80", "192.0.2.2:80"]


def test_udp_and_tcp_of_one_port_are_two() -> None:
    udp = replace(HTTP, name="80-udp", protocol=Protocol.UDP)
    of = made(config(forwarded(NAT, ONE, ports=(HTTP, udp))))
    assert [(one.target, one.udp) for one in of.forwards] == [
        ("web:80@ipv4", False),
        ("web:80/udp@ipv4", True),
    ]


def test_a_backend_is_found_under_every_name_that_it_is_planned_under() -> None:
    web = forwarded(DSR, replace(ONE, node="pi-1"), SIX, vips=(VIP4, VIP6))
    for policy in TrafficPolicy:
        of = made(config(replace(web, traffic_policy=policy)))
        planned = {(s.name, b.name) for s in of.services for b in s.backends}
        assert planned <= {place for b in web.backends for place in places_of(web, b)}


def test_a_vip_that_leaves_is_forwarded_until_its_flows_end() -> None:
    before = made(config(forwarded(NAT, ONE)), VIP4)
    after = with_leaving(made(config()), before, frozenset({VIP4}))
    assert after.forwards == (replace(before.forwards[0], draining=True),)
    assert names(after, "web:80@ipv4") == ["192.0.2.1:80"]


def test_a_backend_that_a_forwarded_service_has_no_more_drains() -> None:
    def wanted(*backends: Backend) -> Plan:
        return made(config(forwarded(NAT, *backends, proxying=Proxying(drain_ms=500))))

    left = drained(wanted(ONE), drained(wanted(ONE, TWO), None, 0), 100)
    assert left.drains[("web:80@ipv4", "192.0.2.2:80")].due_ms == 600
    assert names(left.plan, "web:80@ipv4") == ["192.0.2.1:80", "192.0.2.2:80"]


def test_a_backend_that_no_packet_gets_to_is_named() -> None:
    other = Backend(address="192.0.2.3", port=8081)
    assert unreached(config(forwarded(DSR, ONE, SIX, other))) == (
        ("web", "fd09::1"),
        ("web", "192.0.2.3:8081"),
    )
    assert unreached(config(forwarded(NAT, ONE, other))) == ()
    assert unreached(config(forwarded(DSR, SIX, vips=()))) == (), "its VIP is not known yet"
    assert unreached(config(service("web", vips=(VIP4,), backends=(SIX,)))) == ()


addresses = st.sampled_from(["192.0.2.1", "192.0.2.2", "fd09::1", "fd09::2"])
backends = st.lists(
    st.builds(Backend, address=addresses, port=st.sampled_from([None, 80, 8080])),
    unique_by=lambda one: one.id,
)


@given(
    how=st.sampled_from([NAT, DSR, IPIP]), backends=backends, port=st.sampled_from([HTTP, MOVED])
)
def test_a_backend_is_planned_for_a_vip_or_named_as_unreached(
    how: Forwarding, backends: list[Backend], port: ServicePort
) -> None:
    of = config(forwarded(how, *backends, vips=(VIP4, VIP6), ports=(port,)))
    outside = {f"web:80@ipv{version}" for version in (4, 6)}
    planned = {b.name for s in made(of).services if s.name in outside for b in s.backends}
    for backend in backends:
        name = backend.address if ":" not in backend.address else f"[{backend.address}]"
        is_planned = f"{name}:{backend.port or port.target_port}" in planned
        assert is_planned != (("web", backend.id) in unreached(of))
