"""docs/reference/reasons.md explains every reason, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from piagent.core.lease_types import Reason

PAGE = Path("docs/reference/reasons.md").read_text()


def test_the_page_explains_every_reason_once() -> None:
    explained = re.findall(r"^\| `([a-z-]+)` \| .+ \|$", PAGE, re.MULTILINE)
    assert explained == list(Reason)
