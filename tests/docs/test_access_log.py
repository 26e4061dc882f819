"""docs/reference/access-log.md says what is in a line, and explains every end."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fastpath.tables import ENDS, REASONS
from piagent.agent.access_log import line_of
from piagent.ports import ConnectionEnd

PAGE = Path("docs/reference/access-log.md").read_text()
KEYS, REST = PAGE.split("\n## How it ended\n")
ENDED, REST = REST.split("\n## Why it was turned away\n")
TURNED_AWAY, _ = REST.split("\n## Files\n")


def first_cells(text: str) -> list[str]:
    return re.findall(r"(?m)^\| `(\w+)` \|", text)[("`end` | meaning" in text) :]


def test_the_page_has_every_key_of_a_line_in_its_order() -> None:
    end = ConnectionEnd("a:1", None, "::1", 1, "::1", 1, 0.0, None, 0.0, 0, 0, "client")
    line = json.loads(line_of(end))
    assert first_cells(KEYS) == list(line)
    example = re.search(r"```json\n(.*)\n```", KEYS)
    assert example is not None
    assert list(json.loads(example[1])) == list(line)


def test_the_page_explains_every_end_and_every_reason_to_turn_a_connection_away() -> None:
    assert first_cells(ENDED) == list(ENDS)
    assert first_cells(TURNED_AWAY) == list(REASONS)
