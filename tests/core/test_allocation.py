"""Who gets which address: a table of cases, by the rows of the features that peers have.

The numbers are those of "Address pools and assignment" in the project's comparison with MetalLB,
kube-vip, Cilium and PureLB. These rows are not the allocator's:

-  7: there are no namespaces; the labels of row 8 are for the same.
- 11: the leader publishes what comes out here, and the status shows it.
- 15: nobody gets one address of each range: who wants several asks for both IP versions (row 13).
- 17: no DHCP: a router that assigned an address may not know of the next owner.
- 18: no address management outside: pools are in the file.
- 19: the owner probes for conflicts before it announces, whoever gave the address.
- 20: no port maps at a router.
- 21: there is one kind of balancer, and so no class to choose.
"""

from __future__ import annotations

import re

import pytest

from piagent.core.allocation import Allocation, AllocationReason, Count, Request, allocate
from tests.core.allocating import PREFER, REQUIRE, ask, held_of, pool
from tests.core.allocation_cases import ASKED, FOUR, POOLS, A, Case
from tests.core.allocation_sharing_cases import FAMILIES, SHARED


def by_name(text: str) -> dict[str, str]:
    """Name -> what follows it."""
    return {
        name: rest for name, _, rest in (part.partition(" ") for part in text.split(", ")) if name
    }


def outcome(allocation: Allocation) -> dict[str, str]:
    """Name -> "reason addresses", "- reason" of a refusal, or both."""
    found: dict[str, str] = {}
    for name, grant in allocation.given.items():
        found[name] = " ".join((grant.reason, *grant.addresses))
    for name, refusal in allocation.refused.items():
        found[name] = f"{found.get(name, '')} - {refusal.reason}".strip()
    return found


CASES = [*POOLS, *ASKED, *SHARED, *FAMILIES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_row(case: Case) -> None:
    held = {name: tuple(addresses.split()) for name, addresses in by_name(case.held).items()}
    allocation = allocate(case.pools, case.requests, held)
    assert outcome(allocation) == by_name(case.want)
    again = allocate(case.pools, case.requests, held_of(allocation))
    assert held_of(again) == held_of(allocation)
    assert again.refused == allocation.refused


def test_every_row_has_a_case_or_a_word_why_not() -> None:
    shown = {int(case.what.split()[0]) for case in CASES} | {22}
    elsewhere = {int(number) for number in re.findall(r"^- +(\d+):", __doc__ or "", re.MULTILINE)}
    assert shown | elsewhere == set(range(1, 23))
    assert not shown & elsewhere


def test_every_reason_has_a_case() -> None:
    words = {word for case in CASES for word in case.want.replace(",", "").split()}
    assert set(AllocationReason) - words == {AllocationReason.OUT_OF_RANGE}  # of node ports


# ---- 22: counters ----


def test_row_22_counters_by_pool_and_ip_version() -> None:
    pools = [pool("10.0.0.0/24 10.0.2.1/32 fd00::/64", "a"), pool("10.0.1.0/30", "b")]
    requests = [A, ask("b", families=REQUIRE), ask("c", pool="b"), ask("d", pool="none")]
    assert allocate(pools, requests, {}).pools == {
        "a": {4: Count(257, 2, 255), 6: Count(1 << 64, 1, (1 << 64) - 1)},
        "b": {4: Count(4, 1, 3)},
    }


def test_row_22_a_shared_address_counts_once_and_one_to_be_avoided_not_at_all() -> None:
    pools = [pool("10.0.0.0/22", avoid_buggy_ips=True), pool("fd00::/126", "six", disabled=True)]
    requests = [ask("a", key="k"), ask("b", key="k", ports="53/udp")]
    assert allocate(pools, requests, {}).pools == {
        "lan": {4: Count(1016, 1, 1015)},
        "six": {6: Count(4, 0, 4)},
    }


# ---- what is said ----


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ([ask("a", "10.9.9.9")], '10.9.9.9 is in no pool with type = "load-balancer"'),
        ([ask("a", pool="lann")], 'there is no pool "lann" with type = "load-balancer": there is'),
        ([ask("b", "10.0.0.1"), ask("a", "10.0.0.1")], "10.0.0.1 is used by b: name another"),
        (
            [ask("b", "10.0.0.1", key="k"), ask("a", "10.0.0.1", key="k", ports="80/tcp 1/udp")],
            "10.0.0.1: 80/tcp used by b",
        ),
        ([ask("b"), ask("c"), ask("a")], "pool lan: cannot give an address: all are in use"),
        ([ask("a", first_family=6)], "pool lan: cannot give an IPv6 address: add some"),
        ([ask("a", families=REQUIRE)], "pool lan: cannot give an IPv4 and an IPv6 address of one"),
        ([ask("a", pool="web")], "pool web: for services with other labels only; pool web wants "),
        ([ask("a", "\x1b[2J")], '"\\x1b[2J" is no address: write one like'),
    ],
)
def test_a_refusal_names_the_place_and_the_cure(requests: list[Request], said: str) -> None:
    pools = [
        pool("10.0.0.1-10.0.0.2"),
        pool("10.1.0.0/24", "web", services={"tier": "web"}, auto_assign=False),
    ]
    assert allocate(pools, requests, {}).refused["a"].detail.startswith(said)


def test_a_refusal_says_what_is_kept_until_then() -> None:
    refused = allocate([pool(FOUR)], [ask("a", pool="no")], {"a": ("10.0.0.3",)}).refused
    assert refused["a"].detail.endswith("; until then it keeps 10.0.0.3")


def test_a_grant_says_where_it_is_from() -> None:
    pools = [pool("10.0.0.1-10.0.0.2 fd00::1/128")]
    requests = [A, ask("b", "127.0.0.1"), ask("c", first_family=6), ask("d", families=PREFER)]
    given = allocate(pools, requests, {"a": ("10.9.9.9",)}).given
    assert {name: (grant.pool, grant.detail) for name, grant in given.items()} == {
        "a": ("lan", "the lowest one that was free; pool lan, instead of 10.9.9.9"),
        "b": (None, "it asks for it; every host has it by itself"),
        "c": ("lan", "the lowest one that was free; pool lan"),
        "d": ("lan", "the lowest one that was free; pool lan; no IPv6 address of it is free"),
    }
