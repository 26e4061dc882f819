"""docs/how-to/announce-by-bgp.md explains every reason, and its node has what the example has."""

from __future__ import annotations

import re
from pathlib import Path

import tomli

from piagent.core.bgp import Announcement

PAGE = Path("docs/how-to/announce-by-bgp.md").read_text()


def test_the_page_explains_every_reason_once() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE) == list(Announcement)


def test_the_pages_node_is_the_examples() -> None:
    block = PAGE[PAGE.index("    [bgp]\n") : PAGE.index("\nThe node connects")]
    shown = tomli.loads(re.sub("(?m)^    ", "", block))
    example = tomli.loads(Path("examples/bgp.toml").read_text())
    (router,) = shown["bgp"].pop("peers")
    assert router.pop("password_file") in Path("examples/bgp.toml").read_text()
    assert example["bgp"].items() >= shown["bgp"].items()
    assert example["bgp"]["peers"] == [router]
    assert example["pool"][0]["addresses"][:1] == shown["pool"][0]["addresses"]
