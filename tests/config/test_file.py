"""A whole file: what it gives, what it may lack, how it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from piagent.config import ConfigError, Loaded, Problem, parse
from piagent.config import load as load_file
from piagent.config.file import SOCKET_PATH_MAX
from piagent.core import model
from tests.config.conftest import HOST, Load, Problems

MINIMAL = """
[cluster]
secret_file = "cluster.secret"
[mqtt]
brokers = ["mqtt://192.0.2.1"]
[[pool]]
name = "lan"
addresses = ["192.0.2.240/28"]
[[service]]
name = "dns"
type = "load-balancer"
address = "192.0.2.241"
ports = [{ port = 53 }]
backends = ["192.0.2.21"]
"""

FULL = """
[node]
name = "pi-1"
interface = "eth0"
vip_weight = 7
workers = 2
zone = "shelf-a"
labels = { rack = "a", disk = "ssd.2" }
vip_eligible = "wired-only"
[cluster]
name = "lab"
secret_file = "cluster.secret"
[mqtt]
brokers = ["mqtt://me@192.0.2.1", "mqtt://broker.lan.:1884", "mqtt://me@[2001:DB8::1]:1885/"]
password_file = "password"
embedded = "[::]:1883"
[election]
profile = "wifi"
lease = "4s"
renew = "750ms"
candidates = ["pi-1", "pi-2"]
on_quorum_loss = "hold"
preempt = "1m"
rebalance = "off"
drain = "2s"
[admin]
socket = "run/../admin.sock"
[[pool]]
name = "lan"
addresses = ["192.0.2.240-192.0.2.241", "192.0.2.250", "2001:db8::f0/127"]
announce = "none"
nodes = { rack = "a" }
interfaces = ["eth0", "eth1"]
conflict = "defend"
[[service]]
name = "web"
ports = [{ port = 80, name = "http", target_port = 8080 }, { port = 81 }]
backends = ["192.0.2.21", { address = "2001:DB8:0::21", weight = 0 }]
[service.health]
kind = "http"
interval = "1.5s"
timeout = "200ms"
rise = 1
fall = 4
port = 9
path = "/up?x"
expect = [200, 204]
[[service]]
name = "dns"
type = "load-balancer"
address = "2001:db8:0:0::f1"
ports = [{ port = 53 }]
backends = [{ address = "192.0.2.21", node = "pi-1" }]
health = { kind = "tcp" }
traffic_policy = "local"
[[gateway]]
name = "front"
address = "192.0.2.241"
listen = [{ port = 80 }, { port = 8000 }]
wildcard = "any-depth"
[[route]]
name = "a"
gateway = "front"
hosts = ["WWW.Example.com.", "*.Lan"]
path_prefix = "/v1/"
backends = [{ service = "web", port = 81, weight = 9 }, { service = "dns" }]
timeouts = { request = "1m", backend = "0s" }
retries = { attempts = 3, on = ["503", "connect-failure"], backoff = "5ms" }
sticky = { cookie = "sid", ttl = "1h" }
hash_on = "header:X-User"
[[route]]
name = "b"
gateway = "front"
path_exact = "/"
"""


TIMING = model.Timing(
    lease_ms=4000, renew_ms=750, wait_ms=4100, guard_ms=200, attempt_ms=400, stagger_ms=80,
    lag_ms=1000,
)  # fmt: skip
WEB = model.Service(
    name="web",
    type=model.ServiceType.CLUSTER,
    ports=(
        model.ServicePort(name="http", port=80, target_port=8080),
        model.ServicePort(name="81", port=81, target_port=81),
    ),
    backends=(
        model.Backend(address="192.0.2.21"),
        model.Backend(address="2001:db8::21", weight=0),
    ),
    health=model.HealthCheck(
        kind=model.HealthKind.HTTP, interval_ms=1500, timeout_ms=200, rise=1, fall=4, port=9,
        path="/up?x", expect=(200, 204),
    ),
)  # fmt: skip
DNS = model.Service(
    name="dns",
    type=model.ServiceType.LOAD_BALANCER,
    vips=("2001:db8::f1",),
    ports=(model.ServicePort(name="53", port=53, target_port=53),),
    backends=(model.Backend(address="192.0.2.21", node="pi-1"),),
    health=model.HealthCheck(),
    traffic_policy=model.TrafficPolicy.LOCAL,
)
ROUTES = (
    model.Route(
        name="a", gateway="front", hosts=("www.example.com", "*.lan"),
        path_kind=model.PathKind.PREFIX, path="/v1/",
        backends=(
            model.RouteBackend(service="web", port=81, weight=9), model.RouteBackend(service="dns")
        ),
        request_timeout_ms=60_000, backend_timeout_ms=0,
        retries=model.Retries(
            attempts=3, on=(model.RetryOn.CONNECT_FAILURE,), statuses=(503,), backoff_ms=5
        ),
        sticky=model.Sticky(cookie="sid", ttl_ms=3_600_000),
        hash_on=model.HashOn(name="x-user"),
    ),
    model.Route(
        name="b", gateway="front", hosts=(), path_kind=model.PathKind.EXACT, path="/",
        backends=(),
    ),
)  # fmt: skip


def test_a_file_is_read_into_the_model(load: Load, folder: Path) -> None:
    (folder / "password").write_text("pass word\n")
    (folder / "password").chmod(0o600)
    assert load(FULL).config == model.Config(
        node=model.Node(
            name="pi-1", interface="eth0", vip_weight=7, workers=2, zone="shelf-a",
            labels={"rack": "a", "disk": "ssd.2"}, wired_only=True,
        ),
        cluster="lab",
        secrets=(b"0123456789abcdef0123456789abcdef",),
        mqtt=model.Mqtt(
            brokers=(
                model.Broker(label="b1", host="192.0.2.1", port=1883, username="me"),
                model.Broker(label="b2", host="broker.lan", port=1884),
                model.Broker(label="b3", host="2001:db8::1", port=1885, username="me"),
            ),
            password="pass word",
            embedded=model.Listen(address="::", port=1883),
        ),
        election=model.Election(
            profile="wifi", timing=TIMING, candidates=("pi-1", "pi-2"),
            on_quorum_loss=model.QuorumLoss.HOLD, preempt_ms=60_000, rebalance_ms=None,
            drain_ms=2000,
        ),
        admin_socket=str(folder / "admin.sock"),
        pools=(
            model.Pool(
                name="lan",
                addresses=(
                    model.AddressRange(first="192.0.2.240", last="192.0.2.241"),
                    model.AddressRange(first="192.0.2.250", last="192.0.2.250"),
                    model.AddressRange(first="2001:db8::f0", last="2001:db8::f1"),
                ),
                announce=model.Announce.NONE,
                nodes={"rack": "a"},
                interfaces=("eth0", "eth1"),
                conflict=model.Conflict.DEFEND,
            ),
        ),
        services=(WEB, DNS),
        gateways=(
            model.Gateway(
                name="front", vips=("192.0.2.241",), ports=(80, 8000),
                wildcard=model.Wildcard.ANY_DEPTH,
            ),
        ),
        routes=ROUTES,
    )  # fmt: skip


def test_what_is_left_out_comes_from_the_host_or_has_a_default(load: Load) -> None:
    loaded = load(MINIMAL)
    config = loaded.config
    assert loaded.warnings == ()
    assert config.node == model.Node(name="pi-9", interface="eth9", vip_weight=100, workers=3)
    assert config.cluster == "home"
    assert config.election.profile == "normal"
    assert config.election.timing.wait_ms == 1550
    assert config.admin_socket == "/run/piagent/admin.sock"
    election = config.election
    assert election.on_quorum_loss is model.QuorumLoss.RELEASE
    assert (election.preempt_ms, election.rebalance_ms, election.drain_ms) == (None, 30_000, 10_000)
    assert config.pools[0].conflict is model.Conflict.YIELD
    assert config.services[0].traffic_policy is model.TrafficPolicy.CLUSTER
    assert config.services[0].health is None
    assert config.gateways == config.routes == ()


def test_all_errors_of_a_file_come_at_once_in_its_order(errors: Problems) -> None:
    text = MINIMAL.replace("[cluster]", "[node]\nnmae = 1\n[cluster]\ncolour = 2")
    text = text.replace('"192.0.2.21"', '"192.0.2.300"').replace("port = 53", "port = 0")
    found = errors(text + '[[route]]\nname = "r"\ngateway = "web"\n')
    assert [(problem.line, problem.key) for problem in found] == [
        (3, "node.nmae"),
        (5, "cluster.colour"),
        (16, "service[0].ports[0].port"),
        (17, "service[0].backends[0]"),
        (20, "route[0].gateway"),
    ]


def test_an_error_names_file_line_key_reason_and_cure(errors: Problems, folder: Path) -> None:
    (problem,) = errors(MINIMAL.replace("[[pool]]", "[node]\nworkesr = 2\n[[pool]]"))
    file = str(folder / "pi.toml")
    what, cure = "unknown key in [node]", 'did you mean "workers"?'
    assert problem == Problem(file, 7, None, "node.workesr", what, cure)
    assert str(problem) == f"{file}:7: node.workesr: {what}; {cure}"


def test_the_text_of_the_error_lists_them_all(load: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        load("[mqtt]\nbrokers = []\n[nodes]\n")
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.errors]
    assert len(caught.value.errors) == 2


@pytest.mark.parametrize(
    ("data", "line", "column", "what"),
    [
        (b"[node\n", 1, 6, "not TOML: Expected ']'"),
        (b"a = 1\nb == 2\n", 2, 4, "not TOML: Invalid value"),
        (b"a = 1\na = 2\n", 2, 6, "not TOML: Cannot overwrite a value"),
        (b"a = 1\n\nb = ", 3, None, "not TOML: Invalid value at the end of the file"),
        (b"a = 'x\xff'\n", 1, 7, "byte 0xff is not UTF-8"),
        (b"a = 1\n\xff", 2, 1, "byte 0xff is not UTF-8"),
    ],
)
def test_broken_toml_is_placed_by_line_and_column(
    data: bytes, line: int, column: int | None, what: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(data, "pi.toml", HOST)
    (problem,) = caught.value.errors
    assert (problem.line, problem.column) == (line, column)
    assert problem.what.startswith(what)


@pytest.mark.parametrize("data", [b"a = " + b"[" * 100_000, b"a = " + b"9" * 5000])
def test_toml_beyond_reason_is_an_error(data: bytes) -> None:
    with pytest.raises(ConfigError, match="not TOML"):
        parse(data, "pi.toml", HOST)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot read it: No such file"):
        load_file(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot read it: Is a directory"):
        load_file(tmp_path)
    with pytest.raises(ConfigError, match="cannot read it: embedded null byte"):
        load_file("a\0b")


def test_a_file_is_loaded_with_the_defaults_of_this_host(folder: Path) -> None:
    (folder / "pi.toml").write_text(MINIMAL.replace("[cluster]", '[node]\nname = "a"\n[cluster]'))
    config = load_file(folder / "pi.toml").config
    assert config.node.name == "a"
    assert config.node.workers >= 1


def test_a_host_name_that_is_no_name_asks_for_one() -> None:
    with pytest.raises(ConfigError, match=r'node\.name: the host\'s name: "a b" is not a name'):
        parse(b'[mqtt]\nbrokers=["mqtt://127.0.0.1"]', "x", replace_name("a b"))
    parse(b'node.name = "a"\n[mqtt]\nbrokers=["mqtt://127.0.0.1"]', "x", replace_name("a b"))


def replace_name(name: str) -> Any:
    return type(HOST)(name=name, interface=None, cpus=1)


def test_an_interface_that_nothing_tells_is_a_warning_where_vips_need_one(folder: Path) -> None:
    def warnings(text: str) -> list[str]:
        found = parse(text.encode(), str(folder / "x"), replace_name("a")).warnings
        return [warning.key for warning in found]

    assert warnings(MINIMAL) == ["node.interface"]
    assert warnings(MINIMAL + "[node]\nvip_weight = 0") == []
    assert warnings(MINIMAL + '[node]\ninterface = "eth0"') == []
    assert warnings(MINIMAL.replace("192.0.2.241", "127.0.0.5")) == []


def test_the_sockets_path_must_fit(errors: Problems) -> None:
    def socket(size: int) -> tuple[Problem, ...]:
        return errors(MINIMAL + f'[admin]\nsocket = "/{"x" * (size - 1)}"\n')

    assert socket(SOCKET_PATH_MAX) == ()
    assert [problem.key for problem in socket(SOCKET_PATH_MAX + 1)] == ["admin.socket"]


def test_routes_that_nothing_reaches_are_a_warning(load: Load, folder: Path) -> None:
    (folder / "password").write_text("p")
    (folder / "password").chmod(0o600)
    text = FULL + '[[route]]\nname = "0"\ngateway = "front"\nhosts = ["*.lan"]\npath_prefix = "/v1"'
    found = [problem for problem in load(text).warnings if "takes all" in problem.what]
    assert [(problem.key, problem.what) for problem in found] == [
        ("route[0]", '"0" takes all its requests for *.lan')
    ]


TOML_KEYS = st.sampled_from(
    ["mqtt", "node", "pool", "service", "gateway", "route", "name", "ports", "port", "brokers",
     "addresses", "address", "backends", "hosts", "listen", "health", "timeouts", "kind", "labels",
     "nodes", "node", "zone", "traffic_policy", "cert_file", "key_file", "ca_file", "x"]
)  # fmt: skip
TOML_VALUES = st.recursive(
    st.sampled_from(["1", "-1", "1.5", "true", "nan", '""', '"a"', '"1s"', '"192.0.2.1"',
                     '"mqtt://h"', '"mqtts://h"', '"off"', '"local"', '"/dev/null"',
                     "1979-05-27", "[]", "{}", '"load-balancer"', '"/a/../b"'])
    | st.text(max_size=5).map(lambda text: "'" + text.replace("'", "") + "'"),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]")
    | st.dictionaries(TOML_KEYS, inner, max_size=3).map(
        lambda table: "{" + ",".join(f"{key}={value}" for key, value in table.items()) + "}"
    ),
    max_leaves=6,
)  # fmt: skip
TOML_LINES = st.one_of(
    TOML_KEYS.map(lambda key: f"[{key}]"),
    TOML_KEYS.map(lambda key: f"[[{key}]]"),
    st.tuples(TOML_KEYS, TOML_KEYS).map(lambda keys: f"[[{keys[0]}.{keys[1]}]]"),
    st.tuples(TOML_KEYS, TOML_VALUES).map(lambda pair: f"{pair[0]} = {pair[1]}"),
)


def holds(data: bytes) -> None:
    """Check that the loader answers with a Loaded or a ConfigError that says something."""
    try:
        assert isinstance(parse(data, "/nowhere/pi.toml", HOST), Loaded)
    except ConfigError as error:
        assert error.errors
        assert all(problem.what for problem in error.errors)
        count = data.count(b"\n") + 1
        assert all(1 <= (problem.line or 1) <= count for problem in error.errors)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
@example(b"[[mqtt]]")
@example(b"mqtt.brokers = 3")
def test_random_bytes_are_a_configuration_or_an_error(data: bytes) -> None:
    holds(data)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(TOML_LINES, max_size=12).map("\n".join))
def test_random_toml_is_a_configuration_or_an_error(text: str) -> None:
    holds(text.encode())


LINES = FULL.splitlines()


@settings(max_examples=200)
@given(data=st.data())
def test_a_good_file_with_one_line_changed_is_a_configuration_or_an_error(
    data: st.DataObject,
) -> None:
    lines = list(LINES)
    at = data.draw(st.integers(0, len(lines) - 1))
    key = lines[at].partition("=")[0]
    lines[at] = data.draw(TOML_VALUES.map(lambda value: f"{key} = {value}") | TOML_LINES)
    holds("\n".join(lines).encode())
