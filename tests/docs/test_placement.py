"""docs/explanation/placement.md has every word of `why`, and the troubles with their figures."""

from __future__ import annotations

import re
from pathlib import Path

from piagent.core.ledger import HEALTH_CLASS, Criterion
from piagent.core.vitals import COOL_MC, HOT_MC, PENALTIES

PAGE = Path("docs/explanation/placement.md").read_text()


def test_the_page_has_every_criterion_in_its_order() -> None:
    section = PAGE.partition("## Who stands first")[2].partition("\n## ")[0]
    assert re.findall(r"(?m)^\| `([a-z-]+)` \|", section) == list(Criterion)


def test_the_page_has_every_trouble_and_what_it_takes_off() -> None:
    section = PAGE.partition("## Health")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| `([a-z-]+)` \| (\d+) \|", section)
    assert rows == [(trouble, str(off)) for trouble, off in PENALTIES.items()]
    assert f"{HOT_MC // 1000} °C, until it is below {COOL_MC // 1000} °C" in section
    assert f"{100 - HEALTH_CLASS} to 99" in section
