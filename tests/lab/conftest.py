"""The lab's fixtures; when a test fails, what every process said goes into the report."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from piagent.adapters import netns
from tests import mosquitto
from tests.lab.lab import Lab

TAIL = 8000
"""Characters of each log that a report shows."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if "tests/lab/" in item.path.as_posix()]
    reason = (netns.why_not() or mosquitto.WHY_NOT) if ours else None
    for item in ours:
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Three agents (not started yet), three backends, a broker and a client.

    The profile is `fast` unless the test is parametrized (indirectly) with another.
    """
    with Lab(profile=getattr(request, "param", "fast")) as built:
        yield built


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    found = getattr(item, "funcargs", {}).get("lab")
    if report.failed and report.when == "call" and isinstance(found, Lab):
        for name, text in found.logs().items():
            report.sections.append((f"log of {name}", text[-TAIL:]))
    return report
