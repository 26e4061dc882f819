"""Who gets which node port: cases, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piagent.core.allocation_types import AllocationReason
from piagent.core.model import Protocol
from piagent.core.node_ports import (
    NodePorts,
    PortGrant,
    PortKey,
    PortRequest,
    allocate_node_ports,
)

Held = Mapping[PortKey, int]
Why = AllocationReason
PORTS = range(30000, 30004)
SEEDS = st.integers(0, 1 << 64)


def port(key: str, number: int | None = None) -> PortRequest:
    """Of "service/name", and "/udp" behind it if it is one."""
    service, name, *protocol = key.split("/")
    return PortRequest(
        service=service, name=name, number=number, protocol=Protocol((protocol or ["tcp"])[0])
    )


def held_of(result: NodePorts) -> dict[PortKey, int]:
    return {key: grant.number for key, grant in result.given.items()}


def outcome(requests: list[PortRequest], held: dict[str, int]) -> dict[str, str]:
    """Of each "service/name": reason and number, "- reason" of a refusal, or both."""
    split = {port(key).key: number for key, number in held.items()}
    result = allocate_node_ports(requests, split, PORTS)
    found: dict[str, str] = {}
    for key, grant in result.given.items():
        found["/".join(key)] = f"{grant.reason} {grant.number}"
    for key, refusal in result.refused.items():
        found["/".join(key)] = f"{found.get('/'.join(key), '')} - {refusal.reason}".strip()
    return found


CASES = [
    pytest.param(
        [port("a/http"), port("a/dns/udp"), port("b/http", 30000), port("b/https")],
        {},
        {
            "a/http": "assigned 30001",
            "a/dns": "assigned 30000",
            "b/http": "asked 30000",
            "b/https": "assigned 30002",
        },
        id="the lowest that nobody asks for by number; TCP and UDP by themselves",
    ),
    pytest.param(
        [port("a/tcp", 30001), port("a/udp/udp", 30001), port("b/udp/udp", 30001)],
        {},
        {"a/tcp": "asked 30001", "a/udp": "asked 30001", "b/udp": "- in-use"},
        id="one number for TCP and UDP of a service, and once for each protocol",
    ),
    pytest.param(
        [port("a/x", 29999), port("a/y", 30004), port("a/z", 80), port("b/x", 30003)],
        {"a/z": 30002},
        {
            "a/x": "- out-of-range",
            "a/y": "- out-of-range",
            "a/z": "kept 30002 - out-of-range",
            "b/x": "asked 30003",
        },
        id="a number outside the range is refused",
    ),
    pytest.param(
        [port("a/x"), port("b/x"), port("c/x")],
        {"b/x": 30000, "c/x": 40000, "gone/x": 30001},
        {"a/x": "assigned 30001", "b/x": "kept 30000", "c/x": "reassigned 30002"},
        id="what is held is kept, if it is in the range",
    ),
    pytest.param(
        [port("a/x"), port("b/x"), port("c/x", 30003)],
        {"a/x": 30003, "b/x": 30003, "c/x": 30003},
        {"a/x": "reassigned 30000", "b/x": "reassigned 30001", "c/x": "kept 30003"},
        id="of several holders the one that asks for it keeps it",
    ),
    pytest.param(
        [port("a/x"), port("b/x", 30000)],
        {"a/x": 30000},
        {"a/x": "kept 30000", "b/x": "- in-use"},
        id="who has it keeps it, although another asks for it",
    ),
    pytest.param(
        [port("a/x", 30001), port("b/x", 30000), port("c/x", 30003), port("d/x", 30002)],
        {"a/x": 30000, "b/x": 30001, "c/x": 30002},
        {"a/x": "asked 30001", "b/x": "asked 30000", "c/x": "asked 30003", "d/x": "asked 30002"},
        id="two exchange theirs, and one moves up",
    ),
    pytest.param(
        [port("a/x", 30001), port("b/x", 30002), port("c/x"), port("d/x", 30001)],
        {"a/x": 30000, "b/x": 30001, "c/x": 30002},
        {
            "a/x": "kept 30000 - in-use",
            "b/x": "kept 30001 - in-use",
            "c/x": "kept 30002",
            "d/x": "- in-use",
        },
        id="nobody moves up to what its holder has to keep",
    ),
    pytest.param(
        [port(f"{service}/x") for service in "abcde"],
        {},
        {
            "a/x": "assigned 30000",
            "b/x": "assigned 30001",
            "c/x": "assigned 30002",
            "d/x": "assigned 30003",
            "e/x": "- exhausted",
        },
        id="all in use",
    ),
    pytest.param(
        [port("a/x/udp")],
        {"a/x": 30002},
        {"a/x": "kept 30002"},
        id="the number is kept when the protocol changes",
    ),
    pytest.param(
        [port("a/x", 30003), port("a/x", 30002)],
        {},
        {"a/x": "asked 30003"},
        id="a second request of one port is overlooked",
    ),
]


@pytest.mark.parametrize(("requests", "held", "want"), CASES)
def test_case(requests: list[PortRequest], held: dict[str, int], want: dict[str, str]) -> None:
    assert outcome(requests, held) == want


def test_the_range_is_that_of_kubernetes() -> None:
    requests = [port("a/x", 29999), port("a/y", 30000), port("a/z", 32767), port("b/x", 32768)]
    assert held_of(allocate_node_ports(requests, {})) == {("a", "y"): 30000, ("a", "z"): 32767}


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ([port("a/x", 80)], "80 is not from 30000 to 30003: ask for one that is, or for none"),
        (
            [port("b/web", 30000), port("a/x", 30000)],
            "30000/tcp is used by port web of service b: ask for another, or for none",
        ),
        (
            [*(port(f"b/{n}", 30000 + n) for n in range(4)), port("a/x")],
            "all tcp ports from 30000 to 30003 are in use: free one",
        ),
    ],
)
def test_a_refusal_names_the_place_and_the_cure(requests: list[PortRequest], said: str) -> None:
    assert allocate_node_ports(requests, {}, PORTS).refused["a", "x"].detail == said


def test_a_refusal_says_what_is_kept_until_then() -> None:
    refused = allocate_node_ports([port("a/x", 80)], {("a", "x"): 30002}, PORTS).refused
    assert refused["a", "x"].detail.endswith("; until then it keeps 30002")


# ---- what holds for all of them ----


def requests_of(random: Random) -> list[PortRequest]:
    keys = [f"{service}/{name}" for service in "abcd" for name in "xy"]
    return [
        port(
            key + random.choice(("", "", "/udp")),
            random.choice((None, None, 80, *PORTS)),
        )
        for key in random.sample(keys, random.randint(0, len(keys)))
    ]


def held_by(random: Random) -> Held:
    keys = [(service, name) for service in "abcd" for name in "xy"]
    some = random.sample(keys, random.randint(0, len(keys)))
    return {key: random.choice((*PORTS, 29999)) for key in some}


def check(requests: list[PortRequest], held: Held, result: NodePorts) -> None:
    """No number twice, none outside, none lost that may be kept, none refused that is there."""
    by_key = {one.key: one for one in requests}
    assert result.given.keys() | result.refused.keys() == by_key.keys()
    units = [(by_key[key].protocol, grant.number) for key, grant in result.given.items()]
    assert len(set(units)) == len(units)
    assert {number for _, number in units} <= set(PORTS)
    for key, one in by_key.items():
        rivals = [o for o in requests if o.protocol is one.protocol and o is not one]
        grant, has = result.given.get(key), held.get(key)
        if key not in result.refused:
            assert grant is not None
            assert one.number in {None, grant.number}
        else:
            wanted = PORTS if one.number is None else {one.number} & set(PORTS)
            assert all((one.protocol, number) in units for number in wanted)
        if has in PORTS and has not in [held.get(other.key) for other in rivals]:
            assert grant is not None
            if one.number in {None, has} or key in result.refused:
                assert grant.number == has
    again = allocate_node_ports(requests, held_of(result), PORTS)
    assert held_of(again) == held_of(result)
    assert again.refused == result.refused
    assert {grant.reason for grant in again.given.values()} <= {Why.KEPT}


Allocate = Callable[[list[PortRequest], Held, range], NodePorts]


def check_seed(seed: int, allocate: Allocate = allocate_node_ports) -> None:
    """First with anything held, then with what was given to others."""
    random = Random(seed)
    held = held_by(random)
    for _ in range(4):
        requests = requests_of(random)
        result = allocate(requests, held, PORTS)
        check(requests, held, result)
        held = held_of(result)


@settings(deadline=None)
@given(SEEDS)
def test_nobody_loses_nobody_has_anothers_nobody_lacks_what_is_there(seed: int) -> None:
    check_seed(seed)


def forgetful(requests: list[PortRequest], held: Held, ports: range) -> NodePorts:
    return allocate_node_ports(requests, {}, ports)


def shy(requests: list[PortRequest], held: Held, ports: range) -> NodePorts:
    return allocate_node_ports(requests, held, ports[:-1])


def generous(requests: list[PortRequest], held: Held, ports: range) -> NodePorts:
    given = {one.key: PortGrant(one.number or 30000, Why.ASKED, "") for one in requests}
    return NodePorts(given, {})


@pytest.mark.parametrize("mutant", [forgetful, shy, generous])
def test_the_check_finds_a_fault(mutant: Allocate) -> None:
    with pytest.raises(AssertionError):
        check_many(mutant)


def check_many(allocate: Allocate) -> None:
    for seed in range(100):
        check_seed(seed, allocate)
