"""Names of services in the DNS, as the specification of Kubernetes wants them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piagent.core.model import Backend, Gateway, ServicePort, ServiceType
from piagent.core.names import (
    MAX_ALIASES,
    NEGATIVE_TTL_S,
    TTL_S,
    Answer,
    Code,
    Down,
    Question,
    Soa,
    Srv,
    Type,
    Zone,
)
from tests.zones import DNS_UDP, HTTP, external, headless, service, zone

NOBODY: Down = frozenset()


def ask(where: Zone, name: str, kind: Type, down: Down = NOBODY) -> Answer:
    return where.answer(Question(name, kind), down)


def data(answer: Answer) -> list[object]:
    assert answer.code is Code.NOERROR
    return [record.data for record in answer.records]


def is_empty(answer: Answer, code: Code, origin: str = "home.piagent") -> bool:
    """No data, or no such name, and the SOA that a resolver needs to remember it (RFC 2308)."""
    soa = answer.authority[0]
    assert isinstance(soa.data, Soa)
    assert (soa.type, soa.name, soa.ttl_s) == (Type.SOA, origin, NEGATIVE_TTL_S)
    assert soa.data.minimum_s == NEGATIVE_TTL_S
    return answer.records == () and answer.code is code


# ---- addresses ----------------------------------------------------------------------------------


def test_a_cluster_service_is_its_cluster_addresses_by_family() -> None:
    names = zone(service("web", cluster_ips=("10.0.0.5", "fd00::5")))
    found = ask(names, "web.home.piagent", Type.A)
    assert data(found) == ["10.0.0.5"]
    assert [record.ttl_s for record in found.records] == [TTL_S]
    assert data(ask(names, "web.home.piagent", Type.AAAA)) == ["fd00::5"]


def test_a_load_balancer_is_its_cluster_address_from_inside_and_its_vip_without_one() -> None:
    both = service("both", type=ServiceType.LOAD_BALANCER, vips=("192.168.1.240",),
                   cluster_ips=("10.0.0.5",))  # fmt: skip
    vip = service("vip", type=ServiceType.LOAD_BALANCER, vips=("192.168.1.241", "fd00::f1"))
    names = zone(both, vip)
    assert data(ask(names, "both.home.piagent", Type.A)) == ["10.0.0.5"]
    assert data(ask(names, "vip.home.piagent", Type.A)) == ["192.168.1.241"]
    assert data(ask(names, "vip.home.piagent", Type.AAAA)) == ["fd00::f1"]


def test_a_headless_service_is_its_usable_backends() -> None:
    names = zone(
        headless(
            "db",
            Backend(address="192.168.1.21"),
            Backend(address="192.168.1.22"),
            Backend(address="192.168.1.23", weight=0),
            Backend(address="fd00::21"),
        )
    )
    down = frozenset({("db", "192.168.1.22"), ("other", "192.168.1.21")})
    assert data(ask(names, "db.home.piagent", Type.A, down)) == ["192.168.1.21"]
    assert data(ask(names, "db.home.piagent", Type.AAAA, down)) == ["fd00::21"]


def test_two_backends_on_one_address_are_one_address() -> None:
    two = (Backend(address="192.168.1.21", port=1), Backend(address="192.168.1.21", port=2))
    assert data(ask(zone(headless("db", *two)), "db.home.piagent", Type.A)) == ["192.168.1.21"]


def test_a_headless_service_without_a_usable_backend_does_not_exist() -> None:
    names = zone(headless("db", Backend(address="192.168.1.21")))
    down = frozenset({("db", "192.168.1.21")})
    for name in ("db", "_http._tcp.db", "_tcp.db", "192-168-1-21.db"):
        answer = ask(names, f"{name}.home.piagent", Type.A, down)
        assert is_empty(answer, Code.NXDOMAIN), name
        assert answer.why == "no backend of db is up"


def test_a_service_without_an_address_says_so() -> None:
    answer = ask(zone(service("web")), "web.home.piagent", Type.A)
    assert is_empty(answer, Code.NXDOMAIN)
    assert answer.why == "web has no address"


def test_a_gateway_has_a_name_too_unless_a_service_has_it() -> None:
    gateways = (
        Gateway(name="www", ports=(80,), vips=("192.168.1.240",)),
        Gateway(name="web", ports=(80,), vips=("192.168.1.241",)),
    )
    names = zone(service("web", cluster_ips=("10.0.0.5",)), gateways=gateways)
    assert data(ask(names, "www.home.piagent", Type.A)) == ["192.168.1.240"]
    assert data(ask(names, "web.home.piagent", Type.A)) == ["10.0.0.5"]
    assert is_empty(ask(names, "_http._tcp.www.home.piagent", Type.SRV), Code.NXDOMAIN)


# ---- ports --------------------------------------------------------------------------------------


def test_a_port_is_an_srv_record_with_the_address_along() -> None:
    names = zone(service("web", cluster_ips=("10.0.0.5", "fd00::5")))
    answer = ask(names, "_http._tcp.web.home.piagent", Type.SRV)
    assert data(answer) == [Srv(0, 80, "web.home.piagent", ("10.0.0.5", "fd00::5"))]
    assert [record.data for record in answer.additional] == ["10.0.0.5", "fd00::5"]


def test_protocols_are_kept_apart() -> None:
    names = zone(service("dns", ports=(DNS_UDP,), cluster_ips=("10.0.0.5",)))
    assert data(ask(names, "_dns._udp.dns.home.piagent", Type.SRV)) == [
        Srv(0, 53, "dns.home.piagent", ("10.0.0.5",))
    ]
    assert is_empty(ask(names, "_dns._tcp.dns.home.piagent", Type.SRV), Code.NXDOMAIN)


def test_a_port_of_a_headless_service_is_one_record_a_backend_with_its_real_port() -> None:
    backends = (
        Backend(address="192.168.1.21", weight=3),
        Backend(address="192.168.1.22", port=9000),
        Backend(address="192.168.1.23", only="dns"),
        Backend(address="192.168.1.24"),
        Backend(address="fd00::21"),
    )
    names = zone(headless("db", *backends, ports=(HTTP, DNS_UDP)))
    down = frozenset({("db", "192.168.1.24")})
    answer = ask(names, "_http._tcp.db.home.piagent", Type.SRV, down)
    ipv6 = "fd00-0000-0000-0000-0000-0000-0000-0021"
    assert data(answer) == [
        Srv(3, 8080, "192-168-1-21.db.home.piagent", ("192.168.1.21",)),
        Srv(1, 9000, "192-168-1-22.db.home.piagent", ("192.168.1.22",)),
        Srv(1, 8080, f"{ipv6}.db.home.piagent", ("fd00::21",)),
    ]
    for record in answer.records:
        assert isinstance(record.data, Srv)
        target = record.data.target
        found = [*ask(names, target, Type.A, down).records,
                 *ask(names, target, Type.AAAA, down).records]  # fmt: skip
        assert len(found) == 1
        assert found[0] in answer.additional
    udp = ask(names, "_dns._udp.db.home.piagent", Type.SRV, down).records
    assert [r.data.target.partition(".")[0] for r in udp if isinstance(r.data, Srv)] == [
        "192-168-1-21", "192-168-1-22", "192-168-1-23", ipv6,
    ]  # fmt: skip


@pytest.mark.parametrize("label", ["fd00--21", "10-0-0-01", "10.0.0.1", "fd00", "10-0-0-1-"])
def test_a_backend_has_one_label_and_no_other(label: str) -> None:
    names = zone(headless("db", Backend(address="10.0.0.1"), Backend(address="fd00::21")))
    for kind in (Type.A, Type.AAAA):
        answer = ask(names, f"{label}.db.home.piagent", kind)
        assert is_empty(answer, Code.NXDOMAIN)


def test_a_thousand_backends_are_listed_in_one_go() -> None:
    many = tuple(Backend(address=f"10.0.{n // 250}.{n % 250}") for n in range(1000))
    answer = ask(zone(headless("db", *many)), "_http._tcp.db.home.piagent", Type.SRV)
    assert len(answer.records) == len(answer.additional) == 1000


def test_the_label_of_a_backend_never_begins_with_a_hyphen() -> None:
    answer = ask(
        zone(headless("db", Backend(address="::1"))), "_http._tcp.db.home.piagent", Type.SRV
    )
    assert isinstance(answer.records[0].data, Srv)
    assert answer.records[0].data.target.startswith("0000-")


# ---- nothing there ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["home.piagent", "_tcp.web.home.piagent", "web.home.piagent", "v2.home.piagent",
             "_http._tcp.web.home.piagent", "b.web.home.piagent"]
)  # fmt: skip
def test_a_name_with_something_else_or_something_below_has_no_data(name: str) -> None:
    names = zone(
        service("web", cluster_ips=("10.0.0.5",)),
        service("web.v2", vips=("10.0.0.6",)),
        service("a.b.web", vips=("10.0.0.7",)),
    )
    assert is_empty(ask(names, name, Type.AAAA), Code.NOERROR)


@pytest.mark.parametrize(
    "name", ["nobody", "_udp.web", "_https._tcp.web", "x.web", "10-0-0-5.web", "_http.web", "eb"]
)
def test_what_is_not_there_does_not_exist(name: str) -> None:
    names = zone(service("web", cluster_ips=("10.0.0.5",)))
    assert is_empty(ask(names, f"{name}.home.piagent", Type.A), Code.NXDOMAIN)


@pytest.mark.parametrize(
    "name", ["", "piagent", "web.away.piagent", "ahome.piagent", "home.piagent.lan", "home",
             "9.0.0.10.in-addr.arpa", "web\\046home.piagent"]
)  # fmt: skip
def test_names_of_others_are_refused(name: str) -> None:
    answer = ask(zone(service("web", cluster_ips=("10.0.0.5",))), name, Type.A)
    assert (answer.code, answer.records, answer.authority) == (Code.REFUSED, (), ())
    assert answer.why


# ---- external -----------------------------------------------------------------------------------


def test_an_external_service_is_an_alias_whatever_is_asked() -> None:
    names = zone(external("wiki", "wiki.example.com."))
    for kind in (Type.A, Type.AAAA, Type.CNAME, Type.ANY):
        answer = ask(names, "wiki.home.piagent", kind)
        assert [(r.type, r.data) for r in answer.records] == [(Type.CNAME, "wiki.example.com")]
        assert answer.authority == ()
    assert is_empty(ask(names, "_http._tcp.wiki.home.piagent", Type.SRV), Code.NXDOMAIN)


def test_an_alias_within_the_zone_is_followed() -> None:
    names = zone(
        external("a", "b.home.piagent"),
        external("b", "WEB.Home.piagent"),
        external("lost", "nobody.home.piagent"),
        service("web", cluster_ips=("10.0.0.5",)),
    )
    assert data(ask(names, "a.home.piagent", Type.A)) == [
        "b.home.piagent", "WEB.Home.piagent", "10.0.0.5",
    ]  # fmt: skip
    lost = ask(names, "lost.home.piagent", Type.A)
    assert (lost.code, len(lost.records), len(lost.authority)) == (Code.NXDOMAIN, 1, 1)
    nothing = ask(names, "a.home.piagent", Type.AAAA)
    assert (nothing.code, len(nothing.records), len(nothing.authority)) == (Code.NOERROR, 2, 1)


def test_aliases_in_a_circle_come_to_an_end() -> None:
    names = zone(external("a", "b.home.piagent"), external("b", "a.home.piagent"))
    assert len(ask(names, "a.home.piagent", Type.A).records) == MAX_ALIASES


# ---- spelling -----------------------------------------------------------------------------------


def test_names_are_compared_without_case_and_answered_as_they_were_asked() -> None:
    names = zone(service("Web", cluster_ips=("10.0.0.5",)), cluster="Home")
    answer = ask(names, "wEb.hOME.PIagent", Type.A)
    assert data(answer) == ["10.0.0.5"]
    assert answer.records[0].name == "wEb.hOME.PIagent"
    assert data(ask(names, "_HTTP._Tcp.WEB.home.piagent", Type.SRV)) == [
        Srv(0, 80, "Web.Home.piagent", ("10.0.0.5",))
    ]


def test_of_two_names_that_differ_in_case_the_first_one_counts() -> None:
    two = service("web", cluster_ips=("10.0.0.6",)), service("Web", cluster_ips=("10.0.0.5",))
    for names in (zone(*two), zone(*reversed(two))):
        assert data(ask(names, "web.home.piagent", Type.A)) == ["10.0.0.5"]


def test_dots_and_underscores_in_names_are_names_like_any_other() -> None:
    port = ServicePort(name="http.v1", port=80, target_port=80)
    names = zone(
        service("a_b.c", cluster_ips=("10.0.0.5",), ports=(port,)),
        headless("c", Backend(address="10.0.0.9")),
        service("10-0-0-9.c", cluster_ips=("10.0.0.7",)),
        cluster="my.home",
    )
    assert data(ask(names, "a_b.c.my.home.piagent", Type.A)) == ["10.0.0.5"]
    assert data(ask(names, "_http.v1._tcp.a_b.c.my.home.piagent", Type.SRV)) == [
        Srv(0, 80, "a_b.c.my.home.piagent", ("10.0.0.5",))
    ]
    between = ask(names, "v1._tcp.a_b.c.my.home.piagent", Type.SRV)
    assert is_empty(between, Code.NOERROR, "my.home.piagent")
    assert data(ask(names, "10-0-0-9.c.my.home.piagent", Type.A)) == ["10.0.0.7"]


def test_a_name_that_the_dns_cannot_spell_is_left_out() -> None:
    names = zone(
        service("a..b", cluster_ips=("10.0.0.5",)),
        external("wiki", "a" * 64 + ".example.com"),
        service("web", cluster_ips=("10.0.0.6",)),
    )
    assert ask(names, "5.0.0.10.in-addr.arpa", Type.PTR).code is Code.REFUSED
    assert is_empty(ask(names, "wiki.home.piagent", Type.A), Code.NXDOMAIN)
    assert data(ask(names, "web.home.piagent", Type.A)) == ["10.0.0.6"]


# ---- the rest -----------------------------------------------------------------------------------


def test_the_zone_begins_where_it_says() -> None:
    answer = ask(zone(), "HOME.piagent", Type.SOA)
    assert [r.type for r in answer.records] == [Type.SOA]


def test_addresses_of_services_and_gateways_have_names() -> None:
    gateway = Gateway(name="www", ports=(80,), vips=("10.0.0.5",))
    web = service("web", vips=("10.0.0.5",), cluster_ips=("fd00::5",))
    names = zone(web, gateways=(gateway,))
    four = ask(names, "5.0.0.10.IN-addr.arpa", Type.PTR)
    assert data(four) == ["web.home.piagent", "www.home.piagent"]
    six = "5." + "0." * 27 + "0.0.d.f.ip6.arpa"
    assert data(ask(names, six, Type.PTR)) == ["web.home.piagent"]
    nothing = ask(names, "5.0.0.10.in-addr.arpa", Type.A)
    assert is_empty(nothing, Code.NOERROR, "5.0.0.10.in-addr.arpa")


@pytest.mark.parametrize(
    "name",
    [
        "0.0.10.in-addr.arpa",
        "5.0.0.10.0.in-addr.arpa",
        "05.0.0.10.in-addr.arpa",
        "5.0.0.10.ip6.arpa",
        "x." + "0." * 27 + "0.0.d.f.ip6.arpa",
        "05." + "0." * 26 + "0.0.d.f.ip6.arpa",
        "5." + "0." * 26 + "0.0.d.f.ip6.arpa",
        "in-addr.arpa",
        "ip6.arpa",
        "5.0.0.10",
    ],
)
def test_what_is_like_the_name_of_an_address_is_refused(name: str) -> None:
    names = zone(service("web", cluster_ips=("10.0.0.5", "fd00::5")))
    assert ask(names, name, Type.PTR).code is Code.REFUSED


def test_any_is_answered_with_one_type_only() -> None:
    names = zone(service("web", cluster_ips=("10.0.0.5", "fd00::5")))
    assert data(ask(names, "web.home.piagent", Type.ANY)) == ["10.0.0.5"]
    assert is_empty(ask(names, "_tcp.web.home.piagent", Type.ANY), Code.NOERROR)


LABELS = st.sampled_from(
    ["a", "b", "A", "a.b", "_http", "_tcp", "10-0-0-1", "home", "piagent", "in-addr", "arpa", ""]
)


@given(st.lists(LABELS, max_size=8), st.integers(0, 300), st.booleans())
def test_every_question_has_an_answer_of_one_shape(labels: list[str], kind: int, up: bool) -> None:
    names = zone(
        headless("a", Backend(address="10.0.0.1")),
        service("a.b", cluster_ips=("10.0.0.2",)),
        external("b", "a.home.piagent"),
    )
    down: Down = frozenset() if up else frozenset({("a", "10.0.0.1")})
    answer = names.answer(Question(".".join([*labels, "home.piagent"]), kind), down)
    assert answer.code in {Code.NOERROR, Code.NXDOMAIN}
    last = answer.records[-1].type if answer.records else None
    positive = last == kind or (last is not None and kind == Type.ANY)
    assert bool(answer.authority) is not positive
    if answer.code is Code.NXDOMAIN:
        assert all(record.type is Type.CNAME for record in answer.records)
