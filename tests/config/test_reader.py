"""TOML values -> tables, problem by problem."""

from __future__ import annotations

import pytest

from piagent.config.kinds import List, Table
from piagent.config.later import LATER, LATER_KEYS
from piagent.config.reader import kinds
from piagent.config.schema import File
from tests.config.conftest import Problems

BASE = '[cluster]\nsecret_file = "cluster.secret"\n[mqtt]\nbrokers = ["mqtt://192.0.2.1"]\n'


def tables(struct: type = File, place: str = "") -> dict[str, type]:
    """Every table that a file can have: its place without indices -> its struct."""
    found = {place: struct}
    for key, kind in kinds(struct).items():
        inner = kind.of.__metadata__[0] if isinstance(kind, List) else kind
        if isinstance(inner, Table):
            found |= tables(inner.struct, f"{place}.{key}".lstrip("."))
    return found


@pytest.mark.parametrize(
    ("text", "what", "cure"),
    [
        ("[node]\nname = 5", "node.name: expected a name (letters, digits, ", 'name = "web-1"'),
        ("[node]\nworkers = true", "node.workers: expected a number of threads, 1 to 256, got true",
         "write workers = 2"),
        ("[node]\nworkers = 0", "1 to 256, got 0", ""),
        ("[node]\nworkers = 2.0", "1 to 256, got 2.0", ""),
        ("[node]\nname = 1979-05-27", "got 1979-05-27", ""),
        ("[node]\nname = [1]", "got a list", ""),
        ("[[node]]", "node: expected a table, got a list", "write [node]"),
        ("[pool]", "pool: expected a list, got a table", "write [[pool]]"),
        ("[[pool]]\nname='a'\naddresses='192.0.2.1'", "expected a list, got",
         "write addresses = ["),
        ("[[pool]]\nname='a'\naddresses=[]", "pool[0].addresses: is empty", "write addresses = ["),
        ("[[pool]]\nname='a'", "pool[0].addresses: is missing", "write addresses = ["),
        ("[[pool]]\nname='a'\naddresses=['127.0.0.1']\nannounce='apr'", "expected one of arp, none",
         'did you mean "arp"?'),
        ("[[pool]]\nname='a'\naddresses=[1]", "pool[0].addresses[0]: expected a CIDR, a range",
         'write "192.'),
        ("[[gateway]]\nname='a'\naddress='127.0.0.1'\nlisten=[80]",
         "gateway[0].listen[0]: expected a table, got 80", "write { port = 80 }"),
        ("[nod]", "nod: unknown key in a file", 'did you mean "node"?'),
        ("[node]\nzzzzzz = 1", "node.zzzzzz: unknown key in [node]",
         "known: flow_cache, interface, labels,"),
        ("[node]\nlabels = ['a']", "node.labels: expected a table, got a list",
         'write labels = { rack = "a" }'),
        ("[node]\nlabels = { rack = 1 }", "node.labels.rack: expected a label (letters,",
         'write rack = "a"'),
        ("[node]\nlabels = { rack = 'a b' }", 'node.labels.rack: "a b" is not a name', 'as in "a"'),
        ("[node]\nlabels = { 'a b' = 'c' }", 'node.labels.a b: the key "a b" is not a name',
         'write labels = { rack = "a" }'),
        ("[node]\nvip_eligible = 'wired'", "one of any, wired-only", 'did you mean "wired-only"?'),
        ("[election]\npreempt = 5", 'election.preempt: expected a duration or "off", got 5',
         'write preempt = "30s"'),
        ("[election]\nrebalance = '0s'", '"0s" is no time at all', 'expected a duration or "off"'),
        ("[election]\ndrain = '61s'", '"61s" is longer than 60s', "at most 60s"),
        ("[election]\non_quorum_loss = 'keep'", 'got "keep"', "known: hold, release"),
        ("[election]\nprofile = 'slow'", 'got "slow"', "known: fast, kilo, normal, wifi"),
        ("[node]\nname = '" + "x" * 100 + "'", "x" * 60, ""),
    ],
)  # fmt: skip
def test_a_wrong_value_says_what_was_expected_and_what_to_write(
    errors: Problems, text: str, what: str, cure: str
) -> None:
    (problem,) = errors(BASE + text)
    assert what in f"{problem.key}: {problem.what}"
    assert cure in problem.cure


def test_a_missing_table_is_one_error(errors: Problems) -> None:
    (problem,) = errors("")
    assert (problem.key, problem.what, problem.cure) == ("mqtt", "is missing", "write [mqtt]")


def test_later_keys_belong_to_tables_that_exist_and_are_not_there_yet() -> None:
    known = tables()
    for place, later in LATER_KEYS.items():
        assert not later.keys() & kinds(known[place]).keys()


def key_in(place: str, key: str) -> str:
    """A file with a key in the table of that place."""
    top, *inner = place.split(".")
    line = f"{key} = 1"
    for depth in range(len(inner), 0, -1):
        struct = tables()[".".join([top, *inner[: depth - 1]])]
        is_list = isinstance(kinds(struct)[inner[depth - 1]], List)
        line = f"{inner[depth - 1]} = " + (f"[{{ {line} }}]" if is_list else f"{{ {line} }}")
    header = f"[[{top}]]" if isinstance(kinds(File)[top], List) else f"[{top}]"
    return f"{header}\n{line}"


@pytest.mark.parametrize(
    ("place", "key"), [(place, key) for place, later in LATER_KEYS.items() for key in later]
)
def test_a_key_of_a_later_version_says_so(errors: Problems, place: str, key: str) -> None:
    found = [problem for problem in errors(key_in(place, key)) if problem.key.endswith(f".{key}")]
    assert [problem.what for problem in found] == [LATER]


@pytest.mark.parametrize("place", [place for place in tables() if place])
def test_an_unknown_key_is_an_error_in_every_table(errors: Problems, place: str) -> None:
    found = [problem for problem in errors(key_in(place, "zz")) if problem.key.endswith(".zz")]
    assert ["unknown key" in problem.what for problem in found] == [True]
