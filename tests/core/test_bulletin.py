"""What nodes say of themselves: what is newer, and what is not believed."""

from __future__ import annotations

import pytest

from piagent.core.assignments import Assignment, Assignments
from piagent.core.bulletin import Endpoint, Endpoints, Wants, is_newer, is_sound
from piagent.core.model import AddressRange, Backend, Pool
from piagent.core.wants import Want

ADDRESSES = [
    ("10.0.0.1", True),
    ("fd00::1", True),
    ("FD00::1", False),
    ("fe80::1%eth0", False),
    ("x", False),
]
LIFE, NEXT_LIFE = "0" * 16, "1" * 16


@pytest.mark.parametrize(
    ("incarnation", "at", "fresh", "newer"),
    [
        (LIFE, 11, False, True),
        (LIFE, 10, True, False),
        (LIFE, 9, True, False),
        (NEXT_LIFE, 5, True, True),  # its clock is back in the past
        (NEXT_LIFE, 5, False, False),  # retained, of some former life
        (NEXT_LIFE, 11, False, True),
    ],
)
def test_what_counts_is_what_was_said_last(
    incarnation: str, at: int, fresh: bool, newer: bool
) -> None:
    before = Wants(incarnation=LIFE, at=10)
    assert is_newer(Wants(incarnation=incarnation, at=at), before, fresh=fresh) is newer


@pytest.mark.parametrize(
    ("first", "last", "sound"),
    [
        ("10.0.0.1", "10.0.0.9", True),
        ("fd00::1", "fd00::1", True),
        ("10.0.0.9", "10.0.0.1", False),
        ("10.0.0.1", "fd00::1", False),
        ("10.0.0", "10.0.0.1", False),
        ("", "", False),
    ],
)
def test_pools_have_addresses(first: str, last: str, sound: bool) -> None:
    pool = Pool(name="lan", addresses=(AddressRange(first=first, last=last),))
    assert is_sound(Wants(incarnation=LIFE, at=1, pools=(pool,))) is sound


@pytest.mark.parametrize(
    ("family", "sound"), [(None, True), (4, True), (6, True), (0, False), (5, False), (-1, False)]
)
def test_ip_versions_are_those_that_there_are(family: int | None, sound: bool) -> None:
    """What asks for another one would be given addresses for ever, and never be content."""
    wants = {"service/web": Want(vip=True, first_family=family), "service/b": Want()}
    assert is_sound(Wants(incarnation=LIFE, at=1, wants=wants)) is sound


def test_a_pool_that_is_asked_for_has_a_name() -> None:
    assert is_sound(Wants(incarnation=LIFE, at=1, wants={"service/web": Want(pool="lan")}))
    assert not is_sound(Wants(incarnation=LIFE, at=1, wants={"service/web": Want(pool="")}))


@pytest.mark.parametrize(("address", "sound"), ADDRESSES)
@pytest.mark.parametrize("of", ["vips", "cluster_ips"])
def test_assignments_have_addresses_in_their_one_spelling(
    of: str, address: str, sound: bool
) -> None:
    given = {"service/a": Assignment(), "service/b": Assignment(**{of: ("10.0.0.9", address)})}
    assert is_sound(Assignments(node="n1", epoch=1, number=1, given=given)) is sound


@pytest.mark.parametrize(("address", "sound"), ADDRESSES)
def test_endpoints_have_addresses_in_their_one_spelling(address: str, sound: bool) -> None:
    one = Endpoint(service="web", address=address, port=80, left_ms=1000)
    assert is_sound(Endpoints(incarnation=LIFE, at=1, endpoints=(one,))) is sound


def test_an_endpoint_is_a_backend_on_the_node_that_it_registered_with() -> None:
    one = Endpoint(service="web", address="10.0.0.1", port=80, only="a", weight=3, left_ms=1000)
    assert one.backend("pi-1") == Backend(
        address="10.0.0.1", port=80, only="a", weight=3, node="pi-1"
    )
