"""docs/explanation/tcp.md names every end and every refusal, and its figures are the engine's."""

from __future__ import annotations

import re
from pathlib import Path

from fastpath.limits import _PIPES_MAX as PIPES_MAX
from fastpath.tables import ENDS, REASONS

PAGE = Path("docs/explanation/tcp.md").read_text()
ENDED, REJECTED = PAGE.split("| `piagent_connections_rejected_total`", 1)


def first_cells(text: str) -> list[str]:
    """What the tables' rows begin with: one word or several."""
    cells = re.findall(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \|", text, re.MULTILINE)
    return [word for cell in cells for word in re.findall(r"[a-z_]+", cell)]


def test_every_end_is_explained_once() -> None:
    assert sorted(first_cells(ENDED)) == sorted(ENDS)


def test_every_refusal_is_explained_once() -> None:
    assert sorted(first_cells(REJECTED)) == sorted(REASONS)


def test_the_pool_of_pipes_has_its_size() -> None:
    assert f"a pool of {PIPES_MAX} a worker" in PAGE
