"""docs/reference/reasons.md explains every reason, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from piagent.core.allocation_types import AllocationReason
from piagent.core.bgp import Announcement
from piagent.core.catalog import CatalogReason
from piagent.core.health import HealthReason
from piagent.core.lease_types import Reason
from piagent.core.paths import PathReason

PAGE = Path("docs/reference/reasons.md").read_text()
LEASES, REST = PAGE.split("\n## Why an address or a node port was given\n")
GIVING, REST = REST.split("\n## Why something about services is not as it was wished\n")
NOTES, REST = REST.split("\n## Whether forwarded packets get to a backend\n")
PATHS, REST = REST.split("\n## Why a VIP is announced by BGP, or not\n")
BGP, HEALTH = REST.split("\n## Why a backend is up or down\n")


def explained(text: str) -> list[str]:
    """The first cells of the tables."""
    return re.findall(r"^\| `([a-z-]+)` \| .+ \|$", text, re.MULTILINE)


def test_the_page_explains_every_reason_of_a_lease_once() -> None:
    assert explained(LEASES) == list(Reason)


def test_the_page_explains_every_reason_of_giving_out_once() -> None:
    assert explained(GIVING) == list(AllocationReason)


def test_the_page_explains_every_note_once() -> None:
    assert explained(NOTES) == list(CatalogReason)


def test_the_page_explains_every_reason_of_a_path_once() -> None:
    assert explained(PATHS) == list(PathReason)


def test_the_page_explains_every_reason_of_bgp_once() -> None:
    assert explained(BGP) == list(Announcement)


def test_the_page_explains_every_reason_of_health_once() -> None:
    assert re.findall(r"^\| `([a-z ]+)` \| .+ \|$", HEALTH, re.MULTILINE) == list(HealthReason)
