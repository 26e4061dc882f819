"""What is applied, assigned and registered, on whole agents in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from piagent.admin.api import answer
from piagent.core.applying import Change, Order, Result, Verdict
from piagent.core.model import AddressRange, Pool, PoolType, RouteBackend
from piagent.core.records import Kind
from tests.agent.nodes import Bench, config, service
from tests.core.things import gateway, route
from tests.fakes import FakeBroker
from tests.waiting import until

POOL = Pool(name="lan", addresses=(AddressRange(first="10.0.0.9", last="10.0.0.40"),))
INSIDE = Pool(
    name="inside",
    type=PoolType.CLUSTER,
    addresses=(AddressRange(first="10.96.0.0", last="10.96.0.255"),),
)


def cluster(tmp_path: Path, count: int, **changes: Any) -> list[Bench]:
    broker = FakeBroker()
    file = {"pools": (POOL, INSIDE), "services": (), **changes}
    return [Bench(config(tmp_path, f"n{i}", **file), broker).start() for i in range(1, count + 1)]


async def stop(benches: Iterable[Bench]) -> None:
    await asyncio.gather(*(bench.stop() for bench in benches))


def web(name: str = "web", **keys: Any) -> Change:
    table = {
        "name": name,
        "type": "load-balancer",
        "ports": [{"port": 80, "target_port": 8080}],
        "backends": ["10.0.0.1"],
        **keys,
    }
    return Change(kind=Kind.SERVICE, name=name, table=table)


async def apply(bench: Bench, *changes: Change, **how: Any) -> Verdict:
    return await bench.agent.services.orders.submit(Order(changes=changes, **how))


def vips(bench: Bench, name: str) -> tuple[str, ...]:
    found = [one for one in bench.agent.merged.config.services if one.name == name]
    return found[0].vips if found else ()


def everywhere(benches: Iterable[Bench], holds: Callable[[Bench], object]) -> bool:
    return all(holds(bench) for bench in benches)


async def test_applied_service_is_the_same_at_every_node_whichever_is_asked(
    tmp_path: Path,
) -> None:
    benches = cluster(tmp_path, 3)
    for i, bench in enumerate(benches):
        verdict = await apply(bench, web(f"web-{i}"))
        assert verdict.done, verdict
        assert verdict.outcomes[0].result is Result.CREATED
        assert verdict.outcomes[0].vips == (f"10.0.0.{9 + i}",)
    await until(lambda: everywhere(benches, lambda b: vips(b, "web-2") == ("10.0.0.11",)))
    ports = {one.node_port for s in benches[0].agent.merged.config.services for one in s.ports}
    assert ports == {30000, 30001, 30002}
    assert benches[1].local.inside == {"10.96.0.0", "10.96.0.1", "10.96.0.2"}
    await stop(benches)


def in_force(bench: Bench) -> dict[str, Any]:
    """Everything that is assigned, and what was applied."""
    said = bench.agent.services.registry.assignments()
    assert said is not None
    return {**said.given, **said.routes}


def notes(bench: Bench, key: str) -> list[str]:
    """What is not as it was wished about one thing."""
    return [one.reason for one in bench.agent.merged.notes if one.key == key]


def reload(bench: Bench, **changes: Any) -> None:
    """Another file for a node."""
    bench.config = replace(bench.config, **changes)
    assert bench.agent.reload(lambda: bench.config)


NODE_PORT = {"port": 80, "target_port": 8080, "node_port": 30000}
REFUSED: dict[str, tuple[tuple[Change, ...], str]] = {
    "outside every pool": ((web(address="10.0.2.1"),), "outside-pools"),
    "of another pool": ((web(address="10.0.0.20", pool="inside"),), "unknown-pool"),
    "a pool that is not there": ((web(pool="wan"),), "unknown-pool"),
    "in use": ((web(address="10.0.0.9"),), "in-use"),
    "shared by another key": ((web(address="10.0.0.9", sharing_key="other"),), "in-use"),
    "the same port of a shared one": ((web(sharing_key="one", address="10.0.0.10"),), "in-use"),
    "no IPv6 anywhere": ((web(ip_family_policy="require-dual"),), "no-family"),
    "node port in use": ((web(ports=[NODE_PORT]),), "in-use"),
    "one of two": ((web("good"), web("bad", address="10.0.2.1")), "outside-pools"),
    "not readable": ((web("good"), web("bad", adress="10.0.0.11")), "adress"),
    "a route to nowhere": (
        (
            web("good"),
            Change(kind=Kind.ROUTE, name="r", table={"name": "r", "gateway": "none"}),
        ),
        "none",
    ),
    "a name in a file": ((web("filed"),), "file"),
    "twice": ((web("good"), web("good")), "twice"),
}
"""What is wrong -> an order, and what the answer says of it."""


async def test_what_cannot_be_is_refused_with_the_reason_and_nothing_changes(
    tmp_path: Path,
) -> None:
    benches = cluster(tmp_path, 2, services=(service("filed", None),))
    held = web("held"), web("shared", sharing_key="one")
    for one in held:
        assert (await apply(benches[0], one)).done
    before = in_force(benches[0])
    failed = []
    for what, (changes, why) in REFUSED.items():
        body = msgspec.json.encode(Order(changes=changes))
        for bench in benches:
            said = await answer(bench.agent.view, "POST", "/api/v1/apply", body)
            if said.status != 409 or why not in said.body.decode():
                failed.append(f"{what}: {said.status} {said.body.decode()}")
    assert not failed, "\n".join(failed)
    assert in_force(benches[0]) == in_force(benches[1]) == before
    await stop(benches)


async def test_a_pool_that_is_empty_refuses_until_somebody_leaves(tmp_path: Path) -> None:
    small = replace(POOL, addresses=(AddressRange(first="10.0.0.9", last="10.0.0.10"),))
    benches = cluster(tmp_path, 2, pools=(small, INSIDE))
    assert (await apply(benches[0], web("a"), web("b"))).done
    verdict = await apply(benches[1], web("c"))
    assert [one.result for one in verdict.outcomes] == [Result.REFUSED]
    assert "exhausted" in verdict.outcomes[0].detail
    dry = await apply(benches[1], replace(web("a"), table=None), web("c"), dry_run=True)
    assert not dry.done
    assert [one.result for one in dry.outcomes] == [Result.DELETED, Result.CREATED]
    assert dry.outcomes[1].vips == ("10.0.0.9",)
    assert vips(benches[1], "a") == ("10.0.0.9",), "it was dry"
    verdict = await apply(benches[1], replace(web("a"), table=None), web("c"))
    assert verdict.done, verdict
    await until(lambda: everywhere(benches, lambda b: vips(b, "c") == ("10.0.0.9",)))
    assert not any(vips(bench, "a") for bench in benches)
    assert vips(benches[0], "b") == ("10.0.0.10",)
    await stop(benches)


async def test_a_disabled_pool_keeps_what_it_gave_and_gives_no_more(tmp_path: Path) -> None:
    other = Pool(name="other", addresses=(AddressRange(first="10.0.1.1", last="10.0.1.9"),))
    benches = cluster(tmp_path, 2, pools=(POOL, other, INSIDE))
    assert (await apply(benches[0], web("before"))).done
    for bench in benches:
        reload(bench, pools=(replace(POOL, disabled=True), other, INSIDE))
    verdict = await apply(benches[0], web("after"))
    assert verdict.outcomes[0].vips == ("10.0.1.1",)
    await until(lambda: everywhere(benches, lambda b: vips(b, "after") == ("10.0.1.1",)))
    assert vips(benches[1], "before") == ("10.0.0.9",)
    for bench in benches:
        reload(bench, pools=(other, INSIDE))
    await until(lambda: everywhere(benches, lambda b: vips(b, "before") == ("10.0.1.2",)))
    assert vips(benches[1], "after") == ("10.0.1.1",)
    await stop(benches)


async def test_a_node_without_the_pool_never_owns_the_vip_and_says_so(tmp_path: Path) -> None:
    broker = FakeBroker()
    with_pool = Bench(config(tmp_path, "n1", pools=(POOL, INSIDE), services=()), broker).start()
    other = Pool(name="other", addresses=(AddressRange(first="10.0.1.1", last="10.0.1.9"),))
    without = Bench(config(tmp_path, "n2", pools=(other,), services=()), broker).start()
    benches = [with_pool, without]
    assert (await apply(without, web(pool="lan"), web("mine", pool="other"))).done
    await until(lambda: everywhere(benches, notes_of_pools), "both say it")
    assert notes(without, "service/web") == ["no-such-pool-here"]
    assert notes(with_pool, "service/mine") == ["no-such-pool-here"]
    assert vips(without, "web") == ()
    await until(lambda: with_pool.owns("10.0.0.9") and without.owns("10.0.1.1"))
    assert [one.node_port for s in without.agent.merged.config.services for one in s.ports] == [
        one.node_port for s in with_pool.agent.merged.config.services for one in s.ports
    ], "node ports are on both"
    await stop(benches)


def notes_of_pools(bench: Bench) -> list[str]:
    return [one.key for one in bench.agent.merged.notes if one.reason == "no-such-pool-here"]


async def test_what_is_in_a_file_counts_there_and_what_was_applied_elsewhere(
    tmp_path: Path,
) -> None:
    benches = cluster(tmp_path, 2)
    assert (await apply(benches[0], web(address="10.0.0.20"))).done
    await until(lambda: everywhere(benches, lambda b: vips(b, "web") == ("10.0.0.20",)))
    reload(benches[0], services=(service("web", "10.0.0.30"),))
    await until(lambda: vips(benches[0], "web") == ("10.0.0.30",))
    assert notes(benches[0], "service/web") == ["name-taken"]
    verdict = await apply(benches[1], replace(web(), table=None))
    assert verdict.outcomes[0].result is Result.DELETED, verdict
    await until(lambda: not vips(benches[1], "web"), "it was applied, and is not any more")
    assert vips(benches[0], "web") == ("10.0.0.30",), "the file's goes on"
    await until(lambda: notes(benches[0], "service/web") == [])
    verdict = await apply(benches[1], web())
    assert verdict.outcomes[0].result is Result.REFUSED, "now it is the file's"
    await stop(benches)


async def test_a_service_of_a_file_may_move_its_ports_and_keeps_its_address(tmp_path: Path) -> None:
    unasked = replace(service("web", "10.0.0.9"), vips=(), node_ports=True)
    benches = cluster(tmp_path, 2, services=(unasked,))
    await until(lambda: everywhere(benches, lambda b: vips(b, "web") == ("10.0.0.9",)))
    assert (await apply(benches[0], web("next"))).done
    moved = tuple(replace(port, port=81) for port in unasked.ports)
    for bench in benches:
        reload(bench, services=(replace(unasked, ports=moved),))
    await until(
        lambda: everywhere(
            benches,
            lambda b: any(
                (one.address, one.port) == ("10.0.0.9", 81) for one in b.plane.plans[-1].listeners
            ),
        )
    )
    assert everywhere(benches, lambda b: vips(b, "next") == ("10.0.0.10",))
    reload(benches[0], services=())
    await until(lambda: vips(benches[1], "web") == ("10.0.0.9",), "the other file has it still")
    assert (await apply(benches[0], web("third"))).outcomes[0].vips == ("10.0.0.11",)
    await stop(benches)


async def test_routes_that_nothing_reaches_are_notes(tmp_path: Path) -> None:
    front = replace(
        gateway("front"), vips=("10.0.0.10",), default_backend=RouteBackend(service="web")
    )
    (one,) = cluster(
        tmp_path,
        1,
        services=(service("web", "10.0.0.9", "10.0.0.1", check=False),),
        gateways=(front,),
        routes=(route("a", "front", "web"), route("b", "front", "web")),
    )
    await until(lambda: one.agent.view.status().notes, "it serves")
    notes = one.agent.view.status().notes
    assert [(note.about, note.reason, note.detail) for note in notes] == [
        ("route/b", "never-taken", "a takes all its requests for any host"),
        ("gateway/front", "never-taken", "a takes all its requests for any host"),
    ]
    await one.stop()
