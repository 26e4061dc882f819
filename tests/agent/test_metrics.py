"""The numbers of what concerns services; docs/reference/metrics.md has the names."""

from __future__ import annotations

from msgspec.structs import replace

from piagent.admin.exposition import render
from piagent.admin.status import EndpointStatus, NoteStatus, SessionStatus
from piagent.agent import metrics
from tests.admin.known import ScriptedServices
from tests.admin.test_server import Known
from tests.prometheus import Key, parse


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
