"""What the tables of a file must be to each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.conftest import Load, Problems

GOOD = """
[cluster]
secret_file = "cluster.secret"

[mqtt]
brokers = ["mqtt://192.0.2.1", "mqtt://192.0.2.2", "mqtt://192.0.2.3"]

[[pool]]
name = "lan"
addresses = ["192.0.2.240-192.0.2.249", "2001:db8::f0/124"]

[[pool]]
name = "lab"
addresses = ["192.0.2.250"]

[[service]]
name = "dns"
type = "load-balancer"
address = "192.0.2.241"
ports = [{ port = 53 }, { port = 54, name = "alt" }]
backends = ["192.0.2.21", "192.0.2.22"]

[[service]]
name = "web"
ports = [{ port = 80 }]
backends = ["192.0.2.21"]
health = { kind = "tcp" }

[[gateway]]
name = "front"
address = "192.0.2.242"
listen = [{ port = 80 }]

[[route]]
name = "all"
gateway = "front"
hosts = ["a.lan"]
path_prefix = "/"
backends = [{ service = "web", port = 80 }]
"""


def test_the_file_that_the_others_are_made_from_is_good(load: Load) -> None:
    assert load(GOOD).warnings == ()


BROKERS = 'brokers = ["mqtt://192.0.2.1", "mqtt://192.0.2.2", "mqtt://192.0.2.3"]'

ERRORS = [
    # (text taken out, text put in, key of the one error, part of what, part of the cure)
    ('name = "lab"', 'name = "lan"', "pool[1].name", "already taken by pool[0].name", ""),
    (BROKERS, 'brokers = ["mqtt://a", "mqtt://b"]', "mqtt.brokers", "2 brokers", "add or remove"),
    (BROKERS, 'brokers = ["mqtt://a", "mqtt://b", "mqtt://A:1883"]', "mqtt.brokers[2]",
     "already taken by mqtt.brokers[0]", "each broker counts once"),
    (BROKERS, BROKERS + '\npassword_file = "cluster.secret"', "mqtt.password_file",
     "no broker has a user", "mqtt://user@host"),
    ('"192.0.2.250"]', '"192.0.2.248/30"]', "pool[1].addresses[0]", "overlaps pool[0]", ""),
    ('"2001:db8::f0/124"]', '"192.0.2.245"]', "pool[0].addresses[1]", "overlaps pool[0]", ""),
    ('address = "192.0.2.241"\nports', 'address = "192.0.2.251"\nports',
     "service[0].address", "192.0.2.251 is in no pool", "add it to the addresses of one"),
    ('"192.0.2.242"', '"2001:db8::ff:1"', "gateway[0].address", "in no pool", ""),
    ("{ port = 54,", "{ port = 53,", "service[0].ports[1].port", "already taken", ""),
    ('{ port = 53 }, { port = 54, name = "alt" }',
     '{ port = 53, name = "a" }, { port = 54, name = "a" }', "service[0].ports[1].name",
     "already taken", ""),
    ('"192.0.2.21", "192.0.2.22"', '"192.0.2.21", "192.0.2.21"', "service[0].backends[1]",
     "already taken", ""),
    ('"192.0.2.21", "192.0.2.22"', '"192.0.2.241"', "service[0].backends[0]", "to itself", ""),
    ('kind = "tcp"', 'kind = "tcp", path = "/x"', "service[1].health.path", "tcp check", "http"),
    ('kind = "tcp"', 'kind = "tcp", expect = [200]', "service[1].health.expect", "tcp check", ""),
    ("listen = [{ port = 80 }]", "listen = [{ port = 80 }, { port = 80 }]", "gateway[0].listen[1]",
     "already taken by gateway[0].listen[0]", ""),
    (BROKERS, BROKERS + '\nembedded = "0.0.0.0:53"', "mqtt.embedded", "port 53 on every address",
     "another port"),
    (BROKERS, BROKERS + '\nembedded = "192.0.2.242:80"', "mqtt.embedded", "already taken", ""),
    ('gateway = "front"', 'gateway = "fornt"', "route[0].gateway", 'there is no gateway "fornt"',
     'did you mean "front"?'),
    ('service = "web"', 'service = "wbe"', "route[0].backends[0].service",
     'there is no service "wbe"', 'did you mean "web"?'),
    ('service = "web"', 'service = "zzzz"', "route[0].backends[0].service", "there is no",
     "known: dns, web"),
    ('service = "web", port = 80', 'service = "dns", port = 55', "route[0].backends[0].port",
     'service "dns" has no port 55', "its TCP ports: 53, 54"),
    ('path_prefix = "/"', 'path_prefix = "/"\npath_exact = "/x"', "route[0].path_exact",
     "a route has one path", "two routes"),
    ('hosts = ["a.lan"]', 'hosts = ["a.lan", "A.LAN"]', "route[0].hosts[1]", "already taken", ""),
    ('backends = [{ service = "web", port = 80 }]',
     'backends = [{ service = "web" }, { service = "dns" }, { service = "web", weight = 2 }]',
     "route[0].backends[2]", "already taken by route[0].backends[0]", "one backend with both"),
    ('path_prefix = "/"', 'retries = { attempts = 1, on = ["503", "reset", "503"] }',
     "route[0].retries.on[2]", "already taken by route[0].retries.on[0]", "once"),
    ('path_prefix = "/"', 'sticky = { cookie = "a", ttl = "1500ms" }', "route[0].sticky.ttl",
     "whole seconds", '"1s"'),
    ('path_prefix = "/"', 'hash_on = "x-user"', "route[0].hash_on", "neither", ""),
    ('path_prefix = "/"', f'hash_on = "header:{"x" * 64}"', "route[0].hash_on", "longer than 63",
     ""),
    ('path_prefix = "/"', 'hash_on = "header:host"', "route[0].hash_on", "hosts", ""),
    ('path_prefix = "/"', 'hash_on = "cookie:a b"', "route[0].hash_on", "no name", ""),
    ('"192.0.2.250"]', '"192.0.2.250"]\ninterfaces = ["a", "b", "a"]', "pool[1].interfaces[2]",
     "already taken by pool[1].interfaces[0]", "once is enough"),
    ("ports = [{ port = 53 }", 'traffic_policy = "local"\nports = [{ port = 53 }',
     "service[0].traffic_policy", "no backend says which node", "node ="),
    ("ports = [{ port = 80 }]", 'traffic_policy = "local"\nports = [{ port = 80 }]',
     "service[1].traffic_policy", "none comes to a service", 'type = "load-balancer"'),
    ("[cluster]", '[election]\ncandidates = ["a", "a", "pi-9"]\n[cluster]',
     "election.candidates[1]", "already taken", ""),
]  # fmt: skip


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case[2])
def test_a_contradiction_is_one_error_at_its_place(
    errors: Problems, case: tuple[str, str, str, str, str]
) -> None:
    out, put, key, what, cure = case
    found = errors(GOOD.replace(out, put, 1))
    assert [problem.key for problem in found] == [key]
    assert what in found[0].what
    assert cure in found[0].cure
    assert found[0].line is not None


@pytest.mark.parametrize(
    ("line", "what", "cure"),
    [
        ('balance = "random-two"', 'balance = "random-two" of "web" looks at no hash', "maglev"),
        ('affinity = "client-ip"', 'affinity = "client-ip"', "leave one of the two out"),
    ],
)
def test_a_hash_has_to_choose(errors: Problems, line: str, what: str, cure: str) -> None:
    text = GOOD.replace('path_prefix = "/"', 'hash_on = "cookie:sid"')
    (found,) = errors(text.replace("ports = [{ port = 80 }]", f"ports = [{{ port = 80 }}]\n{line}"))
    assert found.key == "route[0].hash_on"
    assert what in found.what
    assert cure in found.cure


def test_a_route_has_sixteen_backends_at_most(errors: Problems) -> None:
    ports = [f"port = {port}" for port in range(80, 97)]
    many = ", ".join(f"{{ {port} }}" for port in ports)
    to_each = ", ".join(f'{{ service = "web", {port} }}' for port in ports)
    text = GOOD.replace("ports = [{ port = 80 }]", f"ports = [{many}]")
    text = text.replace('[{ service = "web", port = 80 }]', f"[{to_each}]")
    (found,) = errors(text)
    assert found.key == "route[0].backends"
    assert "17 backends, 16 at most" in found.what


@pytest.mark.parametrize("kind", ["pool", "service", "gateway", "route"])
def test_two_of_a_kind_cannot_have_one_name(errors: Problems, kind: str) -> None:
    start = GOOD.index(f"[[{kind}]]")
    end = GOOD.find("[[", start + 2)
    again = GOOD[start : end if end > 0 else None]
    (found,) = [problem for problem in errors(GOOD + again) if problem.key.endswith(".name")]
    assert found.what.endswith(f"is already taken by {kind}[0].name")


WARNINGS = [
    ('backends = ["192.0.2.21", "192.0.2.22"]', "", "service[0]", "has no backends"),
    ('backends = [{ service = "web", port = 80 }]', "", "route[0]", "answered with 500"),
    ('"web", port = 80 }]', '"web", weight = 0 }]', "route[0].backends", "a weight above 0"),
    (
        "[[route]]",
        '[[gateway]]\nname = "b"\naddress = "::1"\nlisten = [{ port = 80 }]\n[[route]]',
        "gateway[1]",
        "has no routes",
    ),
    (
        "[cluster]",
        '[election]\ncandidates = ["pi-1"]\n[cluster]',
        "election.candidates",
        "never owns a VIP",
    ),
    (
        "[cluster]",
        '[election]\ncandidates = ["pi-9", "a", "b", "c", "d", "e"]\n[cluster]',
        "election.candidates",
        "6 candidates",
    ),
    (BROKERS, 'brokers = ["mqtt://127.0.0.1"]', "mqtt.brokers", "the only broker is on this host"),
    (
        BROKERS,
        """brokers = ["mqtt://u@192.0.2.1", "mqtts://u@a", "mqtt://u@127.0.0.1"]
        password_file = "cluster.secret"
        """,
        "mqtt.password_file",
        "it goes to 192.0.2.1 unencrypted",
    ),
    (
        "[cluster]",
        '[election]\non_quorum_loss = "hold"\n[cluster]',
        "election.on_quorum_loss",
        "safe unless L2 splits",
    ),
    (
        '"192.0.2.21", "192.0.2.22"]',
        '{ address = "192.0.2.21", node = "pi-1" }, "192.0.2.22"]\ntraffic_policy = "local"',
        "service[0].backends[1]",
        "it gets no connection",
    ),
]


@pytest.mark.parametrize(("out", "put", "key", "what"), WARNINGS)
def test_what_is_hardly_meant_is_a_warning(
    load: Load, out: str, put: str, key: str, what: str
) -> None:
    (warning,) = load(GOOD.replace(out, put, 1)).warnings
    assert warning.key == key
    assert what in warning.what


def test_a_local_backend_on_a_node_that_is_no_candidate_is_a_warning(load: Load) -> None:
    text = GOOD.replace("[cluster]", '[election]\ncandidates = ["pi-9", "pi-1"]\n[cluster]')
    backends = '["192.0.2.21", "192.0.2.22"]'
    local = '[{ address = "192.0.2.21", node = "pi1" }]\ntraffic_policy = "local"'
    (warning,) = load(text.replace(backends, local)).warnings
    assert (warning.key, warning.cure) == ("service[0].backends[0].node", 'did you mean "pi-1"?')


def test_certificate_and_key_come_together(errors: Problems) -> None:
    for one, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        text = GOOD.replace(BROKERS, f'brokers = ["mqtts://a"]\n{one} = "none"')
        found = [problem for problem in errors(text) if "cannot read" not in problem.what]
        assert [(problem.key, problem.what) for problem in found] == [
            (f"mqtt.{one}", f"needs {other}, too")
        ]


def test_without_a_secret_only_brokers_on_127_are_allowed_and_a_warning_says_so(
    load: Load, errors: Problems
) -> None:
    bare = GOOD.replace('secret_file = "cluster.secret"', "")
    assert [problem.key for problem in errors(bare)] == [f"mqtt.brokers[{i}]" for i in range(3)]
    for i in (1, 2, 3):
        bare = bare.replace(f"mqtt://192.0.2.{i}", f"mqtt://127.0.{i}.1")
    loaded = load(bare)
    assert loaded.config.secrets == (b"",)
    assert [warning.key for warning in loaded.warnings] == ["cluster.secret_file"]
    for url in ("mqtt://[::1]", "mqtt://localhost", "mqtt://127.example.com"):
        found = errors(bare.replace("mqtt://127.0.1.1", url))
        assert [problem.key for problem in found] == ["mqtt.brokers[0]"]
    found = errors(bare.replace("[mqtt]", '[mqtt]\nembedded = "0.0.0.0:1883"'))
    assert [problem.key for problem in found] == ["mqtt.embedded"]


def test_a_broker_on_every_ipv4_address_leaves_ipv6_vips_their_ports(errors: Problems) -> None:
    for everywhere, clashes in (("0.0.0.0", 0), ("[::]", 1)):
        text = GOOD.replace(BROKERS, f'{BROKERS}\nembedded = "{everywhere}:80"')
        text = text.replace('"192.0.2.242"', '"2001:db8::f1"')
        assert [problem.key for problem in errors(text)] == ["mqtt.embedded"] * clashes


def test_loopback_vips_need_no_pool(load: Load) -> None:
    text = GOOD.replace("192.0.2.241", "127.0.0.9").replace("192.0.2.242", "::1")
    assert load(text).warnings == ()


def test_a_vip_in_a_file_without_pools_asks_for_one(errors: Problems) -> None:
    start, _, rest = GOOD.partition("[[pool]]")
    found = errors(start + rest[rest.index("[[service]]") :])
    assert [problem.key for problem in found] == ["service[0].address", "gateway[0].address"]
    assert all("[[pool]]" in problem.cure for problem in found)


def test_a_file_that_serves_nothing_is_a_warning(load: Load) -> None:
    start, _, _ = GOOD.partition("[[pool]]")
    (warning,) = load(start).warnings
    assert "listens on nothing" in warning.what


def test_what_could_not_be_read_is_not_reported_twice(errors: Problems, tmp_path: Path) -> None:
    found = errors(GOOD.replace('name = "front"', "name = 5").replace('"192.0.2.241"', '"x"'))
    assert {problem.key for problem in found} == {"gateway[0].name", "service[0].address"}
    found = errors(GOOD.replace('name = "web"', 'nmae = "web"'))
    assert [problem.key for problem in found] == ["service[1].name", "service[1].nmae"]
