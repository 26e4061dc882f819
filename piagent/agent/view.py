"""The agent as the admin API shows it."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable

from piagent import __version__
from piagent.adapters.clock import wall_ms
from piagent.admin.answer import Refused
from piagent.admin.exposition import Family
from piagent.admin.flow import flow_status, forwarded_status
from piagent.admin.status import (
    FlowStatus,
    ForwardingStatus,
    NodeStatus,
    RejectedNode,
    RouteStatus,
    Status,
    Target,
    Tunnel,
    UnreachedStatus,
    VipStatus,
    Why,
)
from piagent.admin.tunnel import way
from piagent.agent import metrics
from piagent.agent.access_log import AccessLog
from piagent.agent.brokers import BrokerBook
from piagent.agent.election import Election
from piagent.agent.flow_handover import FlowHandOvers
from piagent.agent.handover import HandOverError
from piagent.agent.health import HealthLoop
from piagent.agent.services_view import ServicesView
from piagent.agent.serving import Serving
from piagent.agent.steward import Steward
from piagent.agent.watch import Watch
from piagent.core.flow import FlowQuestion
from piagent.core.lease_types import LEADER, KeyView, State
from piagent.core.model import Config
from piagent.core.wire import Presence
from piagent.ports import Clock, DataPlane, Fence, Forwarding


class View:
    """Answers `piagent.admin.api.Source` from the agent's parts."""

    def __init__(
        self,
        *,
        clock: Clock,
        plane: DataPlane,
        forwarding: Forwarding,
        fence: Fence,
        brokers: BrokerBook,
        election: Election,
        flows: FlowHandOvers,
        health: HealthLoop,
        serving: Serving,
        watch: Watch,
        steward: Steward,
        reloads: Counter[str],
        access_log: AccessLog,
        services: Callable[[int], ServicesView],
    ) -> None:
        """Looks at the parts when asked, keeps nothing."""
        self._clock = clock
        self._plane = plane
        self._forwarding = forwarding
        self._brokers = brokers
        self._election = election
        self._flows = flows
        self._health = health
        self._serving = serving
        self._fence = fence
        self._watch = watch
        self._steward = steward
        self._reloads = reloads
        self._access_log = access_log
        self._started_ms = wall_ms()
        self.services = services(self._started_ms)

    def status(self) -> Status:
        """The node as a whole."""
        config = self._serving.config
        reason = self._why_not_ready()
        return Status(
            node=config.node.name,
            cluster=config.cluster,
            version=__version__,
            started=self._started_ms,
            ready=reason is None,
            reason=reason or "ready",
            brokers=self._brokers.statuses(),
            leader=self._leader(),
            fence=self._fence.why_not or "holds",
            nodes=self._nodes(),
            vips=tuple(
                self._vip(config, view) for view in self._election.views() if view.key != LEADER
            ),
            services=self.services.services(),
            gateways=self.services.gateways(),
            notes=self.services.notes(),
            routed=self.services.routed(),
            bgp=self.services.sessions(),
            drains=self.services.drains() if self._serving.drains else (),
            forwarding=self._forwarding_status(),
        )

    def routes(self) -> tuple[RouteStatus, ...]:
        """The match tables of all gateways."""
        plan = self._serving.plan
        return tuple(
            RouteStatus(
                gateway=gateway.name,
                name=route.name,
                host=route.host,
                path=route.path,
                exact=route.exact,
                targets=tuple(Target(each.service, each.weight) for each in route.targets),
                regex=route.regex,
                methods=route.methods,
                headers=tuple(map(str, route.headers)),
                query=tuple(map(str, route.query)),
            )
            for gateway in (plan.gateways if plan else ())
            for route in gateway.routes
        )

    def metrics(self) -> Iterable[Family]:
        """Every metric."""
        election = self._election
        status = self.status()
        yield from metrics.of_status(status)
        yield from metrics.of_health(self._health.results, status.node, status.services)
        yield from metrics.of_pools(self.services.pools())
        yield from metrics.of_endpoints(self.services.endpoints())
        tenure = election.tenure
        yield from metrics.of_election(tenure.transitions, tenure.alarms, election.failover)
        yield from metrics.of_flow_handovers(self._flows.counted, self._flows.refused)
        yield from metrics.of_conflicts(self._watch.conflicts)
        yield from metrics.of_reloads(self._reloads)
        stats = self._plane.stats()
        yield from metrics.of_engine(stats)
        yield from metrics.of_forwarding(self._forwarding.stats())
        yield from metrics.of_access_log(stats["log_dropped"], self._access_log.dropped)

    def _forwarding_status(self) -> ForwardingStatus | None:
        state = self._forwarding.state()
        if state is None:
            return None
        return ForwardingStatus(
            flow_cache=state.mode,
            reason=state.reason,
            unreached=tuple(
                UnreachedStatus(service=one.target, backend=one.backend, reason=one.reason)
                for one in state.unreached
            ),
        )

    def _why_not_ready(self) -> str | None:
        if self._serving.plan is None:
            return "the first plan is not served yet"
        if not self._brokers.quorum():
            return "fewer than a majority of the brokers are connected"
        return None

    async def move(self, vip: str, node: str) -> str | None:
        """Move a VIP; None when it is there, else why not."""
        try:
            await self._steward.move(vip, node)
        except HandOverError as error:
            return str(error)
        return None

    def drain(self, node: str, *, drain: bool) -> str | None:
        """Drain a node (empty: this one), or have it take part again; why not, or None."""
        try:
            self._steward.drain_node(node or self._serving.config.node.name, drain=drain)
        except HandOverError as error:
            return str(error)
        return None

    def tunnel(self, service: str, port: str, backend: str) -> Tunnel:
        """Where a tunnel leads; raises Refused."""
        return way(self._serving.config.services, self._health.down(), (service, port, backend))

    def relay(self, client: socket.socket, backend: socket.socket) -> None:
        """Carry bytes both ways until both have ended; both sockets belong to it from now on."""
        self._plane.relay(client, backend)

    def why(self, vip: str) -> Why | None:
        """Who owns a VIP and why, and why not the others; None: it is not one of ours."""
        config = self._serving.config
        view = next((each for each in self._election.views() if each.key == vip), None)
        if view is None or vip not in config.vips():
            return None
        placement = self._election.placing.placement
        return Why(
            vip=self._vip(config, view),
            rival=self._watch.rivals.get(vip),
            next=self._election.placing.successor(vip),
            others=tuple(
                RejectedNode(node=each.node, reason=each.reason, detail=each.detail)
                for each in placement.verdicts(vip)
            ),
        )

    def explain(self, asked: FlowQuestion) -> FlowStatus:
        """What becomes of a flow that comes to this node now, and why; raises Refused."""
        config, flow = self._serving.config, asked.flow
        vip = flow.dst in config.vips()
        owner = self._election.placing.owners().get(flow.dst)
        try:
            told = self._forwarding.explain(asked)
        except ValueError as error:
            raise Refused(400, "bad request", str(error)) from None
        except OSError as error:
            raise Refused(409, "not done", error.strerror or str(error)) from None
        if told is not None:
            return forwarded_status(asked, told, node=config.node.name, vip=vip, owner=owner)
        if asked.about_packets:
            raise Refused(409, "not done", f"{flow} is not forwarded: no packet of it is tried")
        told = self._plane.explain(flow)
        return flow_status(told, node=config.node.name, vip=vip, owner=owner)

    def _leader(self) -> str | None:
        return self._election.placing.owners().get(LEADER)

    def _nodes(self) -> tuple[NodeStatus, ...]:
        config = self._serving.config
        known = self._election.members.all()
        known[config.node.name] = self._election.own_presence()
        owners = self._election.placing.owners()
        return tuple(
            self._node(
                name, said, sum(owner == name and key != LEADER for key, owner in owners.items())
            )
            for name, said in sorted(known.items())
        )

    def _node(self, name: str, said: Presence, vips: int) -> NodeStatus:
        share = self._election.placing.placement.share.get(name, 0)
        return NodeStatus(
            name=name,
            host=said.host,
            vips=vips,
            share=share,
            zone=said.zone,
            draining=bool(said.draining),
        )

    def _vip(self, config: Config, view: KeyView) -> VipStatus:
        own = view.state is State.OWNER
        owner, epoch = (config.node.name, view.epoch) if own else view.owner or (None, view.epoch)
        ago_ms = (self._clock.now_ns() - view.since_ns) // 1_000_000
        return VipStatus(
            address=view.key,
            state=view.state,
            owner=owner,
            epoch=epoch,
            since=wall_ms() - ago_ms,
            reason=view.reason,
            brokers=tuple(view.holds) if own else (),
        )
