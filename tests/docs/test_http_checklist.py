"""Every promise of the gateway's checklist has a test that exists, or says that it is for later."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/http-checklist.md"
ROW = re.compile(r"^\| (?!promise|-)(.+) \| (.+) \|$", re.MULTILINE)
TEST = re.compile(r"`(.+\.py)::(test_\w+)`")


def test_every_promise_has_a_test_that_exists() -> None:
    promises = ROW.findall(PAGE.read_text())
    assert len(promises) > 40
    missing = []
    for promise, where in promises:
        if where == "later":
            continue
        found = TEST.fullmatch(where)
        assert found is not None, f"{promise}: {where}"
        path, name = found.groups()
        tree = ast.parse((ROOT / "tests" / path).read_text())
        if name not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
            missing.append(f"{promise}: {where}")
    assert missing == []


def test_every_one_of_the_twelve_decisions_has_promises() -> None:
    chapters = re.split(r"^## (\d+) .*$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    assert [int(number) for number in chapters[::2]] == list(range(1, 13))
    assert all(ROW.search(text) for text in chapters[1::2])
