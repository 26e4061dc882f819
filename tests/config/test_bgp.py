"""[bgp], the routers, and the pools whose addresses they are told of."""

from __future__ import annotations

from pathlib import Path

import pytest

from piagent.config import parse
from piagent.config.host import Host
from piagent.core.model import BgpPeer
from tests.config.conftest import Load, Problems

FILE = """
[node]
labels = { rack = "a" }

[cluster]
secret_file = "cluster.secret"

[mqtt]
brokers = ["mqtt://192.0.2.1", "mqtt://192.0.2.2", "mqtt://192.0.2.3"]

[bgp]
asn = 64512
router_id = "192.0.2.21"

[[bgp.peers]]
name = "router"
address = "192.0.2.1"
asn = 64500

[[pool]]
name = "vips"
addresses = ["198.51.100.0/28"]
announce = "bgp"

[[service]]
name = "web"
type = "load-balancer"
address = "198.51.100.1"
ports = [{ port = 80 }]
backends = ["192.0.2.31"]
"""


def changed(old: str, new: str) -> str:
    assert old in FILE
    return FILE.replace(old, new)


def with_pool(line: str) -> str:
    return changed('announce = "bgp"', f'announce = "bgp"\n{line}')


def with_bgp(line: str) -> str:
    return changed('router_id = "192.0.2.21"', f'router_id = "192.0.2.21"\n{line}')


def with_peer(line: str) -> str:
    return changed("asn = 64500", f"asn = 64500\n{line}")


def test_a_router_has_what_the_file_says_and_else_the_defaults(load: Load) -> None:
    loaded = load(FILE)
    assert loaded.warnings == ()
    bgp = loaded.config.bgp
    assert bgp is not None
    assert (bgp.asn, bgp.router_id, bgp.next_hops) == (64512, "192.0.2.21", ())
    assert bgp.peers == (BgpPeer(name="router", address="192.0.2.1", asn=64500, hold_s=9),)
    assert loaded.config.routed_vips() == ("198.51.100.1",)
    assert loaded.config.vips() == ()


def test_everything_can_be_said(load: Load, folder: Path) -> None:
    (folder / "md5").write_text("the router's password\n")
    (folder / "md5").chmod(0o600)
    text = with_peer(
        'port = 1790\npassword_file = "md5"\nsource_address = "192.0.2.21"\nmultihop = 2\n'
        'hold_time = "30s"\nnodes = { rack = "a" }'
    ).replace('announce = "bgp"', 'announce = "bgp"\ncommunities = ["64512:100", "no-export", '
        '"4200000000:1:2"]\npeers = ["router"]')  # fmt: skip
    config = load(text).config
    assert config.bgp is not None
    assert config.bgp.peers == (
        BgpPeer(
            name="router",
            address="192.0.2.1",
            asn=64500,
            hold_s=30,
            port=1790,
            password="the router's password",
            source_address="192.0.2.21",
            multihop=2,
            nodes={"rack": "a"},
        ),
    )
    assert config.pools[0].communities == ("64512:100", "65535:65281", "4200000000:1:2")
    assert config.pools[0].peers == ("router",)


def test_the_router_id_is_the_first_ipv4_address_of_the_interface(folder: Path) -> None:
    text = changed('router_id = "192.0.2.21"', "").encode()
    host = Host(name="pi-9", interface="eth9", cpus=3, ipv4={"eth9": "192.0.2.99"})
    bgp = parse(text, str(folder / "pi.toml"), host).config.bgp
    assert bgp is not None
    assert bgp.router_id == "192.0.2.99"


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        (changed('router_id = "192.0.2.21"', ""), "bgp.router_id", "no IPv4 address"),
        (changed('"192.0.2.21"', '"fd00::1"'), "bgp.router_id", "not written as an IPv4"),
        (changed('"192.0.2.21"', '"0.0.0.0"'), "bgp.router_id", "identifies nobody"),
        (with_bgp('hold_time = "2s"'), "bgp.hold_time", "no Hold Time"),
        (with_bgp('hold_time = "3500ms"'), "bgp.hold_time", "no Hold Time"),
        (with_bgp('hold_time = "19h"'), "bgp.hold_time", "no Hold Time"),
        (with_bgp('next_hop = ["192.0.2.1", "192.0.2.2"]'), "bgp.next_hop[1]", "already"),
        (changed("64512", "0"), "bgp.asn", "expected the number of an autonomous system"),
        (changed("64512", "4294967296"), "bgp.asn", "expected the number"),
        (changed("64512", "4294967295"), "bgp.asn", "reserved"),
        (changed("64500", "23456"), "bgp.peers[0].asn", "reserved"),
        (with_peer("multihop = 256"), "bgp.peers[0].multihop", "expected a number of hops"),
        (with_peer('source_address = "fd00::1"'), "bgp.peers[0].source_address", "IP version"),
        (with_peer('password_file = "gone"'), "bgp.peers[0].password_file", "cannot read"),
        (
            with_peer('[[bgp.peers]]\nname = "router"\naddress = "192.0.2.9"\nasn = 1'),
            "bgp.peers[1].name",
            "already taken",
        ),
        (
            with_peer('[[bgp.peers]]\nname = "other"\naddress = "192.0.2.1"\nasn = 1'),
            "bgp.peers[1].address",
            "already taken",
        ),
        (with_pool('communities = ["1:65536"]'), "pool[0].communities[0]", "up to 65535"),
        (with_pool('communities = ["1:2:4294967296"]'), "pool[0].communities[0]", "4294967295"),
        (with_pool('communities = ["1:-2"]'), "pool[0].communities[0]", "not a community"),
        (with_pool('communities = ["noexport"]'), "pool[0].communities[0]", "not a community"),
        (
            with_pool('communities = ["no-export", "65535:65281"]'),
            "pool[0].communities[1]",
            "already taken",
        ),
        (with_pool('peers = ["ruoter"]'), "pool[0].peers[0]", 'no router "ruoter"'),
        (changed('announce = "bgp"', "local_pref = 1"), "pool[0].local_pref", "not to routers"),
        (changed('.0/28"', '.0/28", "fd09::/124"'), "pool[0].addresses", "IPv6"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_at_its_place(
    errors: Problems, text: str, key: str, what: str
) -> None:
    found = errors(text)
    assert [problem.key for problem in found] == [key]
    assert what in found[0].what
    assert found[0].cure
    assert found[0].line


def test_a_pool_for_routers_needs_to_know_them(errors: Problems) -> None:
    start, end = FILE.index("[bgp]"), FILE.index("[[pool]]")
    (problem,) = errors(FILE[:start] + FILE[end:])
    assert problem.key == "pool[0].announce"
    assert "[[bgp.peers]]" in problem.cure
    (problem,) = errors(FILE[: FILE.index("[[bgp.peers]]")] + FILE[end:])
    assert problem.key == "bgp.peers"


def test_a_password_longer_than_the_kernel_takes_is_refused(errors: Problems, folder: Path) -> None:
    (folder / "md5").write_text("x" * 81)
    (folder / "md5").chmod(0o600)
    (problem,) = errors(with_peer('password_file = "md5"'))
    assert "more than 80 bytes" in problem.what


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        (with_peer('nodes = { rack = "b" }'), "bgp.peers", "announces nothing"),
        (with_pool("local_pref = 200"), "pool[0].local_pref", "5.1.5"),
        (with_bgp('hold_time = "0s"'), "bgp.hold_time", "never"),
        (with_peer('hold_time = "0s"'), "bgp.peers[0].hold_time", "never"),
        (changed('announce = "bgp"', ""), "bgp", "no pool"),
    ],
)
def test_what_is_hardly_meant_is_said(load: Load, text: str, key: str, what: str) -> None:
    (warning,) = load(text).warnings
    assert warning.key == key
    assert what in warning.what


def test_an_ipv6_vip_over_an_ipv4_session_needs_a_next_hop(load: Load) -> None:
    text = with_bgp('next_hop = "fd00::21"').replace('198.51.100.0/28"', 'fd09::/124"')
    config = load(text.replace("198.51.100.1", "fd09::1")).config
    assert config.bgp is not None
    assert config.bgp.next_hops == ("fd00::21",)


def test_a_local_preference_for_the_own_as_is_no_mistake(load: Load) -> None:
    assert load(with_pool("local_pref = 200").replace("64500", "64512")).warnings == ()
