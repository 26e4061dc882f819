"""docs/reference/access-log.md says what is in a line, and explains every end."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fastpath.requests import REQUEST_ENDS
from fastpath.tables import ENDS, REASONS
from piagent.agent.log_lines import connection_line, request_line
from piagent.core.entry import LogFormat
from piagent.ports import ConnectionEnd, RequestEnd

PAGE = Path("docs/reference/access-log.md").read_text()
KEYS, REST = PAGE.split("\n## How it ended\n")
ENDED, REST = REST.split("\n## Why it was turned away\n")
TURNED_AWAY, REST = REST.split("\n## Requests to a gateway\n")
REQUEST, REST = REST.split("\n| `end` | meaning |\n")
REQUEST_ENDED, _ = REST.split("\n## Files\n")


def first_cells(text: str) -> list[str]:
    return re.findall(r"(?m)^\| `([\w-]+)` \|", text)[("`end` | meaning" in text) :]


def test_the_page_has_every_key_of_a_line_in_its_order() -> None:
    end = ConnectionEnd("a:1", None, "::1", 1, "::1", 1, 0.0, None, 0.0, 0, 0, "client")
    line = json.loads(connection_line(end))
    assert first_cells(KEYS) == list(line)
    example = re.search(r"```json\n(.*)\n```", KEYS)
    assert example is not None
    assert list(json.loads(example[1])) == list(line)


def test_the_page_explains_every_end_and_every_reason_to_turn_a_connection_away() -> None:
    assert first_cells(ENDED) == list(ENDS)
    assert first_cells(TURNED_AWAY) == list(REASONS)


REQUEST_END = RequestEnd(
    gateway="web", route="wiki", service="wiki:80", backend="192.168.1.31:8080",
    client="192.168.1.9", method="GET", host="wiki.lan", path="/start", version="HTTP/1.1",
    status=200, bytes_in=0, bytes_out=5120, started=1_795_974_120.123, head_s=0.0, queue_s=0.0,
    connect_s=0.000_31, response_s=0.004_214, duration_s=0.004_702, retries=0, end="done",
    id="2f1c8e0b5d7a94634ab3917c05de6f28", referer="http://wiki.lan/", agent="curl/8.5.0",
)  # fmt: skip


def test_the_page_has_every_key_of_a_request_s_line_and_both_examples_are_as_written() -> None:
    line = request_line(REQUEST_END, LogFormat.JSON).decode()
    assert first_cells(REQUEST) == list(json.loads(line))
    assert line in REQUEST
    assert request_line(REQUEST_END, LogFormat.COMBINED).decode() in REQUEST_ENDED


def test_the_page_explains_every_end_of_a_request() -> None:
    assert first_cells(REQUEST_ENDED) == list(REQUEST_ENDS)
