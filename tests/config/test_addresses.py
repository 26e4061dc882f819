"""What the addresses of a file must be to each other, and to its pools."""

from __future__ import annotations

import pytest

from piagent.core import model
from tests.config.conftest import Load, Problems

BASE = """
[cluster]
secret_file = "cluster.secret"
[mqtt]
brokers = ["mqtt://192.0.2.1", "mqtt://192.0.2.2", "mqtt://192.0.2.3"]
"""
POOLS = """
[[pool]]
name = "lan"
addresses = ["192.0.2.240-192.0.2.249", "2001:db8::f0/124"]
[[pool]]
name = "kept"
addresses = ["192.0.2.250"]
auto_assign = false
[[pool]]
name = "inside"
type = "cluster"
addresses = ["10.96.0.0/24", "fd00:96::/120"]
"""
GOOD = BASE + POOLS


def service(name: str = "a", kind: str = "load-balancer", more: str = "", port: int = 80) -> str:
    return f"""
[[service]]
name = "{name}"
type = "{kind}"
ports = [{{ port = {port} }}]
backends = ["192.0.2.21"]
{more}
"""


def gateway(more: str, port: int = 80) -> str:
    return f"""
[[gateway]]
name = "g"
listen = [{{ port = {port} }}]
{more}
[[route]]
name = "all"
gateway = "g"
backends = [{{ service = "a" }}]
"""


BOTH = 'ip_family_policy = "prefer-dual"'
DUAL = f'address = ["192.0.2.240", "2001:db8::f0"]\n{BOTH}'
PLAIN = 'address = "192.0.2.240"'
SHARED = f'{PLAIN}\nsharing_key = "x"'

LOCAL = """
traffic_policy = "local"
"""
ON_NODE = 'backends = [{ address = "192.0.2.21", node = "pi-1" }]'

FINE = {
    "local on one address, with the same backends": (
        service(more=SHARED + LOCAL).replace('backends = ["192.0.2.21"]', ON_NODE)
        + service("b", more=SHARED + LOCAL, port=81).replace('backends = ["192.0.2.21"]', ON_NODE)
    ),
    "on one address, with other backends": (
        service(more=SHARED) + service("b", more=SHARED, port=81).replace("0.2.21", "0.2.22")
    ),
    "an address of each version": service(more=DUAL),
    "a list of one": service(more='address = ["192.0.2.240"]'),
    "an address of a pool that gives none by itself": service(more='address = "192.0.2.250"'),
    "address and pool agree": service(more=f'{DUAL}\npool = "lan"'),
    "no address and a pool that gives one": service(),
    "no address, from a pool that gives one when it is named": service(more='pool = "kept"'),
    "a cluster address": service(kind="cluster", more='address = "10.96.0.9"'),
    "a node-port service's": service(kind="node-port", more='address = "fd00:96::9"'),
    "of loopback, wherever the pools are": service(kind="cluster", more='address = "127.9.9.9"'),
    "two services on one address, with one key": (
        service(more=SHARED) + service("b", more=SHARED, port=81)
    ),
    "a gateway and a service on one address": service(more=SHARED) + gateway(SHARED, 8080),
    "TCP and UDP on one address and one port number": (
        service(more=SHARED)
        + service("b", more=SHARED).replace("port = 80", 'port = 80, protocol = "udp"')
    ),
    "a version that the address has": service(more=f'{PLAIN}\nip_families = ["ipv4"]'),
    "the other version besides the address": (
        service(more=f'{PLAIN}\nip_families = ["ipv6"]\nip_family_policy = "prefer-dual"')
    ),
}


@pytest.mark.parametrize("text", FINE.values(), ids=FINE)
def test_it_is_taken(load: Load, text: str) -> None:
    assert load(GOOD + text).warnings == ()


ERRORS = {
    # what is wrong: (text, key of the one error, part of what, part of the cure)
    "a VIP of a cluster pool": (
        service(more='address = "10.96.0.9"'), "service[0].address",
        '10.96.0.9 is in pool "inside", whose type is "cluster"', 'type = "load-balancer"'),
    "a cluster address of the VIPs' pool": (
        service(kind="cluster", more=PLAIN), "service[0].address",
        '192.0.2.240 is in pool "lan", whose type is "load-balancer"', 'type = "cluster"'),
    "a node-port service with a VIP": (
        service(kind="node-port", more=PLAIN), "service[0].address",
        'whose type is "load-balancer"', 'type = "cluster"'),
    "a gateway on a cluster address": (
        service(kind="cluster") + gateway('address = "10.96.0.9"'), "gateway[0].address",
        'whose type is "cluster"', 'type = "load-balancer"'),
    "the second address is in no pool": (
        service(more=f'address = ["192.0.2.240", "2001:db9::1"]\n{BOTH}'), "service[0].address[1]",
        "2001:db9::1 is in no pool", "add it"),
    "two IPv4 addresses": (
        service(more='address = ["192.0.2.240", "192.0.2.241"]'), "service[0].address",
        "two addresses of one IP version", "one IPv4 and one IPv6 address"),
    "two IPv6 addresses of a gateway": (
        service(kind="cluster") + gateway('address = ["2001:db8::f0", "2001:db8::f1"]'),
        "gateway[0].address", "two addresses of one IP version", "one IPv4 and one IPv6"),
    "a pool that there is not": (
        service(more='pool = "lam"'), "service[0].pool",
        'there is no pool "lam" with type = "load-balancer"', 'did you mean "lan"?'),
    "a pool that is nothing like any": (
        service(more='pool = "zz"'), "service[0].pool", 'there is no pool "zz"',
        "known: kept, lan"),
    "a pool of the other type": (
        service(kind="cluster", more='pool = "lan"'), "service[0].pool",
        'there is no pool "lan" with type = "cluster"', "known: inside"),
    "an address of another pool than the named": (
        service(more='address = "192.0.2.250"\npool = "lan"'), "service[0].pool",
        '192.0.2.250 is not in pool "lan"', "make them agree"),
    "a loopback address, and a pool": (
        service(more='address = "127.0.0.9"\npool = "lan"'), "service[0].pool",
        '127.0.0.9 is not in pool "lan"', "leave one of the two out"),
    "an address of no pool, and a pool": (
        service(more='address = "192.0.2.251"\npool = "lan"'), "service[0].address",
        "192.0.2.251 is in no pool", "add it"),
    "a shared address without a key": (
        service(more=PLAIN) + service("b", more=PLAIN, port=81), "service[1].sharing_key",
        "192.0.2.240 is also service[0]'s", 'write sharing_key = "a" in both'),
    "a shared address where one has a key": (
        service(more=SHARED) + service("b", more=PLAIN, port=81), "service[1].sharing_key",
        "192.0.2.240 is also service[0]'s", 'write sharing_key = "x" in both'),
    "a shared address with two keys": (
        service(more=SHARED) + service("b", more=f'{PLAIN}\nsharing_key = "y"', port=81),
        "service[1].sharing_key", "192.0.2.240 is also service[0]'s", 'sharing_key = "x"'),
    "a shared cluster address without a key": (
        service(kind="cluster", more='address = "10.96.0.9"')
        + service("b", "node-port", 'address = "10.96.0.9"', port=81),
        "service[1].sharing_key", "10.96.0.9 is also service[0]'s", 'sharing_key = "a"'),
    "a gateway that shares without a key": (
        service(more=PLAIN) + gateway(PLAIN, 8080), "gateway[0].sharing_key",
        "192.0.2.240 is also service[0]'s", 'sharing_key = "a"'),
    "shared, and local on one side": (
        service(more=SHARED)
        + service("b", more=SHARED + LOCAL, port=81).replace('backends = ["192.0.2.21"]', ON_NODE),
        "service[1].sharing_key", "with another traffic_policy", "the same one for both"),
    "shared with a gateway, which uses all backends": (
        service(more=SHARED + LOCAL).replace('backends = ["192.0.2.21"]', ON_NODE)
        + gateway(SHARED, 8080),
        "gateway[0].sharing_key", "with another traffic_policy", "the same one for both"),
    "shared, local, and with other backends": (
        service(more=SHARED + LOCAL).replace('backends = ["192.0.2.21"]', ON_NODE)
        + service("b", more=SHARED + LOCAL, port=81).replace(
            'backends = ["192.0.2.21"]', ON_NODE.replace(".21", ".22")),
        "service[1].sharing_key", "192.0.2.240 is also service[0]'s, which has other backends",
        "the same ones for both"),
    "shared, and one port twice": (
        service(more=SHARED) + service("b", more=SHARED), "service[1].ports[0]",
        '"192.0.2.240:80" is already taken by service[0].ports[0]', "another port or address"),
    "shared by a gateway, and one port twice": (
        service(more=SHARED) + gateway(SHARED), "gateway[0].listen[0]",
        '"192.0.2.240:80" is already taken by service[0].ports[0]', "another port or address"),
    "one IP version twice": (
        service(more='ip_families = ["ipv6", "ipv6"]'), "service[0].ip_families[1]",
        '"ipv6" is already taken by service[0].ip_families[0]', "once is enough"),
    "an address of the other version": (
        service(more=f'{PLAIN}\nip_families = ["ipv6"]'), "service[0].ip_families",
        '"ipv6" first, and the address is ipv4', "leave it out"),
    "two addresses where there is to be one": (
        service(more='address = ["192.0.2.240", "2001:db8::f0"]'), "service[0].address",
        "two addresses, and a service has one", 'ip_family_policy = "require-dual"'),
    "one address where there are to be two": (
        service(more=f'{PLAIN}\nip_family_policy = "require-dual"'), "service[0].address",
        "service[0].ip_family_policy requires two", "or none"),
    "addresses of two pools": (
        service(more=f'address = ["192.0.2.250", "2001:db8::f0"]\n{BOTH}'), "service[0].address",
        "192.0.2.250 and 2001:db8::f0 are of two pools", "one pool"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_it_is_one_error_at_its_place(errors: Problems, case: tuple[str, str, str, str]) -> None:
    text, key, what, cure = case
    (found,) = errors(GOOD + text)
    assert found.key == key
    assert what in found.what
    assert cure in found.cure
    line = (GOOD + text).splitlines()[(found.line or 0) - 1]
    last = key.rpartition(".")[2].partition("[")[0]
    assert last in line or line in {"[[service]]", "[[gateway]]"}


def test_a_range_within_another_hides_no_overlap(errors: Problems) -> None:
    pools = GOOD.replace('["192.0.2.250"]', '["192.0.2.241", "192.0.2.248"]')
    found = errors(pools + service(kind="cluster"))
    assert [problem.key for problem in found] == ["pool[1].addresses[0]", "pool[1].addresses[1]"]
    assert {problem.what for problem in found} == {"overlaps pool[0].addresses[0]"}


def test_where_no_pool_gives_a_vip_the_address_must_be_there(errors: Problems) -> None:
    for pools in ("", POOLS[POOLS.index('[[pool]]\nname = "kept"') :]):
        (found,) = errors(BASE + pools + service())
        assert (found.key, found.line) == (
            "service[0].address",
            BASE.count("\n") + pools.count("\n") + 2,
        )
        assert found.what == "has no address, and no pool gives one by itself"
        assert "auto_assign = true" in found.cure
        (found,) = errors(BASE + pools + service(kind="cluster") + gateway(""))
        assert found.key == "gateway[0].address"


def test_a_cluster_service_without_pools_is_reached_by_routes_only(load: Load) -> None:
    text = BASE + POOLS[: POOLS.index('[[pool]]\nname = "inside"')]
    assert load(text + service(kind="cluster") + gateway(PLAIN)).warnings == ()


def test_a_cluster_address_without_pools_asks_for_one_of_its_type(errors: Problems) -> None:
    (found,) = errors(BASE + service(kind="cluster", more='address = "10.96.0.9"'))
    assert found.key == "service[0].address"
    assert 'type = "cluster" and addresses = ["10.96.0.9"]' in found.cure


@pytest.mark.parametrize(
    "text",
    [
        service(kind="cluser", more=PLAIN),
        service(more=f"{PLAIN}\npool = 5"),
        service(more=f"{PLAIN}\nsharing_key = 5") + service("b", more=SHARED, port=81),
        service(more=f'{PLAIN}\nip_families = ["ipv5"]'),
        service(more='address = ["192.0.2.240", "x"]'),
        service(kind="external", more='address = "192.0.2.251"\nexternal_name = "a.example"')
        .replace("ports = [{ port = 80 }]", "").replace('backends = ["192.0.2.21"]', ""),
    ],
)  # fmt: skip
def test_what_has_been_reported_is_not_followed_up(errors: Problems, text: str) -> None:
    assert len(errors(GOOD + text)) == 1


@pytest.mark.parametrize(
    ("out", "put"),
    [
        ('type = "cluster"', 'type = "clutser"'),
        ("auto_assign = false", "auto_assign = 0"),
        ('name = "lan"', "name = 5"),
    ],
)
def test_a_pool_that_was_not_read_is_no_reason_for_more(
    errors: Problems, out: str, put: str
) -> None:
    text = service(more=f'{PLAIN}\npool = "lan"') + service("b", "cluster", 'pool = "inside"')
    assert len(errors(GOOD.replace(out, put) + text)) == 1


def test_a_file_that_asks_for_everything_is_read_into_the_model(load: Load) -> None:
    asks = """
address = ["2001:DB8::F0", "192.0.2.240"]
pool = "lan"
sharing_key = "x"
ip_family_policy = "require-dual"
ip_families = ["ipv6", "ipv4"]
labels = { tier = "front" }
"""
    pool = 'avoid_buggy_ips = true\npriority = 7\ndisabled = true\nservices = { tier = "front" }'
    pools = GOOD.replace("auto_assign = false", f"auto_assign = false\n{pool}")
    text = service(more=f'{asks}affinity = "client-ip"\nnode_ports = false') + gateway(asks, 8080)
    config = load(pools + text).config
    (made,), (entry,) = config.services, config.gateways
    for one in (made, entry):
        assert one.vips == ("2001:db8::f0", "192.0.2.240")
        assert (one.pool, one.sharing_key) == ("lan", "x")
        assert (one.families, one.first_family) == (model.Families.REQUIRE_DUAL, 6)
        assert one.labels == {"tier": "front"}
    assert made.cluster_ips == ()
    assert (made.proxying.affinity_ms, made.node_ports) == (10_800_000, False)
    lan, kept, inside = config.pools
    assert (lan.auto_assign, lan.avoid_buggy_ips, lan.priority, lan.disabled) == (
        True,
        False,
        0,
        False,
    )
    assert (kept.auto_assign, kept.avoid_buggy_ips, kept.priority, kept.disabled) == (
        False,
        True,
        7,
        True,
    )
    assert (lan.services, kept.services) == ({}, {"tier": "front"})
    assert [pool.type for pool in config.pools] == ["load-balancer", "load-balancer", "cluster"]
    assert config.pool_of("fd00:96::9") is inside


def test_the_address_of_every_other_type_is_a_cluster_address(load: Load) -> None:
    text = service(kind="cluster", more='address = "10.96.0.9"')
    text += service("b", "node-port", f'address = ["fd00:96::9", "10.96.0.8"]\n{BOTH}')
    config = load(GOOD + text).config
    assert [one.vips for one in config.services] == [(), ()]
    assert config.cluster_ips() == ("10.96.0.8", "10.96.0.9", "fd00:96::9")
    assert config.vips() == ()
