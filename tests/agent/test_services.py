"""What is applied, assigned and registered, on whole agents in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from piagent.core.applying import Change, Order, Result, Verdict
from piagent.core.model import AddressRange, Pool, PoolType
from piagent.core.records import Kind
from tests.agent.nodes import Bench, config
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
    return [
        Bench(config(tmp_path, f"n{i}", **file), broker).start() for i in range(1, count + 1)
    ]


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
