"""The rules of a gateway, in a file."""

from __future__ import annotations

import pytest

from piagent.core.model import EncodedSlash, RouteBackend
from piagent.core.plan import plan
from piagent.core.routing import DEFAULT
from tests.config.conftest import Load, Problems
from tests.config.test_checks import GOOD

LISTEN = "listen = [{ port = 80 }]"


def test_the_rules_of_a_gateway_reach_the_plan(load: Load) -> None:
    lines = """
    listen = [{ port = 80, hosts = ["A.lan", "*.b.lan"] }, { port = 81 }]
    default_backend = { service = "web", port = 80 }
    encoded_slash = "reject"
    merge_slashes = false
    """
    text = GOOD.replace(LISTEN, lines).replace('path_prefix = "/"', 'path_prefix = "/a//b"')
    config = load(text).config
    (gateway,) = config.gateways
    assert gateway.hosts == {80: ("a.lan", "*.b.lan")}
    assert gateway.default_backend == RouteBackend(service="web", port=80)
    assert gateway.encoded_slash is EncodedSlash.REJECT
    made = plan(config, frozenset(gateway.vips), frozenset())
    (planned,) = made.gateways
    assert (planned.merges_slashes, planned.takes_encoded_slash) == (False, False)
    assert [(one.name, one.path) for one in planned.routes] == [("all", "/a//b"), (DEFAULT, "")]
    assert [target.service for target in planned.routes[1].targets] == ["web:80"]
    served = {one.port: one.hosts for one in made.listeners if one.http}
    assert served == {80: ("a.lan", "*.b.lan"), 81: ()}


@pytest.mark.parametrize(
    ("old", "new", "key", "what"),
    [
        (LISTEN, "listen = [{ port = 80, hosts = [] }]", "listen[0].hosts", "is empty"),
        (LISTEN, 'listen = [{ port = 80, hosts = ["a:1"] }]', "listen[0].hosts[0]", "has a port"),
        (LISTEN, 'listen = [{ port = 80, hosts = ["a", "a"] }]', "listen[0].hosts[1]", "already"),
        (LISTEN, f"listen = [{{ port = 80, hosts = {[f'h{i}' for i in range(65)]} }}]",
         "listen[0].hosts", "64 at most"),
        (LISTEN, f'{LISTEN}\ndefault_backend = {{ service = "wbe" }}', "default_backend.service",
         'there is no service "wbe"'),
        (LISTEN, f'{LISTEN}\ndefault_backend = {{ service = "web", port = 9 }}',
         "default_backend.port", "has no port 9"),
        (LISTEN, f'{LISTEN}\nencoded_slash = "drop"', "encoded_slash", "expected one of"),
    ],
)  # fmt: skip
def test_what_a_gateway_cannot_say_is_an_error(
    errors: Problems, old: str, new: str, key: str, what: str
) -> None:
    (problem,) = errors(GOOD.replace(old, new))
    assert problem.key == f"gateway[0].{key}"
    assert what in problem.what


@pytest.mark.parametrize(
    ("rule", "path", "what"),
    [("", "/a//b", "never requested"), ('encoded_slash = "reject"', "/a%2Fb", "never taken")],
)
def test_a_path_that_no_request_can_have_is_an_error(
    errors: Problems, rule: str, path: str, what: str
) -> None:
    text = GOOD.replace(LISTEN, f"{LISTEN}\n{rule}")
    (problem,) = errors(text.replace('path_prefix = "/"', f'path_exact = "{path}"'))
    assert problem.key == "route[0].path_exact"
    assert what in problem.what


def test_a_default_backend_that_nothing_reaches_is_warned_of(load: Load) -> None:
    text = GOOD.replace(LISTEN, f'{LISTEN}\ndefault_backend = {{ service = "web" }}')
    assert load(text).warnings == ()
    (warning,) = load(text.replace('hosts = ["a.lan"]', "")).warnings
    assert (warning.key, warning.line) == (
        "gateway[0].default_backend",
        text[: text.index("default_backend")].count("\n") + 1,
    )
    assert '"all" takes all its requests' in warning.what


def test_a_gateway_with_a_default_backend_needs_no_route(load: Load) -> None:
    text = GOOD[: GOOD.index("[[route]]")]
    assert "has no routes" in load(text).warnings[0].what
    text = text.replace(LISTEN, f'{LISTEN}\ndefault_backend = {{ service = "web" }}')
    assert load(text).warnings == ()
