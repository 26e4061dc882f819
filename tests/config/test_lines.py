"""Line numbers of a TOML text."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from piagent.config.lines import line_numbers

TEXT = '''\
# a comment with [brackets] and key = "value"
top = 1

[node]  # one
name = "x # not a comment"
"quoted key" = 'it''s' # '
text = """
[not.a.table]
key = 1 \\""" still in it
"""
raw = \'\'\'
[[nor]]
\'\'\'

[[service]]
name = "a"
ports = [
  { port = 1, name = "[x]" },  # {
  # nothing
  { port = 2 }, { port = 3,
    name = "y" }, ["nested",
    "list"],
]
[service.health]
kind = "tcp"

[[service]]
a.b.c = { d = 1, e = [1, 2] }
[[service.backends]]
address = "x"
[[ service . backends ]]
address = "y"
'''


def test_every_table_key_and_element_has_its_line() -> None:
    lines = line_numbers(TEXT.replace("'it''s'", "'its'"))
    wanted = {
        ("top",): 2,
        ("node",): 4,
        ("node", "name"): 5,
        ("node", "quoted key"): 6,
        ("node", "text"): 7,
        ("node", "raw"): 11,
        ("service",): 15,
        ("service", 0): 15,
        ("service", 0, "ports"): 17,
        ("service", 0, "ports", 0): 18,
        ("service", 0, "ports", 0, "name"): 18,
        ("service", 0, "ports", 1, "port"): 20,
        ("service", 0, "ports", 2, "name"): 21,
        ("service", 0, "ports", 3, 1): 22,
        ("service", 0, "health"): 24,
        ("service", 0, "health", "kind"): 25,
        ("service", 1): 27,
        ("service", 1, "a", "b", "c", "e", 1): 28,
        ("service", 1, "backends", 0, "address"): 30,
        ("service", 1, "backends", 1): 31,
        ("service", 1, "backends", 1, "address"): 32,
    }
    assert {path: lines.get(path) for path in wanted} == wanted
    assert not {"not", "key", "nor"} & {str(part) for path in lines for part in path}


@example("a=[}")  # once stood still at the brace for ever
@given(st.text(alphabet="ab=[]{}.,\"'\\#\n 1", max_size=60))
def test_any_text_is_scanned_to_an_end(text: str) -> None:
    count = text.count("\n") + 1
    assert all(1 <= line <= count for line in line_numbers(text).values())


def test_nesting_beyond_reason_does_no_harm() -> None:
    assert line_numbers("a = " + "[" * 100_000)[("a",)] == 1
