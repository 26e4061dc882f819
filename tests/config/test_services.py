"""What a service of each type must have, and must not: ports, node ports, backends, checks."""

from __future__ import annotations

import pytest

from piagent.core import model
from tests.config.conftest import Load, Problems

GOOD = """
[cluster]
secret_file = "cluster.secret"
[mqtt]
brokers = ["mqtt://192.0.2.1", "mqtt://192.0.2.2", "mqtt://192.0.2.3"]
[[pool]]
name = "lan"
addresses = ["192.0.2.240/28"]
[[pool]]
name = "inside"
type = "cluster"
addresses = ["10.96.0.0/24"]
"""
TO = 'backends = ["192.0.2.21"]'
ON_NODE = 'backends = [{ address = "192.0.2.21", node = "pi-1" }]'


def service(kind: str, *lines: str, name: str = "a") -> str:
    return "\n".join(["", "[[service]]", f'name = "{name}"', f'type = "{kind}"', *lines, ""])


def ports(*each: str) -> str:
    return f"ports = [{', '.join(f'{{ {one} }}' for one in each)}]"


HTTP = ports("port = 80")
UDP = ports('port = 53, protocol = "udp"')
BOTH = ports("port = 53", 'port = 53, protocol = "udp"')
ROUTE = """
[[gateway]]
name = "g"
listen = [{ port = 80 }]
[[route]]
name = "r"
gateway = "g"
backends = [{ service = "a" }]
"""

FINE = {
    "cluster": service("cluster", HTTP, TO),
    "headless": service("cluster", "headless = true", HTTP, TO),
    "node-port": service("node-port", HTTP, TO),
    "load-balancer": service("load-balancer", HTTP, TO),
    "load-balancer without node ports": service("load-balancer", "node_ports = false", HTTP, TO),
    "external": service("external", 'external_name = "db.example.com"') + service(
        "node-port", HTTP, TO, name="b"),
    "TCP and UDP on one port number": service("load-balancer", BOTH, TO),
    "TCP and UDP on one node port": service("node-port", ports(
        "port = 53, node_port = 30053", 'port = 53, protocol = "udp", node_port = 30053'), TO),
    "the ends of the node ports": service("node-port", ports(
        "port = 1, node_port = 30000", "port = 2, node_port = 32767"), TO),
    "a check of the TCP port beside a UDP one": service("cluster", BOTH, TO, "health = {}"),
    "a check by a program of what no TCP check can ask": service(
        "cluster", UDP, TO, 'health = { kind = "exec", command = ["/bin/true", "", "a b"] }'),
    "a check of another port": service("cluster", UDP, TO, "health = { port = 8080 }"),
    "a route to the TCP port beside a UDP one": service("cluster", BOTH, TO) + ROUTE,
    "local node ports": service("node-port", HTTP, ON_NODE, 'traffic_policy = "local"'),
}  # fmt: skip


@pytest.mark.parametrize("text", FINE.values(), ids=FINE)
def test_it_is_taken(load: Load, text: str) -> None:
    assert load(GOOD + text).warnings == ()


EXTERNAL = 'external_name = "db.example.com"'
LOCAL = 'traffic_policy = "local"'

ERRORS = {
    # what is wrong: (text, key of the one error, part of what, part of the cure)
    "external without a name": (
        service("external"), "external_name", "an external service stands for a name",
        'external_name = "db.example.com"'),
    "external with an address for a name": (
        service("external", 'external_name = "192.0.2.1"'), "external_name",
        '"192.0.2.1" is an address or has a port', "write a name"),
    "external with a port in the name": (
        service("external", 'external_name = "db.example.com:5432"'), "external_name",
        "is an address or has a port", "write a name"),
    "external with ports": (
        service("external", EXTERNAL, HTTP), "ports", "an external service has none", "leave"),
    "external with backends": (
        service("external", EXTERNAL, TO), "backends", "an external service has none", "leave"),
    "external with an address": (
        service("external", EXTERNAL, 'address = "10.96.0.9"'), "address",
        "an external service has none", "leave it out"),
    "external with a pool": (
        service("external", EXTERNAL, 'pool = "lan"'), "pool", "an external service has none", ""),
    "external with checks": (
        service("external", EXTERNAL, "health = {}"), "health", "an external service has none", ""),
    "external and headless": (
        service("external", EXTERNAL, "headless = true"), "headless",
        "an external service has none", ""),
    "external and local": (
        service("external", EXTERNAL, LOCAL), "traffic_policy",
        'none comes to a service with type = "external"', ""),
    "a name of something that is here": (
        service("cluster", EXTERNAL, HTTP, TO), "external_name", "is for external services",
        'type = "external"'),
    "no ports": (service("cluster", TO), "ports", "is missing", "ports = [{ port = 80 }]"),
    "no ports, and a check": (
        service("cluster", TO, "health = {}"), "ports", "is missing", "ports = [{ port = 80 }]"),
    "headless with an address": (
        service("cluster", "headless = true", 'address = "10.96.0.9"', HTTP, TO), "headless",
        "a cluster service without an address", "leave it out"),
    "headless with a pool": (
        service("cluster", "headless = true", 'pool = "inside"', HTTP, TO), "headless",
        "a cluster service without an address", "leave it out"),
    "headless on node ports": (
        service("node-port", "headless = true", HTTP, TO), "headless",
        "a cluster service without an address", "leave it out"),
    "a node port below the range": (
        service("node-port", ports("port = 80, node_port = 29999"), TO), "ports[0].node_port",
        "29999 is not between 30000 and 32767", "one is assigned"),
    "a node port above the range": (
        service("load-balancer", ports("port = 80, node_port = 32768"), TO), "ports[0].node_port",
        "32768 is not between 30000 and 32767", "one is assigned"),
    "a node port of a cluster service": (
        service("cluster", ports("port = 80, node_port = 30080"), TO), "ports[0].node_port",
        "a cluster service has no node port", 'type = "node-port" or "load-balancer"'),
    "a node port where there are none": (
        service("load-balancer", "node_ports = false", ports("port = 80, node_port = 30080"), TO),
        "ports[0].node_port", "with node_ports = false there is none", "one of the two"),
    "a node-port service without node ports": (
        service("node-port", "node_ports = false", HTTP, TO), "node_ports",
        "a node-port service without node ports", 'type = "cluster"'),
    "one node port for two ports": (
        service("node-port",
                ports("port = 80, node_port = 30080", "port = 81, node_port = 30080"), TO),
        "ports[1].node_port", "already taken by service[0].ports[0].node_port", "another port"),
    "a port twice by one protocol": (
        service("cluster", ports("port = 53", 'port = 53, name = "x"'), TO), "ports[1].port",
        '"53/tcp" is already taken by service[0].ports[0].port', "one of them must change"),
    "two ports of one name": (
        service("cluster", ports('port = 53, name = "x"', 'port = 54, name = "x"'), TO),
        "ports[1].name", '"x" is already taken', ""),
    "a port of the name that another has by itself": (
        service("cluster", ports("port = 80", 'port = 81, name = "80"'), TO),
        "ports[1].name", '"80" is already taken by service[0].ports[0].name', ""),
    "a check where nothing is TCP": (
        service("cluster", UDP, TO, "health = {}"), "health", "no port of the service is TCP",
        "write port = "),
    "local for a cluster service": (
        service("cluster", HTTP, ON_NODE, LOCAL), "traffic_policy",
        'none comes to a service with type = "cluster"', 'type = "load-balancer"'),
    "local node ports without a node": (
        service("node-port", HTTP, TO, LOCAL), "traffic_policy",
        "no backend says which node it runs on", "node ="),
    "a backend that is the service itself": (
        service("load-balancer", 'address = ["192.0.2.241"]', HTTP, 'backends = ["192.0.2.241"]'),
        "backends[0]", "port 80 would send its connections to itself", "behind the VIP"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_it_is_one_error_at_its_place(errors: Problems, case: tuple[str, str, str, str]) -> None:
    text, key, what, cure = case
    (found,) = errors(GOOD + text)
    assert found.key == f"service[0].{key}"
    assert what in found.what
    assert cure in found.cure
    line = (GOOD + text).splitlines()[(found.line or 0) - 1]
    assert key.rpartition(".")[2].partition("[")[0] in line or line == "[[service]]"


def test_a_node_port_is_one_services_in_the_whole_file(errors: Problems) -> None:
    one = ports("port = 80, node_port = 30080")
    (found,) = errors(
        GOOD + service("node-port", one, TO) + service("load-balancer", one, TO, name="b")
    )
    assert found.key == "service[1].ports[0].node_port"
    assert found.what == '"*:30080" is already taken by service[0].ports[0].node_port'


@pytest.mark.parametrize("own", ["0.0.0.0", "[::]", "192.0.2.1", "[2001:db8::1]"])
def test_a_broker_of_our_own_leaves_the_node_ports_alone(errors: Problems, own: str) -> None:
    text = GOOD.replace("[mqtt]", f'[mqtt]\nembedded = "{own}:30883"')
    udp = ports('port = 80, protocol = "udp", node_port = 30883')
    assert errors(text + service("node-port", udp, TO)) == ()
    tcp = ports("port = 80, node_port = 30883")
    (found,) = errors(text + service("node-port", tcp, TO))
    assert found.key == "mqtt.embedded"
    assert found.what == "port 30883 on every address is also service[0].ports[0].node_port"


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        (service("external", EXTERNAL), "service", '"a" is external: it has no backends'),
        (service("cluster", UDP, TO), "service", '"a" has no TCP port'),
        (service("cluster", ports("port = 80", 'port = 53, protocol = "udp"'), TO), "port",
         'service "a" has no port 53'),
    ],
)  # fmt: skip
def test_a_route_leads_to_a_tcp_port_of_a_service_with_backends(
    errors: Problems, text: str, key: str, what: str
) -> None:
    route = ROUTE.replace('"a"', '"a", port = 53') if key == "port" else ROUTE
    (found,) = errors(GOOD + text + route)
    assert found.key == f"route[0].backends[0].{key}"
    assert what in found.what


def test_local_on_a_node_that_owns_no_vip_is_fine_for_node_ports(load: Load) -> None:
    text = GOOD + '[election]\ncandidates = ["pi-2", "pi-9"]\n'
    assert load(text + service("node-port", HTTP, ON_NODE, LOCAL)).warnings == ()
    (warning,) = load(text + service("load-balancer", HTTP, ON_NODE, LOCAL)).warnings
    assert warning.key == "service[0].backends[0].node"


@pytest.mark.parametrize(
    "text", [service("external", EXTERNAL), service("cluster", "headless = true", HTTP, TO)]
)
def test_services_that_nobody_connects_to_are_a_warning(load: Load, text: str) -> None:
    (warning,) = load(GOOD.partition("[[pool]]")[0] + text).warnings
    assert "this node listens on nothing" in warning.what


def test_what_a_port_is_when_nothing_is_said(load: Load) -> None:
    (made,) = load(GOOD + service("load-balancer", BOTH, TO)).config.services
    assert made.ports == (
        model.ServicePort(name="53", port=53, target_port=53),
        model.ServicePort(name="53-udp", port=53, target_port=53, protocol=model.Protocol.UDP),
    )
    assert made == model.Service(
        name="a", type=model.ServiceType.LOAD_BALANCER, ports=made.ports,
        backends=(model.Backend(address="192.0.2.21"),),
    )  # fmt: skip


def test_what_a_service_is_when_nothing_is_said(load: Load) -> None:
    text = service("cluster", HTTP, TO).replace('type = "cluster"', "")
    (made,) = load(GOOD + text).config.services
    assert made.type is model.ServiceType.CLUSTER
    assert (made.headless, made.node_ports, made.proxying.affinity_ms) == (False, True, None)
    assert made.traffic_policy is model.TrafficPolicy.CLUSTER


def test_each_type_is_read_into_the_model(load: Load) -> None:
    text = (
        service("cluster", "headless = true", HTTP, TO)
        + service("node-port", ports('port = 80, node_port = 30080, name = "http"'), TO, name="b")
        + service("external", 'external_name = "DB.Example.com."', name="c")
    )
    headless, node_port, external = load(GOOD + text).config.services
    assert headless.headless
    assert node_port.ports[0] == model.ServicePort(
        name="http", port=80, target_port=80, node_port=30080
    )
    assert (external.external_name, external.ports) == ("db.example.com", ())
