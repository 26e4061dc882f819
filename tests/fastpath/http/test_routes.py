"""Routing in the engine and in `piagent.core.routing`: one table, one answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piagent.core import routing
from piagent.core.model import PathKind, Route, Wildcard
from piagent.core.routing import PlannedGateway, PlannedRoute

probe = pytest.importorskip("fastpath.http._probe", reason="built without PIAGENT_PROBE=1")

LABELS = st.sampled_from(["a", "b", "api", "lan", "example"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
HOSTS = NAMES | NAMES.map(lambda name: f"*.{name}")
ELEMENTS = st.lists(st.sampled_from(["a", "b", "ab", "v1", "%2F"]), max_size=3)
PATHS = st.tuples(ELEMENTS, st.booleans()).map(
    lambda made: "/" + "/".join(made[0]) + ("/" if made[1] and made[0] else "")
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[PlannedRoute, ...]:
    """A gateway's table as the plan makes it."""
    routes = []
    for index in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(PathKind))
        path = draw(PATHS)
        routes.append(
            Route(
                name=f"r{index}",
                gateway="g",
                hosts=tuple(draw(st.lists(HOSTS, max_size=2))),
                path_kind=kind,
                path=path if kind is PathKind.EXACT else routing.prefix_of(path),
                backends=(),
            )
        )
    return tuple(
        PlannedRoute(route.name, host, route.path, route.path_kind is PathKind.EXACT, (), 0, 0)
        for route, host in routing.ordered(routes)
    )


@given(tables(), st.sampled_from(Wildcard), NAMES, PATHS)
def test_engine_and_agent_route_every_request_alike(
    table: tuple[PlannedRoute, ...], wildcard: Wildcard, host: str, path: str
) -> None:
    expected = routing.match(PlannedGateway("g", wildcard, table), host, path)
    found = probe.route_find(
        [(entry.host.encode(), entry.path.encode(), entry.exact) for entry in table],
        wildcard is Wildcard.ANY_DEPTH,
        host.encode(),
        path.encode(),
    )
    assert (None if found is None else table[found]) == expected


@pytest.mark.parametrize(
    ("host", "one_label", "any_depth"),
    [
        (b"a.lan", True, True),
        (b"a.b.lan", False, True),
        (b"lan", False, False),
        (b".lan", False, False),
        (b"xlan", False, False),
    ],
)
def test_a_wildcard_stands_for_one_label_or_for_any_depth(
    host: bytes,
    one_label: bool,
    any_depth: bool,
) -> None:
    table = [(b"*.lan", b"/", False)]
    assert (probe.route_find(table, False, host, b"/") == 0) is one_label
    assert (probe.route_find(table, True, host, b"/") == 0) is any_depth


@pytest.mark.parametrize(
    ("path", "matches"),
    [(b"/v1", True), (b"/v1/", True), (b"/v1/x", True), (b"/v12", False), (b"/v", False)],
)
def test_a_prefix_goes_by_elements(
    path: bytes,
    matches: bool,
) -> None:
    assert (probe.route_find([(b"", b"/v1", False)], False, b"h", path) == 0) is matches


def test_an_exact_path_is_just_that_path() -> None:
    table = [(b"", b"/v1", True)]
    assert probe.route_find(table, False, b"h", b"/v1") == 0
    assert probe.route_find(table, False, b"h", b"/v1/") is None


def test_without_a_match_there_is_no_route() -> None:
    assert probe.route_find([], False, b"h", b"/") is None
