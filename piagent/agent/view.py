"""The agent as the admin API shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from piagent import __version__
from piagent.adapters.clock import wall_ms
from piagent.admin.exposition import Family
from piagent.admin.status import BackendStatus, RouteStatus, ServiceStatus, Status, VipStatus
from piagent.agent import metrics
from piagent.agent.brokers import BrokerBook
from piagent.agent.election import Election
from piagent.agent.health import HealthLoop
from piagent.agent.serving import Serving
from piagent.core.lease_types import KeyView, State
from piagent.core.model import Backend, Config, Service
from piagent.ports import Clock, DataPlane


class View:
    """Answers `piagent.admin.api.Source` from the agent's parts."""

    def __init__(
        self,
        *,
        clock: Clock,
        plane: DataPlane,
        brokers: BrokerBook,
        election: Election,
        health: HealthLoop,
        serving: Serving,
        reloads: Counter[str],
    ) -> None:
        """Looks at the parts when asked, keeps nothing."""
        self._clock = clock
        self._plane = plane
        self._brokers = brokers
        self._election = election
        self._health = health
        self._serving = serving
        self._reloads = reloads
        self._started_ms = wall_ms()

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
            vips=tuple(self._vip(config, view) for view in self._election.views()),
            services=tuple(self._service(service) for service in config.services),
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
                service=route.service,
            )
            for gateway in (plan.gateways if plan else ())
            for route in gateway.routes
        )

    def metrics(self) -> Iterable[Family]:
        """Every metric."""
        election = self._election
        yield from metrics.of_status(self.status())
        yield from metrics.of_election(election.transitions, election.alarms, election.failover)
        yield from metrics.of_reloads(self._reloads)
        yield from metrics.of_engine(self._plane.stats())

    def _why_not_ready(self) -> str | None:
        if self._serving.plan is None:
            return "the first plan is not served yet"
        if not self._brokers.quorum():
            return "fewer than a majority of the brokers are connected"
        return None

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
        )

    def _service(self, service: Service) -> ServiceStatus:
        return ServiceStatus(
            name=service.name,
            type=service.type,
            address=service.address,
            ports=tuple(port.port for port in service.ports),
            backends=tuple(self._backend(service, backend) for backend in service.backends),
        )

    def _backend(self, service: Service, backend: Backend) -> BackendStatus:
        target = self._health.target(service.name, backend.address)
        if target is None:
            return BackendStatus(
                address=backend.address,
                weight=backend.weight,
                up=True,
                since=self._started_ms,
                reason="not checked: the service has no health check",
            )
        health = target.health
        return BackendStatus(
            address=backend.address,
            weight=backend.weight,
            up=health.usable,
            since=target.since_ms,
            reason=f"{health.reason}: {health.detail}" if health.detail else health.reason,
        )
