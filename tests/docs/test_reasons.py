"""docs/reference/reasons.md explains every reason, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from piagent.core.allocation_types import AllocationReason
from piagent.core.lease_types import Reason

PAGE = Path("docs/reference/reasons.md").read_text()
LEASES, GIVING = PAGE.split("\n## Why an address or a node port was given\n")


def explained(text: str) -> list[str]:
    """The first cells of the tables."""
    return re.findall(r"^\| `([a-z-]+)` \| .+ \|$", text, re.MULTILINE)


def test_the_page_explains_every_reason_of_a_lease_once() -> None:
    assert explained(LEASES) == list(Reason)


def test_the_page_explains_every_reason_of_giving_out_once() -> None:
    assert explained(GIVING) == list(AllocationReason)
