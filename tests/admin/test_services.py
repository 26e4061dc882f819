"""What the admin API does about services: the real server, services as a test says they are."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from piagent.admin import services
from piagent.admin.answer import Answer
from piagent.admin.api import PATHS, WRITES, answer
from piagent.admin.client import AskError, Remote, ask
from piagent.admin.server import AdminServer
from piagent.admin.status import (
    AppliedStatus,
    Done,
    EndpointStatus,
    PoolStatus,
    RegisterEndpoint,
    RemoveEndpoint,
    Why,
    WhyService,
)
from piagent.core.applying import MAX_CHANGES, Change, Order, Result, Verdict
from piagent.core.model import Listen
from piagent.core.records import Kind
from tests.admin.known import BACKEND, WEB, ScriptedServices, created
from tests.admin.test_server import Known, exchange, get, post, serving
from tests.net import free_port

APPLY, REGISTER = "/api/v1/apply", "/api/v1/endpoints/register"
REMOVE = "/api/v1/endpoints/remove"
TABLE = {"name": "web", "type": "cluster", "ports": [{"port": 80}]}
TOKEN = "0123456789abcdef"


class Source(Known):
    """With services of its own, so that a test sees what it was asked alone."""

    def __init__(self) -> None:
        self.services: ScriptedServices = ScriptedServices()


def say(source: Known, method: str, path: str, body: bytes = b"") -> Answer:
    return asyncio.run(answer(source, method, path, body))


def order(*changes: Change, **how: Any) -> bytes:
    return msgspec.json.encode(Order(changes=changes, **how))


def change(name: str = "web", **how: Any) -> Change:
    return Change(kind=Kind.SERVICE, name=name, table=TABLE, **how)


# ---- each path, asked as it is meant ---------------------------------------------------------


def test_an_order_reaches_the_leader_as_it_was_written_and_its_verdict_comes_back() -> None:
    source = Source()
    reply = say(source, "POST", APPLY, order(change(version=2), dry_run=True))
    assert source.services.orders == [Order(changes=(change(version=2),), dry_run=True)]
    verdict = msgspec.json.decode(reply.body, type=Verdict)
    assert reply.status == 200
    assert not verdict.done
    assert [(one.name, one.result, one.version) for one in verdict.outcomes] == [
        ("web", Result.CHANGED, 3)
    ]


def test_a_conflict_is_409_with_every_outcome_and_the_diff() -> None:
    reply = say(Source(), "POST", APPLY, order(change(version=1), change("db")))
    verdict = msgspec.json.decode(reply.body, type=Verdict)
    assert reply.status == 409
    assert not verdict.done
    assert [one.result for one in verdict.outcomes] == [Result.CONFLICT, Result.CONFLICT]
    assert verdict.outcomes[0].diff == ('-type = "load-balancer"', '+type = "cluster"')


def test_an_order_that_no_leader_took_is_503_with_the_reason() -> None:
    source = Source()
    source.services.verdict = Verdict(done=False, error="no node leads the cluster now; try again")
    reply = say(source, "POST", APPLY, order(change()))
    assert reply.status == 503
    assert json.loads(reply.body) == {
        "error": "not done",
        "detail": "no node leads the cluster now; try again",
    }


def test_what_is_unchanged_is_no_refusal() -> None:
    source = Source()
    same = msgspec.structs.replace(created("web"), result=Result.UNCHANGED)
    source.services.verdict = Verdict(done=True, outcomes=(same,))
    assert say(source, "POST", APPLY, order(change())).status == 200


def test_an_endpoint_is_registered_and_removed() -> None:
    source = Source()
    body = b'{"service":"web","port":8080}'
    reply = say(source, "POST", REGISTER, body)
    assert reply.status == 200
    assert msgspec.json.decode(reply.body, type=EndpointStatus).address == "10.0.0.1:8080"
    assert source.services.registered == [RegisterEndpoint(service="web", port=8080)]
    assert say(source, "POST", REMOVE, body).status == 200
    assert source.services.removed == [RemoveEndpoint(service="web", port=8080)]


def test_what_cannot_be_registered_is_409_and_what_is_not_there_404() -> None:
    body = b'{"service":"nope","port":8080}'
    refused = say(Source(), "POST", REGISTER, body)
    assert refused.status == 409
    assert "there are: web" in json.loads(refused.body)["detail"]
    assert say(Source(), "POST", REMOVE, body).status == 404


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/v1/applied", AppliedStatus),
        ("/api/v1/pools", PoolStatus),
        ("/api/v1/endpoints", EndpointStatus),
    ],
)
def test_lists_are_what_the_source_says(path: str, kind: type) -> None:
    reply = say(Source(), "GET", path)
    assert reply.status == 200
    said = msgspec.json.decode(reply.body, type=tuple[kind, ...])  # type: ignore[valid-type]
    assert said == getattr(ScriptedServices(), path.rpartition("/")[2])()


def test_why_is_of_a_vip_or_of_a_name_and_says_which() -> None:
    of_vip = say(Source(), "GET", "/api/v1/why/127.0.0.9")
    of_name = say(Source(), "GET", "/api/v1/why/web")
    assert json.loads(of_vip.body)["of"] == "vip"
    assert json.loads(of_name.body)["of"] == "name"
    either = Why | WhyService
    assert isinstance(msgspec.json.decode(of_vip.body, type=either), Why)
    assert msgspec.json.decode(of_name.body, type=either) == ScriptedServices().why("web")
    neither = say(Source(), "GET", "/api/v1/why/nope")
    assert neither.status == 404
    assert "no VIP, service or gateway" in json.loads(neither.body)["detail"]


# ---- asked otherwise -------------------------------------------------------------------------


@pytest.mark.parametrize("path", services.WRITES)
@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{}", b"nonsense", b"\xff\xfe", b"{" * 5000, b"[" * 30_000,
        b'{"changes":[],"service":"","port":0}', b'{"changes":5,"service":5,"port":"x"}',
    ],
)  # fmt: skip
def test_garbage_is_400_and_reaches_nobody(path: str, body: bytes) -> None:
    source = Source()
    source.services = Untouched()
    reply = say(source, "POST", path, body)
    assert reply.status == 400
    assert json.loads(reply.body)["error"] == "bad request"


class Untouched(ScriptedServices):
    """Nobody may ask it for anything."""

    async def apply(self, order: Order) -> Verdict:
        raise AssertionError(order)

    def register(self, asked: RegisterEndpoint) -> EndpointStatus | str:
        raise AssertionError(asked)

    def remove(self, asked: RemoveEndpoint) -> bool:
        raise AssertionError(asked)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"changes": [{"kind": "pool", "name": "x"}]}, "kind"),
        ({"changes": [{"kind": "service", "name": "a/b"}]}, "name"),
        ({"changes": [{"kind": "service", "name": "#"}]}, "name"),
        ({"changes": [{"kind": "service", "name": "web\n"}]}, "name"),
        ({"changes": [{"kind": "service", "name": "x" * 64}]}, "name"),
        ({"changes": [{"kind": "service", "name": "web", "table": []}]}, "table"),
        ({"changes": [{"kind": "service", "name": "web", "version": "1"}]}, "version"),
        ({"changes": [{"kind": "service", "name": "w"}] * (MAX_CHANGES + 1)}, "changes"),
    ],
)
def test_an_order_of_another_form_says_what_is_wrong(body: object, names: str) -> None:
    source = Source()
    source.services = Untouched()
    reply = say(source, "POST", APPLY, msgspec.json.encode(body))
    assert reply.status == 400
    assert names in json.loads(reply.body)["detail"]


def test_unknown_keys_of_an_endpoint_are_refused() -> None:
    body = b'{"service":"web","port":8080,"force":true}'
    assert say(Source(), "POST", REGISTER, body).status == 400
    assert say(Source(), "POST", REMOVE, body).status == 400


@pytest.mark.parametrize("path", services.WRITES)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_what_writes_is_posted(path: str, method: str) -> None:
    reply = say(Source(), method, path)
    assert (reply.status, dict(reply.headers)) == (405, {"Allow": "POST"})


@pytest.mark.parametrize("path", services.READS)
def test_what_reads_is_not_posted(path: str) -> None:
    reply = say(Source(), "POST", path, b"{}")
    assert (reply.status, dict(reply.headers)) == (405, {"Allow": "GET, HEAD"})


def test_the_paths_are_part_of_the_api() -> None:
    assert services.READS.keys() <= PATHS.keys()
    assert services.WRITES.keys() <= WRITES.keys()


# ---- over real sockets -----------------------------------------------------------------------


def test_a_large_order_is_taken_and_one_that_is_too_large_is_413(tmp_path: Path) -> None:
    async def scenario() -> tuple[bytes, bytes]:
        path = tmp_path / "admin.sock"
        source = Source()
        async with serving(path, source):
            large = order(change()).ljust(64 * 1024)
            taken = await exchange(path, post(APPLY, large))
            assert len(source.services.orders) == 1
            return taken, await exchange(path, post(APPLY, large + b" "))

    taken, refused = asyncio.run(scenario())
    assert taken.startswith(b"HTTP/1.1 200 ")
    assert refused.startswith(b"HTTP/1.1 413 ")
    assert b"65536" in refused


def test_the_client_takes_a_verdict_from_a_409_and_other_refusals_as_errors(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "admin.sock")

    def asked() -> None:
        conflict = Order(changes=(change(version=1),))
        verdict = ask(path, APPLY, Verdict, conflict, answers=(200, 409))
        assert verdict.outcomes[0].result is Result.CONFLICT
        with pytest.raises(AskError) as caught:
            ask(path, APPLY, Verdict, {"changes": []}, answers=(200, 409))
        assert caught.value.status == 400
        with pytest.raises(AskError, match="there is no service") as caught:
            ask(path, REGISTER, EndpointStatus, RegisterEndpoint("nope", 8080))
        assert caught.value.status == 409
        assert ask(path, "/api/v1/applied", tuple[AppliedStatus, ...])[0] == WEB
        why = ask(path, "/api/v1/why/web", WhyService)
        assert why.backends == (BACKEND,)

    async def scenario() -> None:
        async with serving(tmp_path / "admin.sock", Source()):
            await asyncio.to_thread(asked)

    asyncio.run(scenario())


@pytest.mark.parametrize("path", services.WRITES)
def test_writes_over_tcp_need_the_token(path: str, tmp_path: Path) -> None:
    source = Source()
    bodies: dict[str, object] = {
        APPLY: Order(changes=(change(),)),
        REGISTER: RegisterEndpoint("web", 8080),
        REMOVE: RemoveEndpoint("web", 8080),
    }

    def asked(port: int) -> None:
        kind: type = {APPLY: Verdict, REGISTER: EndpointStatus, REMOVE: Done}[path]
        for token in (None, "another token of 32"):
            with pytest.raises(AskError) as caught:
                ask(Remote(host="127.0.0.1", port=port, token=token), path, kind, bodies[path])
            assert caught.value.status == 401
        known = source.services
        assert [*known.orders, *known.registered, *known.removed] == []
        where = Remote(host="127.0.0.1", port=port, token=TOKEN)
        assert isinstance(ask(where, path, kind, bodies[path]), kind)

    async def scenario() -> None:
        port = free_port()
        listen = Listen(address="127.0.0.1", port=port)
        server = AdminServer(str(tmp_path / "admin.sock"), source, listen, TOKEN)
        await server.start()
        try:
            await asyncio.to_thread(asked, port)
        finally:
            await server.stop()

    asyncio.run(scenario())


def test_without_a_token_nothing_is_applied_over_tcp(tmp_path: Path) -> None:
    source = Source()

    async def scenario() -> bytes:
        port = free_port()
        listen = Listen(address="127.0.0.1", port=port)
        server = AdminServer(str(tmp_path / "admin.sock"), source, listen, None)
        await server.start()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            # A Host with which reading is allowed.
            writer.write(post(APPLY, order(change())).replace(b"Host: x", b"Host: 127.0.0.1"))
            reply = await reader.read()
            writer.close()
            return reply
        finally:
            await server.stop()

    reply = asyncio.run(scenario())
    assert reply.startswith(b"HTTP/1.1 403 ")
    assert b"needs a token" in reply
    assert source.services.orders == []


def test_pools_are_listed_over_the_socket(tmp_path: Path) -> None:
    async def scenario() -> bytes:
        async with serving(tmp_path / "admin.sock", Source()):
            return await exchange(tmp_path / "admin.sock", get("/api/v1/pools"))

    body = asyncio.run(scenario()).partition(b"\r\n\r\n")[2]
    assert [pool["name"] for pool in json.loads(body)] == ["lan", "old"]
