"""What a gateway's and a listener's rules do to requests on their way."""

from __future__ import annotations

from fastpath.engine import Engine, Gateway, Listener, Service, Tables
from tests.fastpath.http.gateways import Client, Web, to
from tests.fastpath.peers import running
from tests.net import free_port


def ask(port: int, path: str, host: str = "a.lan") -> tuple[int, bytes]:
    """Status and body of a GET."""
    with Client(port) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        status, _, body = client.response()
        return status, body


def publish(engine: Engine, web: Web, gateway: Gateway, *listeners: Listener) -> None:
    """One gateway "g" with these listeners, one service "s"."""
    engine.publish(Tables(listeners, (Service("s", (web.backend(),)),), (gateway,)))


def test_slashes_are_kept_or_merged_and_encoded_ones_refused_by_the_gateways_rules() -> None:
    web, port = Web(), free_port()
    plain = Gateway("g", False, (to(),))
    with running() as engine:
        for rules, status, line in (
            ({}, 200, b"GET /a/b HTTP/1.1"),
            ({"keeps_slashes": True}, 200, b"GET /a//b HTTP/1.1"),
            ({"refuses_slash": True}, 400, b"GET /a/b HTTP/1.1"),
        ):
            listener = Listener("127.0.0.1", port, "g", http=True)
            publish(engine, web, plain._replace(**rules), listener)
            assert ask(port, "/a//b") == (200, line)
            assert ask(port, "/a%2fb")[0] == status


def test_a_listener_serves_its_hosts_only() -> None:
    web, some, every = Web(), free_port(), free_port()
    with running() as engine:
        for any_depth in (False, True):
            publish(
                engine,
                web,
                Gateway("g", any_depth, (to(),)),
                Listener("127.0.0.1", some, "g", http=True, hosts=("a.lan", "*.b.lan")),
                Listener("127.0.0.1", every, "g", http=True),
            )
            for host, status in (
                ("A.lan:80", 200), ("x.b.lan", 200), ("b.lan", 404), ("c.lan", 404),
                ("y.x.b.lan", 200 if any_depth else 404), ("xb.lan", 404),
            ):  # fmt: skip
                assert ask(some, "/", host)[0] == status, host
                assert ask(every, "/", host)[0] == 200
