"""`mode` of a service: how it is read, and what does not go with packets that are forwarded."""

from __future__ import annotations

import pytest

from piagent.config.applied import parse_applied, read_record
from piagent.core import model
from piagent.core.forwarding import Encapsulation, Forwarding, Mode
from piagent.core.records import Kind, Record
from tests.config.conftest import Load, Problems
from tests.config.test_services import BOTH, GOOD, HTTP, ROUTE, TO, ports, service

NAT, DSR, IPIP = 'mode = "nat"', 'mode = "dsr"', 'encapsulation = "ipip"'
TO6 = 'backends = ["fd00::21"]'
VIP, VIP6 = 'address = "192.0.2.241"', 'address = "fd00:9::1"'
SHARED = 'sharing_key = "web"'
POOL6 = '[[pool]]\nname = "lan6"\naddresses = ["fd00:9::/64"]\n'
GOOD6 = GOOD + POOL6
DUAL = 'ip_family_policy = "require-dual"'


@pytest.mark.parametrize(
    ("lines", "made"),
    [
        ((), Forwarding()),
        (('mode = "proxy"',), Forwarding(Mode.PROXY)),
        ((NAT,), Forwarding(Mode.NAT)),
        ((DSR,), Forwarding(Mode.DSR)),
        ((DSR, IPIP), Forwarding(Mode.DSR, Encapsulation.IPIP)),
    ],
)
def test_a_mode_is_read(load: Load, lines: tuple[str, ...], made: Forwarding) -> None:
    loaded = load(GOOD + service("load-balancer", HTTP, TO, *lines))
    assert loaded.warnings == ()
    assert [one.forwarding for one in loaded.config.services] == [made]


FINE = {
    "all that goes with forwarding": service(
        "load-balancer", VIP, BOTH, TO, DSR, 'affinity = "client-ip"', 'affinity_timeout = "1h"',
        'allowed_sources = ["192.0.2.0/24"]', 'drain_timeout = "1m"', 'balance = "maglev"',
        "health = { port = 53 }"),
    "another port of the backends behind nat": service(
        "load-balancer", ports("port = 80, target_port = 8080"), TO, NAT),
    "the same port written twice": service(
        "load-balancer", ports("port = 80, target_port = 80"), TO, DSR),
    "backends of both IP versions when a pool says which": service(
        "load-balancer", HTTP, 'backends = ["192.0.2.21", "fd00::21"]', NAT),
    "a route to what is forwarded": service("load-balancer", VIP, HTTP, TO, NAT) + ROUTE,
    "IPv4 in IPv6": service("load-balancer", VIP, HTTP, TO6, DSR, IPIP),
    "IPv6 to IPv6": service("load-balancer", VIP6, HTTP, TO6, NAT),
    "node ports": service("load-balancer", ports("port = 80, node_port = 30080"), TO, NAT),
}  # fmt: skip


@pytest.mark.parametrize("text", FINE.values(), ids=FINE)
def test_it_is_taken(load: Load, text: str) -> None:
    assert load(GOOD6 + text).warnings == ()


def refused_with(line: str, key: str, mode: str = NAT) -> tuple[str, str, str, str]:
    text = service("load-balancer", HTTP, TO, mode, line)
    return text, key, "needs a connection that ends here", 'or write mode = "proxy"'


ERRORS = {
    # what is wrong: (text, key of the one error, part of what, part of the cure)
    "no such encapsulation": (
        service("load-balancer", HTTP, TO, DSR, 'encapsulation = "gre"'), "encapsulation",
        "one of ipip", "known: ipip"),
    "encapsulation of a proxy": (
        service("load-balancer", HTTP, TO, IPIP), "encapsulation", 'mode is "proxy"',
        'mode = "dsr"'),
    "encapsulation of nat": (
        service("load-balancer", HTTP, TO, NAT, IPIP), "encapsulation", 'mode is "nat"',
        'mode = "dsr"'),
    "forwarding without a VIP": (
        service("cluster", HTTP, TO, NAT) + service("node-port", HTTP, TO, name="b"), "mode",
        "a cluster service has none", 'type = "load-balancer"'),
    "forwarding of node ports": (
        service("node-port", HTTP, TO, DSR), "mode", "a node-port service has none",
        'type = "load-balancer"'),
    "forwarding of what is elsewhere": (
        service("external", 'external_name = "db.example.com"', NAT)
        + service("node-port", HTTP, TO, name="b"), "mode",
        "nothing of an external service goes through a node", "leave it out"),
    "trusted proxies": refused_with('trusted_proxies = ["192.0.2.7"]', "trusted_proxies"),
    "a PROXY header": refused_with('proxy_protocol = "v2"', "proxy_protocol", DSR),
    "sources": refused_with('source_addresses = ["198.51.100.2"]', "source_addresses"),
    "timeouts": refused_with('timeouts = { idle = "1m" }', "timeouts", DSR),
    "limits": refused_with("limits = { connections = 5 }", "limits"),
    "slow start": refused_with('slow_start = "30s"', "slow_start"),
    "ejection": refused_with("ejection = { failures = 3 }", "ejection", DSR),
    "a log": refused_with('access_log = "-"', "access_log"),
    "a policy that counts connections": (
        service("load-balancer", HTTP, TO, NAT, 'balance = "least-connections"'), "balance",
        "knows no connections", 'mode = "proxy"'),
    "another port of the backends with dsr": (
        service("load-balancer", ports("port = 80, target_port = 8080"), TO, DSR),
        "ports[0].target_port", "a packet keeps its port, which is 80", 'mode = "nat"'),
    "a loopback VIP": (
        service("load-balancer", 'address = "127.0.0.9"', HTTP, TO, NAT), "address",
        "every host has 127.0.0.9 by itself", "an address of the LAN"),
    "a loopback backend": (
        service("load-balancer", HTTP, 'backends = ["192.0.2.21", "127.0.0.1"]', DSR),
        "backends[1]", "every host has 127.0.0.1 by itself", "has on the LAN"),
    "nat from IPv4 to IPv6": (
        service("load-balancer", VIP, HTTP, TO6, NAT), "backends[0]",
        "fd00::21 is IPv6, and the VIP is IPv4: nat does not translate", "an IPv4 address"),
    "a frame with IPv6 to IPv4": (
        service("load-balancer", VIP6, HTTP, TO, DSR), "backends[0]",
        "192.0.2.21 is IPv4, and the VIP is IPv6: the backend gets the packet as it is",
        "an IPv6 address"),
    "IPv6 in IPv4": (
        service("load-balancer", VIP6, HTTP, TO, DSR, IPIP), "backends[0]",
        "IPv6 packets are not put into IPv4 ones", "an IPv6 address"),
    "a VIP of a version that its words say": (
        service("load-balancer", 'ip_families = ["ipv6"]', HTTP, TO, NAT), "backends[0]",
        "192.0.2.21 is IPv4, and the VIP is IPv6", "an IPv6 address"),
    "a second VIP that leads nowhere": (
        service("load-balancer", DUAL, 'ip_families = ["ipv4", "ipv6"]', HTTP, TO, NAT),
        "ip_families", "no backend gets what comes to the IPv6 one", "IPv6 addresses"),
    "dsr with a VIP of nat": (
        service("load-balancer", VIP, SHARED, ports("port = 90"), TO, DSR)
        + service("load-balancer", VIP, SHARED, HTTP, TO, NAT, name="b"), "mode",
        'service "b" has the same VIP with mode = "nat"', "a VIP for each"),
    "a port that nat connects from": (
        service("load-balancer", VIP, ports("port = 50000"), TO, NAT), "ports[0].port",
        'connects from port 50000 (mode = "nat")', "a port below 49152"),
    "such a port of who shares the VIP": (
        service("load-balancer", VIP, SHARED, ports("port = 57343"), TO)
        + service("load-balancer", SHARED, HTTP, TO, NAT, name="b"), "ports[0].port",
        'service "b" connects from port 57343', "another VIP"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "key", "what", "cure"), ERRORS.values(), ids=ERRORS)
def test_it_is_refused_with_its_place_and_a_cure(
    errors: Problems, text: str, key: str, what: str, cure: str
) -> None:
    (problem,) = errors(GOOD6 + text)
    assert problem.key == f"service[0].{key}"
    assert problem.line is not None
    assert what in problem.what
    assert cure in problem.cure


def test_what_is_applied_has_a_mode_too() -> None:
    text = service("load-balancer", HTTP, TO, DSR, IPIP)
    (change,) = parse_applied(text.encode(), "web.toml")
    assert change.table is not None
    thing = read_record(Record(kind=Kind.SERVICE, name="a", table=change.table))
    assert isinstance(thing, model.Service)
    assert thing.forwarding == Forwarding(Mode.DSR, Encapsulation.IPIP)
