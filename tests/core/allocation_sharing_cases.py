"""Cases for test_allocation.py: addresses that are shared, and both IP versions."""

from __future__ import annotations

from tests.core.allocating import PREFER, REQUIRE, ask, pool
from tests.core.allocation_cases import FOUR, A, B, C, Case

DUAL = "10.0.0.1-10.0.0.2 fd00::1-fd00::2"

SHARED = [
    Case(
        "12 one key and different ports share an address",
        [pool(FOUR)],
        [
            ask("a", "10.0.0.1", key="k"),
            ask("b", "10.0.0.1", key="k", ports="53/udp"),
            ask("c", "10.0.0.1", key="k", ports="80/udp"),
        ],
        "",
        "a asked 10.0.0.1, b asked 10.0.0.1, c asked 10.0.0.1",
    ),
    Case(
        "12 another key, no key, the same port: not shared",
        [pool(FOUR)],
        [
            ask("a", "10.0.0.1", key="k"),
            ask("b", "10.0.0.1", key="other", ports="53/udp"),
            ask("c", "10.0.0.1", ports="53/udp"),
            ask("d", "10.0.0.1", key="k", ports="443/tcp 80/tcp"),
        ],
        "",
        "a asked 10.0.0.1, b - in-use, c - in-use, d - port-in-use",
    ),
    Case(
        "12 no key: two without one do not share",
        [pool(FOUR)],
        [ask("a", "10.0.0.1"), ask("b", "10.0.0.1", ports="53/udp")],
        "",
        "a asked 10.0.0.1, b - in-use",
    ),
    Case(
        "12 traffic_policy: all of them cluster, or local with the same backends",
        [pool(FOUR)],
        [
            ask("a", "10.0.0.1", key="k"),
            ask("b", "10.0.0.1", key="k", ports="1/tcp", local=("pi-1",)),
            ask("c", "10.0.0.2", key="k", local=("pi-1",)),
            ask("d", "10.0.0.2", key="k", ports="1/tcp", local=("pi-1",)),
            ask("e", "10.0.0.2", key="k", ports="2/tcp", local=("pi-2",)),
        ],
        "",
        "a asked 10.0.0.1, b - policy-differs, c asked 10.0.0.2, d asked 10.0.0.2, "
        "e - policy-differs",
    ),
    Case(
        "12 who names no address joins the lowest one of its key that has room for its ports",
        [pool("10.0.0.1-10.0.0.9")],
        [
            ask("a", "10.0.0.9", key="k"),
            ask("b", "10.0.0.5", key="k", ports="443/tcp"),
            ask("c", key="k", ports="80/tcp"),
            ask("d", key="k", ports="443/tcp"),
            ask("e", key="k", ports="80/tcp 443/tcp"),
            ask("f", key="k", ports="53/udp"),
            ask("g", ports="54/udp"),
        ],
        "",
        "a asked 10.0.0.9, b asked 10.0.0.5, c joined 10.0.0.5, d joined 10.0.0.9, "
        "e assigned 10.0.0.1, f joined 10.0.0.1, g assigned 10.0.0.2",
    ),
    Case(
        "12 it joins only in pools that it may have addresses of",
        [pool(FOUR, "a"), pool("10.0.1.0/24", "b", auto_assign=False), pool("10.0.2.0/24", "c")],
        [
            ask("a", "10.0.1.5", key="k"),
            ask("b", key="k", ports="53/udp"),
            ask("c", key="k", ports="54/udp", pool="b"),
            ask("d", key="k", ports="55/udp", pool="c"),
        ],
        "",
        "a asked 10.0.1.5, b assigned 10.0.0.1, c joined 10.0.1.5, d assigned 10.0.2.0",
    ),
    Case(
        "12 it joins in a later pool rather than take a new address",
        [pool(FOUR, "a", priority=1), pool("10.0.1.0/24", "b")],
        [ask("a", "10.0.1.5", key="k"), ask("b", key="k", ports="53/udp")],
        "",
        "a asked 10.0.1.5, b joined 10.0.1.5",
    ),
    Case(
        "12 who is alone on its address may change its key",
        [pool(FOUR)],
        [ask("a", key="new"), ask("b", key="new", ports="53/udp")],
        "a 10.0.0.2",
        "a kept 10.0.0.2, b joined 10.0.0.2",
    ),
    Case(
        "12 who changes its key leaves the address to the others",
        [pool(FOUR)],
        [
            ask("a", key="new", ports="1/tcp"),
            ask("b", key="k", ports="2/tcp"),
            ask("c", key="k", ports="3/tcp"),
        ],
        "a 10.0.0.1, b 10.0.0.1, c 10.0.0.1",
        "a reassigned 10.0.0.2, b kept 10.0.0.1, c kept 10.0.0.1",
    ),
    Case(
        "12 who gives its key up leaves the address to one that has it",
        [pool(FOUR)],
        [ask("a", ports="1/tcp"), ask("b", key="k", ports="2/tcp")],
        "a 10.0.0.1, b 10.0.0.1",
        "a reassigned 10.0.0.2, b kept 10.0.0.1",
    ),
    Case(
        "12 of two that want one port now the first one stays",
        [pool(FOUR)],
        [ask("a", key="k"), ask("b", key="k")],
        "b 10.0.0.3, a 10.0.0.3",
        "a kept 10.0.0.3, b reassigned 10.0.0.1",
    ),
    Case(
        "12 a gateway shares with a service",
        [pool(FOUR)],
        [ask("service/dns", key="k", ports="53/udp"), ask("gateway/web", key="k")],
        "",
        "service/dns assigned 10.0.0.1, gateway/web joined 10.0.0.1",
    ),
]

FAMILIES = [
    Case(
        "13 one address: IPv4 if there is one, else IPv6",
        [pool(DUAL)],
        [A, B, C],
        "",
        "a assigned 10.0.0.1, b assigned 10.0.0.2, c assigned fd00::1",
    ),
    Case(
        "13 one address: IPv4 from a later pool rather than IPv6",
        [pool("fd00::/64", "a", priority=1), pool(FOUR, "b")],
        [A],
        "",
        "a assigned 10.0.0.1",
    ),
    Case(
        "13 one address of the IP version that is asked for, or none",
        [pool(DUAL, "a"), pool(FOUR, "b", auto_assign=False)],
        [
            ask("a", first_family=6),
            ask("b", first_family=6),
            ask("c", first_family=6),
            ask("d", first_family=6, pool="b"),
            ask("e", first_family=4),
        ],
        "",
        "a assigned fd00::1, b assigned fd00::2, c - exhausted, d - no-family, e assigned 10.0.0.1",
    ),
    Case(
        "13 both are from one pool",
        [pool("10.0.0.1/32", "a"), pool("fd00::1/128", "b"), pool("10.0.1.1/32 fd01::1/128", "c")],
        [ask("a", families=REQUIRE), ask("b", families=REQUIRE), ask("c", families=PREFER)],
        "",
        "a assigned 10.0.1.1 fd01::1, b - exhausted, c assigned 10.0.0.1",
    ),
    Case(
        "13 no pool has both IP versions",
        [pool(FOUR, "a"), pool("fd00::/64", "b")],
        [ask("a", families=REQUIRE), ask("b", families=PREFER, first_family=6)],
        "",
        "a - no-family, b assigned fd00::",
    ),
    Case(
        "13 the first one is of the IP version that comes first",
        [pool(DUAL)],
        [ask("a", families=PREFER, first_family=6), ask("b", families=REQUIRE)],
        "",
        "a assigned fd00::1 10.0.0.1, b assigned 10.0.0.2 fd00::2",
    ),
    Case(
        "13 the second one comes later, from the same pool, and the first one stays",
        [pool("10.0.0.1/32 fd00::1/128", "a"), pool("10.0.1.0/24 fd01::/64", "b", priority=1)],
        [ask("a", families=PREFER)],
        "a 10.0.0.1",
        "a added 10.0.0.1 fd00::1",
    ),
    Case(
        "13 preferred: it does not move for the sake of the second one",
        [pool(FOUR, "a"), pool("10.0.1.0/24 fd01::/64", "b", priority=1)],
        [ask("a", families=PREFER)],
        "a 10.0.0.1",
        "a kept 10.0.0.1",
    ),
    Case(
        "13 required: it moves if its pool has no second one, and there is a pool with both",
        [pool(FOUR, "a"), pool("10.0.1.1/32 fd01::1/128", "b")],
        [ask("a", families=REQUIRE), ask("b", families=REQUIRE)],
        "a 10.0.0.1, b 10.0.0.2",
        "a reassigned 10.0.1.1 fd01::1, b kept 10.0.0.2 - exhausted",
    ),
    Case(
        "13 of both, a single one keeps that of the version that comes first",
        [pool(DUAL)],
        [A, ask("b", first_family=6)],
        "a fd00::1 10.0.0.1, b 10.0.0.2 fd00::2",
        "a kept 10.0.0.1, b kept fd00::2",
    ),
    Case(
        "13 another version is asked for than it has",
        [pool("10.0.0.1-10.0.0.2 fd00::1/128")],
        [ask("a", first_family=6), ask("b", first_family=6)],
        "a 10.0.0.1, b 10.0.0.2",
        "a reassigned fd00::1, b kept 10.0.0.2 - exhausted",
    ),
    Case(
        "13 two addresses that lie in two pools now: the first one stays",
        [pool("10.0.0.1/32", "a"), pool("fd00::1/128", "b")],
        [ask("a", families=PREFER)],
        "a 10.0.0.1 fd00::1",
        "a kept 10.0.0.1",
    ),
    Case(
        "13 one of two lies in no pool any more: the other one stays, and gets a new second one",
        [pool("10.0.0.1/32 fd00::1/128")],
        [ask("a", families=REQUIRE)],
        "a 10.0.9.9 fd00::1",
        "a added 10.0.0.1 fd00::1",
    ),
    Case(
        "13 both by name, also from a pool that gives none by itself",
        [pool(DUAL, auto_assign=False)],
        [ask("a", "fd00::2 10.0.0.2", families=REQUIRE), ask("b", "10.0.0.1", families=PREFER)],
        "",
        "a asked 10.0.0.2 fd00::2, b asked 10.0.0.1 fd00::1",
    ),
    Case(
        "13 names that do not go with the versions",
        [pool(DUAL, "a"), pool("fd01::/64", "b")],
        [
            ask("a", "10.0.0.1 fd00::1"),
            ask("b", "10.0.0.1", families=REQUIRE),
            ask("c", "10.0.0.1", first_family=6),
            ask("d", "10.0.0.1 10.0.0.2", families=PREFER),
            ask("e", "10.0.0.1 fd01::1", families=PREFER),
        ],
        "",
        "a - families-differ, b - families-differ, c - families-differ, d - families-differ, "
        "e - two-pools",
    ),
    Case(
        "13 with a sharing key both are shared, or as many as can be",
        [pool("10.0.0.1-10.0.0.9 fd00::/120")],
        [
            ask("a", "10.0.0.5", key="k"),
            ask("b", key="k", families=REQUIRE, ports="53/udp"),
            ask("c", key="k", families=REQUIRE, ports="54/udp"),
        ],
        "",
        "a asked 10.0.0.5, b joined 10.0.0.5 fd00::, c joined 10.0.0.5 fd00::",
    ),
]
