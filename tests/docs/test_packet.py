"""docs/explanation/packet.md names every verdict, and its figures are the forwarder's."""

from __future__ import annotations

import re
from pathlib import Path

from fastpath.packet.conversation import Ends, frame
from fastpath.packet.verdicts import FORWARDED
from piagent.core.packets import NAT_PORTS

PAGE = Path("docs/explanation/packet.md").read_text()
VERDICTS = PAGE.partition("## What became of it")[2].partition("\n## ")[0]


def test_every_verdict_is_explained_once() -> None:
    assert re.findall(r"(?m)^\| `([a-z-]+)` \|", VERDICTS) == list(FORWARDED)


def test_the_ports_of_nat_are_those_that_it_has() -> None:
    assert f"{NAT_PORTS[0]} to {NAT_PORTS[1]}" in PAGE


def test_how_often_senders_are_told_is_what_the_source_says() -> None:
    source = Path("fastpath/packet/outlet.pyx")
    if source.exists():
        found = re.search(r"_ANSWERS_PER_S = (\d+)", source.read_text())
        assert found is not None
        assert f"{found[1]} times a second" in PAGE


def test_the_sizes_that_the_page_tries_are_packets() -> None:
    ends = Ends("192.168.1.9", 51234, "192.168.1.80", 80)
    for size in map(int, re.findall(r"--size (\d+)", PAGE)):
        assert len(frame(ends, (bytes(6), bytes(6)), size=size)) == 14 + size
