"""What becomes of the header fields of a share of a route's requests."""

from __future__ import annotations

import pytest

from fastpath.engine import Gateway, Listener, Service, Tables, Target
from fastpath.filters import Cors, Filters, HeaderEdits
from tests.fastpath.http.gateways import Client, Web, ok, to
from tests.fastpath.peers import running
from tests.net import free_port


def edits(name: str) -> HeaderEdits:
    return HeaderEdits(set=(("x-share", name),), add=(("x-more", name),), remove=(f"x-no-{name}",))


OF_ROUTE = HeaderEdits(set=(("x-route", "r"),))
SENT = ("X-Share: client", "X_More: client", "X-No-A: 1", "x-no-b: 2")
TARGETS = (
    Target("none", 0, edits("none"), edits("none")),  # no share: its edits are nobody's
    Target("a", 1, edits("a")),
    Target("b", 1, edits("b"), edits("b")),
    Target("c", 1),
)


@pytest.mark.parametrize(
    "of_route",
    [
        Filters(),
        Filters(request_headers=OF_ROUTE, response_headers=OF_ROUTE),
        Filters(cors=Cors(("*",)), response_headers=OF_ROUTE),
    ],
)
def test_each_share_has_its_own_edits(of_route: Filters) -> None:
    webs = {
        name: Web(lambda _peer, _seen: ok(b"x", b"x-share: backend", b"x-no-b: backend"))
        for name in "abc"
    }
    services = tuple(Service(name, (web.backend(),)) for name, web in webs.items())
    route = to(targets=TARGETS, filters=of_route)
    with running() as engine:
        port = free_port()
        listener = Listener("127.0.0.1", port, "g", http=True)
        none = Service("none", ())
        engine.publish(Tables((listener,), (none, *services), (Gateway("g", False, (route,)),)))
        with Client(port) as client:
            answers = [client.get("/", *SENT)[1] for _ in range(24)]
    for name, web in webs.items():
        assert web.requests
        for seen in web.requests:
            own = name != "c"
            assert seen.all("x-share") == ([name] if own else ["client"])
            assert seen.all("x-more") == ([name] if own else [])
            assert seen.all("x-no-a") == ([] if name == "a" else ["1"])
            assert seen.all("x-no-b") == ([] if name == "b" else ["2"])
            assert seen.all("x-route") == (["r"] if of_route.request_headers.set else [])
    edited = [fields for fields in answers if fields["x-share"] == "b"]
    assert len(edited) == len(webs["b"].requests)
    for fields in answers:
        assert fields.get("x-more") == ("b" if fields in edited else None)
        assert ("x-no-b" in fields) == (fields not in edited)
        assert fields.get("x-route") == ("r" if of_route.response_headers.set else None)
        assert fields.get("access-control-allow-origin") == ("*" if of_route.cors else None)
        assert fields["content-length"] == "1"


def test_what_route_and_target_write_fits_together_or_is_refused() -> None:
    half = HeaderEdits(set=(("a", "1" * 2042),))
    rest = HeaderEdits(set=(("b", "1" * 2044),))
    web = Web(lambda _peer, _seen: ok(b"x"))
    with running() as engine:
        port = free_port()

        def publish(of_target: HeaderEdits) -> None:
            targets = (Target("s", 1, of_target, of_target),)
            filters = Filters(request_headers=half, response_headers=half)
            route = to(targets=targets, filters=filters)
            listener = Listener("127.0.0.1", port, "g", http=True)
            service = Service("s", (web.backend(),))
            engine.publish(Tables((listener,), (service,), (Gateway("g", False, (route,)),)))

        with pytest.raises(ValueError, match="size of the fields 4097"):
            publish(HeaderEdits(set=(("b", "1" * 2045),)))
        publish(rest)
        with Client(port) as client:
            fields = client.get("/")[1]
            assert (len(fields["a"]), len(fields["b"])) == (2042, 2044)
    assert len(web.requests[0].all("b")[0]) == 2044
