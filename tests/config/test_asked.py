"""Filters that need another service: what a file may say."""

from __future__ import annotations

import pytest

from piagent.core.filters import ForwardAuth, Mirror
from tests.config.conftest import Load, Problems
from tests.config.test_filters import TO_APP, filters, route

AUTH = """
[[service]]
name = "auth"
ports = [{ port = 9091 }, { name = "dns", port = 53, protocol = "udp" }]
backends = ["192.0.2.12"]
"""


OF_BACKEND = (
    'backends = [{ service = "app", filters = [{ request_headers = { set = { X-A = "1" } } }] }]\n'
)


def asking(text: str) -> str:
    return f"{{ forward_auth = {{ {text} }} }}"


def with_auth(filters_: str, rest: str = TO_APP) -> str:
    return route(filters_, rest) + AUTH


def test_a_service_that_is_asked(load: Load) -> None:
    text = 'service = "auth", path = "/api/verify?rd=https://x/"'
    loaded = load(with_auth(asking(text)))
    auth = loaded.config.routes[0].filters.forward_auth
    assert auth == ForwardAuth(service="auth", path="/api/verify?rd=https://x/")
    text = 'service = "auth", port = 9091, path = "/", copy_headers = ["Remote-User", "x-b"]'
    auth = load(with_auth(asking(text))).config.routes[0].filters.forward_auth
    assert auth == ForwardAuth(
        service="auth", port=9091, path="/", copy_headers=("Remote-User", "x-b")
    )


@pytest.mark.parametrize(
    ("text", "what", "cure"),
    [
        ('service = "atuh", path = "/"', 'there is no service "atuh"', 'did you mean "auth"'),
        ('service = "auth", port = 53, path = "/"', "has no port 53", "TCP ports: 9091"),
        ('service = "auth"', "path", ""),
        ('service = "auth", path = "x"', '"x"', ""),
        ('service = "auth", path = "/a/../b"', "not canonical", 'write "/b"'),
        ('service = "auth", path = "/?a b"', "visible ASCII", "%XX"),
        ('service = "auth", path = "/?a#b"', "visible ASCII", "%XX"),
        ('service = "auth", path = "/?"', "visible ASCII", "%XX"),
        (f'service = "auth", path = "/?{"a" * 1023}"', "1024 at most", ""),
        ('service = "auth", path = "/", copy_headers = ["host"]', "routed by", "rewrite"),
        ('service = "auth", path = "/", copy_headers = ["x-forwarded-user"]', "trust", "leave"),
        ('service = "auth", path = "/", copy_headers = ["x-a", "X_A"]', "already taken", "case"),
        (f'service = "auth", path = "/", copy_headers = {[f"x{n:060}" for n in range(17)]}',
         "1054 bytes of names", "copy fewer"),
    ],
)  # fmt: skip
def test_what_makes_no_sense(errors: Problems, text: str, what: str, cure: str) -> None:
    found = [each for each in errors(with_auth(asking(text))) if "forward_auth" in each.key]
    assert len(found) == 1
    assert what in f"{found[0].key}: {found[0].what}"
    assert cure in found[0].cure


@pytest.mark.parametrize(
    ("beside", "rest", "what"),
    [
        ("{ respond = {} }", "", "respond answers every request"),
        ('{ redirect = { scheme = "https" } }', "", "redirect answers every request"),
        ('{ add_prefix = "/x" }', "", "goes on to another route"),
        ('{ request_headers = { remove = ["X_A"] } }', TO_APP, "x-a: a request_headers"),
        ("", OF_BACKEND, "x-a: a request_headers"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(errors: Problems, beside: str, rest: str, what: str) -> None:
    one = asking('service = "auth", path = "/", copy_headers = ["x-a"]')
    found = errors(with_auth(", ".join(filter(None, (one, beside))), rest))
    assert any(what in each.what and "forward_auth" in each.key for each in found)


def test_a_service_that_gets_copies(load: Load) -> None:
    text = '{ mirror = { service = "auth" } }'
    mirror = load(with_auth(text)).config.routes[0].filters.mirror
    assert mirror == Mirror(service="auth", percent=100)
    text = '{ mirror = { service = "auth", port = 9091, percent = 1 } }'
    mirror = load(with_auth(text)).config.routes[0].filters.mirror
    assert mirror == Mirror(service="auth", port=9091, percent=1)


@pytest.mark.parametrize(
    ("text", "what", "cure"),
    [
        ('service = "atuh"', 'there is no service "atuh"', 'did you mean "auth"'),
        ('service = "auth", port = 53', "has no port 53", "TCP ports: 9091"),
        ('service = "auth", percent = 0', "1 to 100", "10"),
        ('service = "auth", percent = 101', "1 to 100", "10"),
        ('service = "told"', "PROXY header", "without proxy_protocol"),
    ],
)
def test_what_gets_no_copies(errors: Problems, text: str, what: str, cure: str) -> None:
    told = AUTH.replace('"auth"', '"told"\nproxy_protocol = "v2"').replace(".12", ".13")
    found = errors(with_auth(f"{{ mirror = {{ {text} }} }}") + told)
    assert len(found) == 1
    assert "filters[0].mirror" in found[0].key
    assert what in found[0].what
    assert cure in found[0].cure


@pytest.mark.parametrize("beside", ["{ respond = {} }", '{ add_prefix = "/x" }'])
def test_what_does_not_go_to_a_backend_is_not_copied(errors: Problems, beside: str) -> None:
    found = errors(with_auth(f'{{ mirror = {{ service = "auth" }} }}, {beside}', ""))
    assert [each.key for each in found] == ["route[0].filters[0].mirror"]


def test_without_one_nobody_is_asked(load: Load) -> None:
    assert filters(load, "").asked == ()
