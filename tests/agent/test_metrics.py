"""The numbers of what concerns services; docs/reference/metrics.md has the names."""

from __future__ import annotations

import socket

import pytest
from msgspec.structs import replace

from piagent.admin.exposition import render
from piagent.admin.status import EndpointStatus, NoteStatus, SessionStatus
from piagent.agent import metrics
from piagent.core.plan import Plan, PlannedBackend, PlannedListener, PlannedService
from tests.admin.known import ScriptedServices
from tests.admin.test_server import Known
from tests.net import free_port
from tests.prometheus import Key, parse
from tests.waiting import wait_until


def values(text: bytes, name: str) -> dict[Key, float]:
    return parse(text)[name].samples


def key(name: str, **labels: str) -> Key:
    return name, tuple(sorted(labels.items()))


def test_pools_are_counted_by_family_and_state() -> None:
    name = "piagent_pool_addresses"
    said = values(render(metrics.of_pools(ScriptedServices().pools())), name)
    assert {(n, tuple(sorted(labels))): value for (n, labels), value in said.items()} == {
        key(name, pool="lan", family="4", state="used"): 3,
        key(name, pool="lan", family="4", state="free"): 29,
        key(name, pool="lan", family="6", state="used"): 1,
        key(name, pool="lan", family="6", state="free"): 2**53,
        key(name, pool="old", family="4", state="used"): 4,
        key(name, pool="old", family="4", state="free"): 0,
    }


def test_endpoints_are_counted_by_service() -> None:
    endpoints = [
        EndpointStatus(node="n1", service=service, address=f"10.0.0.{i}:80")
        for i, service in enumerate(("web", "db", "web"))
    ]
    name = "piagent_endpoints"
    assert values(render(metrics.of_endpoints(endpoints)), name) == {
        key(name, service="db"): 1,
        key(name, service="web"): 2,
    }


def test_a_note_is_there_once_whatever_its_details_are() -> None:
    notes = [
        NoteStatus(about="service/web", reason="exhausted", detail=detail)
        for detail in ("vip", "cluster")
    ]
    status = replace(Known().status(), notes=tuple(notes))
    name = "piagent_service_notes"
    said = values(render(metrics.of_status(status)), name)
    assert said == {key(name, about="service/web", reason="exhausted"): 1}


def test_a_session_is_up_or_not() -> None:
    sessions = tuple(
        SessionStatus(peer=peer, up=up, reason="") for peer, up in (("a", True), ("b", False))
    )
    status = replace(Known().status(), bgp=sessions)
    name = "piagent_bgp_session_up"
    assert values(render(metrics.of_status(status)), name) == {
        key(name, peer="a"): 1,
        key(name, peer="b"): 0,
    }


def test_what_the_engine_counts_of_a_service_is_there() -> None:
    plane = pytest.importorskip("piagent.dataplane").EngineDataPlane(1, b"secret")
    port = free_port()
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            to = server.getsockname()[1]
            backends = (PlannedBackend("b", "127.0.0.1", to, 1, up=True),)
            listener = PlannedListener("127.0.0.1", port, "s:1", http=False)
            plane.apply(Plan((listener,), (PlannedService("s:1", backends),), ()))
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                accepted, _ = server.accept()
                accepted.close()
                assert client.recv(1) == b""
        wait_until(lambda: plane.connections("127.0.0.1") == 0)
        plane.apply(Plan((listener,), (PlannedService("s:1", ()),), ()))
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            assert client.recv(1) == b""
        wait_until(lambda: plane.connections("127.0.0.1") == 0)
        plane.apply(Plan((listener,), (PlannedService("s:1", backends),), ()))
        text = render(metrics.of_engine(plane.stats()))
    finally:
        plane.stop()

    def said(name: str) -> dict[Key, float]:
        found = values(text, name).items()
        return {(each, tuple(sorted(labels))): value for (each, labels), value in found}

    of = {"service": "s:1", "backend": "b"}
    for name in ("piagent_backend_ejected", "piagent_backend_ejections_total"):
        assert said(name) == {key(name, **of): 0}
    for name, reason in (
        ("piagent_connections_ended_total", "backend"),
        ("piagent_connections_rejected_total", "no_backend"),
    ):
        assert said(name)[key(name, service="s:1", reason=reason)] == 1
        assert sum(said(name).values()) == 1
    for name in ("piagent_connect_seconds", "piagent_session_seconds"):
        assert key(f"{name}_count", **of) in said(name)
        assert key(f"{name}_bucket", **of, le="+Inf") in said(name)
