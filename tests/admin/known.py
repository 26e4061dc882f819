"""Services as a test says they are: answers `piagent.admin.services.ServiceSource`."""

from __future__ import annotations

from piagent.admin.status import (
    AppliedStatus,
    BackendStatus,
    EndpointStatus,
    NoteStatus,
    PoolCount,
    PoolStatus,
    PortStatus,
    RegisterEndpoint,
    RemoveEndpoint,
    WhyService,
)
from piagent.core.applying import Order, Outcome, Result, Verdict
from piagent.core.model import host_port
from piagent.core.records import Kind
from tests.admin.test_server import KnownServices

HTTP = PortStatus(name="http", port=80, protocol="tcp", node_port=30000)
BACKEND = BackendStatus(address="10.0.0.21", weight=1, up=True, since=1, reason="answers")
NOTE = NoteStatus(about="service/web", reason="exhausted", detail="vip: lan has none left")
WEB = AppliedStatus(
    kind="service",
    name="web",
    version=2,
    table={
        "name": "web",
        "type": "load-balancer",
        "ports": [{"name": "http", "port": 80, "target_port": 8080}],
        "backends": ["10.0.0.21"],
    },
    vips=("10.0.0.9",),
    cluster_ips=("10.96.0.1",),
    node_ports={"http": 30000},
)
UNHEARD = AppliedStatus(
    kind="route", name="api", version=1, table={}, vips=(), cluster_ips=(), node_ports={}
)


class ScriptedServices(KnownServices):
    """One service, `web`: version 2 of it is applied."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.verdict: Verdict | None = None
        """What every order gets; None: each change is made, but of `web` version 2 counts."""
        self.registered: list[RegisterEndpoint] = []
        self.removed: list[RemoveEndpoint] = []

    async def apply(self, order: Order) -> Verdict:
        self.orders.append(order)
        if self.verdict is not None:
            return self.verdict
        outcomes = tuple(
            Outcome(
                kind=one.kind,
                name=one.name,
                result=Result.DELETED if one.table is None else Result.CHANGED,
                version=3,
            )
            if one.key == "service/web" and one.version in {None, 2}
            else Outcome(
                kind=one.kind,
                name=one.name,
                result=Result.CONFLICT,
                version=2,
                detail=f"it has version 2, not {one.version}",
                diff=('-type = "load-balancer"', '+type = "cluster"'),
            )
            for one in order.changes
        )
        fine = all(one.result is not Result.CONFLICT for one in outcomes)
        return Verdict(done=fine and not order.dry_run, outcomes=outcomes)

    def applied(self) -> tuple[AppliedStatus, ...]:
        return WEB, UNHEARD

    def pools(self) -> tuple[PoolStatus, ...]:
        lan = PoolStatus(
            name="lan",
            type="load-balancer",
            addresses=("10.0.0.9-10.0.0.40", "fd00::-fd00::ffff:ffff:ffff:ffff"),
            disabled=False,
            counts=(
                PoolCount(family=4, total=32, used=3, free=29),
                PoolCount(family=6, total=2**53, used=1, free=2**53),
            ),
        )
        old = PoolStatus(
            name="old",
            type="cluster",
            addresses=("10.96.0.0-10.96.0.3",),
            disabled=True,
            counts=(PoolCount(family=4, total=4, used=4, free=0),),
        )
        return lan, old

    def endpoints(self) -> tuple[EndpointStatus, ...]:
        return (EndpointStatus(node="pi-2", service="web", address="10.0.0.22:8080"),)

    def register(self, asked: RegisterEndpoint) -> EndpointStatus | str:
        self.registered.append(asked)
        if asked.service != "web":
            return f"there is no service {asked.service!r} that has backends (there are: web)"
        address = host_port(asked.address or "10.0.0.1", asked.port)
        return EndpointStatus(node="pi-1", service="web", address=address)

    def remove(self, asked: RemoveEndpoint) -> bool:
        self.removed.append(asked)
        return asked.service == "web"

    def why(self, name: str) -> WhyService | None:
        if name != "web":
            return None
        return WhyService(
            name="web",
            kind="service",
            applied=2,
            vips=("10.0.0.9", "fd00::9"),
            cluster_ips=("10.96.0.1",),
            ports=(HTTP,),
            pool="lan",
            given="lowest-free",
            owners={"10.0.0.9": "pi-2", "fd00::9": None},
            notes=(NOTE,),
            backends=(BACKEND,),
            mode="nat",
        )


def created(name: str, *vips: str) -> Outcome:
    return Outcome(
        kind=Kind.SERVICE,
        name=name,
        result=Result.CREATED,
        version=1,
        vips=vips,
        node_ports={"http": 30000},
    )
