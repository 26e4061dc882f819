"""The agent: its parts wired together, run, reloaded and stopped in order."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Protocol

from msgspec import Struct

from piagent import ports
from piagent.adapters.wireless import crowded
from piagent.admin.server import AdminServer
from piagent.agent.access_log import AccessLog
from piagent.agent.brokers import BrokerBook
from piagent.agent.election import Election
from piagent.agent.flow_handover import Around, FlowHandOvers
from piagent.agent.followers import Followers
from piagent.agent.handover import HandOvers, Host
from piagent.agent.health import HealthLoop
from piagent.agent.letters import Letters
from piagent.agent.registry import Publisher, Saved
from piagent.agent.reload import needs_restart
from piagent.agent.services import Services
from piagent.agent.services_view import ServicesView
from piagent.agent.serving import Down, Serving
from piagent.agent.steward import Steward
from piagent.agent.tasks import Later, Tasks
from piagent.agent.tenure import Tenure
from piagent.agent.view import View
from piagent.agent.vips import AnnounceOnce, Announcer, Vips, announced
from piagent.agent.watch import Watch
from piagent.core.catalog import Merged
from piagent.core.lease import LeaseGroup
from piagent.core.lease_types import LEADER, MAX_KEYS, Reason
from piagent.core.model import Config, QuorumLoss
from piagent.core.names import Answer, Question
from piagent.core.plan import is_loopback
from piagent.core.vitals import Vitals
from piagent.core.wire import Control
from piagent.ports import AddressError

log = logging.getLogger(__name__)

UNGUARD_S = 0.1
"""How soon the fence lets a VIP go that left; often several do at once."""


class Notifier(Protocol):
    """The service manager."""

    def ready(self, status: str) -> None:
        """Start or reload is complete; `status` is for people."""
        ...

    def reloading(self) -> None:
        """A reload has begun."""
        ...

    def stopping(self) -> None:
        """The stop has begun."""
        ...


class Edge(Struct, frozen=True, kw_only=True):
    """Everything outside the process."""

    clock: ports.Clock
    bus: ports.Bus
    addresses: ports.Addresses
    fence: ports.Fence
    lan: ports.Lan
    guardian: ports.Guardian | None
    vitals: Callable[[bool], Vitals]
    """How the hardware is, given whether the interface is a wireless one."""
    announcer: Callable[[AnnounceOnce], Announcer]
    plane: ports.DataPlane
    forwarding: ports.Forwarding
    prober: ports.Prober
    notifier: Notifier
    local: ports.LocalAddresses
    speaker: ports.Speaker
    responder: Callable[[Callable[[Question], Answer]], ports.Responder] | None
    """Makes the DNS responder; None: there is none."""
    store: ports.Store[Saved]
    lines: Callable[[str], ports.Lines]
    """Makes what writes to an access log, given its path."""


class Agent:
    """One node at work."""

    def __init__(self, config: Config, edge: Edge, group: LeaseGroup, letters: Letters) -> None:
        """Wire the parts; nothing runs before `run`."""
        self._edge = edge
        self._letters = letters
        self._serving = Serving(edge.plane, config, edge.clock.now_ns, edge.forwarding)
        self._access_log = AccessLog(edge.plane, lambda: self._serving.plan, edge.lines)
        self.merged = Merged(config, ())
        """What is served, and what is not as it was wished."""
        self._vips = Vips(
            clock=edge.clock,
            addresses=edge.addresses,
            fence=edge.fence,
            announcer=edge.announcer,
            serving=self._serving,
            announced=self._announced,
        )
        self._brokers = BrokerBook(config.mqtt.brokers)
        self._watch = Watch(
            config=self._config,
            vips=self._vips,
            restore=self._restore,
            changed=self._changed,
            guard=self._guard,
            networks=edge.addresses.networks,
            vitals=edge.vitals,
            now_ns=edge.clock.now_ns,
        )
        self._describe()
        self._election = Election(
            clock=edge.clock,
            bus=edge.bus,
            brokers=self._brokers,
            letters=letters,
            group=group,
            config=self._config,
            changed=self._others_changed,
            asked=self._asked,
        )
        self.services = self._make_services(edge, config)
        self._flows = FlowHandOvers(
            letters,
            self._election.members,
            edge.forwarding,
            Around(edge.clock, self._election.publish, lambda vip: vip in self._tenure.owned()),
        )
        self._handovers = HandOvers(letters, self._election.members, self._host(), self._flows)
        self._tenure = self._employed()
        self._steward = Steward(letters, self._election, self._handovers, self._watch, self._config)
        self._health = HealthLoop(
            edge.prober, self.services.duty, edge.addresses.networks, self._backends_changed
        )
        self._health.configure(config)
        self._followers = Followers(
            serving=self._serving,
            standing=lambda: self._watch.standing,
            local=edge.local,
            speaker=edge.speaker,
            responder=edge.responder,
            accepts=self._guard,
        )
        self._reloads: Counter[str] = Counter()
        self.view = self._view()
        self._admin = AdminServer(
            config.admin_socket, self.view, config.admin_listen, config.admin_token
        )
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._warned: str | None = None
        self._tasks = Tasks()
        self._unguard = Later(self._guard, UNGUARD_S)

    def stop(self) -> None:
        """Hand over, drain, end; called again: end without waiting for connections."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> bool:
        """Until `stop`; False when a part crashed. Raises AdminError or OSError: cannot start."""
        await self._admin.start()
        try:
            self._serving.start()
            self._access_log.start()
            self._refresh()
            self._followers.follow()
            self._guard()
            self._changed()
            return await self._work()
        finally:
            await self._admin.stop()
            self._serving.stop()
            self._edge.plane.stop()
            self._edge.forwarding.stop()
            await self._access_log.stop()

    def reload(self, read: Callable[[], Config | None]) -> bool:
        """Make what `read` gives true in one step; False: it cannot be, nothing changed.

        `read` gives None, and has said why, when the file cannot be used.
        """
        if self._stop.is_set():
            log.warning("reload: not while stopping")
            return False
        self._edge.notifier.reloading()
        self._access_log.reopen()
        config = read()
        return self._reloaded("bad-file" if config is None else self._reload(config))

    def _reloaded(self, result: str) -> bool:
        self._reloads[result] += 1
        if result == "done":
            log.info("reload: done, %s", self._summary())
        else:
            log.error("reload: nothing changed, reason=%s", result)
        self._edge.notifier.ready(self._summary())
        return result == "done"

    # ---- wiring -------------------------------------------------------------------------------

    def _config(self) -> Config:
        return self._serving.config

    def _drain_ms(self) -> int:
        return 0 if self._hurry.is_set() else self._config().election.drain_ms

    def _holds(self) -> bool:
        return self._config().election.on_quorum_loss is QuorumLoss.HOLD

    def _host(self) -> Host:
        return Host(
            clock=self._edge.clock,
            views=self._election.views,
            refusals=self._watch.refusals,
            drain_ms=self._drain_ms,
            mac=self._edge.addresses.mac,
            post=self._election.post,
            publish=self._election.publish,
            drain=self._drain_asked,
        )

    def _make_services(self, edge: Edge, file: Config) -> Services:
        election = self._election
        return Services(
            letters=self._letters,
            members=election.members,
            publisher=Publisher(
                to_all=lambda topic, payload: election.publish(topic, payload, retain=True),
                to_all_once=election.publish,
                to_one=election.publish_to,
            ),
            connected=self._brokers.connected,
            epoch=election.epoch,
            leader=lambda: election.placing.owners().get(LEADER),
            store=edge.store,
            file=file,
            changed=Later(self._refresh, 0).soon,  # often several things change at once
        )

    def _employed(self) -> Tenure:
        tenure = Tenure(
            vips=self._vips,
            letters=self._letters,
            lan=self._edge.lan,
            guardian=self._edge.guardian,
            interface=self._config().node.interface,
            around=self._election.around(
                former=self._handovers.former,
                leave_for_now=self._watch.leave_for_now,
                works=self._watch.works,
                left=self._left,
                drain_ms=self._drain_ms,
                hand_flows=self._flows.give,
                holds=self._holds,
            ),
        )
        self._election.employ(tenure, self.services)
        return tenure

    def _view(self) -> View:
        return View(
            clock=self._edge.clock,
            plane=self._edge.plane,
            forwarding=self._edge.forwarding,
            fence=self._edge.fence,
            brokers=self._brokers,
            election=self._election,
            flows=self._flows,
            health=self._health,
            serving=self._serving,
            watch=self._watch,
            steward=self._steward,
            reloads=self._reloads,
            access_log=self._access_log,
            services=self._services_view,
        )

    def _services_view(self, started_ms: int) -> ServicesView:
        return ServicesView(
            services=self.services,
            serving=self._serving,
            health=self._health,
            followers=self._followers,
            access_log=self._access_log,
            counted=lambda: self._edge.plane.stats()["services"],
            merged=lambda: self.merged,
            networks=self._edge.addresses.networks,
            owners=self._election.placing.owners,
            started_ms=started_ms,
        )

    def _asked(self, said: Control) -> None:
        self._handovers.hear(said)
        self.services.asked(said)

    def _drain_asked(self, drain: bool) -> None:
        self._steward.drain(drain)

    # ---- changes ------------------------------------------------------------------------------

    def _others_changed(self) -> None:
        """Who is there, and what they say of themselves."""
        self.services.duty.others_changed()
        self._changed()

    def _changed(self) -> None:
        """What this node is, or may own, may be another now."""
        twin = self._election.members.twin
        if (twin is not None) != self._watch.standing.twin:
            if twin is not None:
                log.critical(
                    "another host, %s, is already there as node %s: this one owns nothing until"
                    " it has a [node] name of its own",
                    twin.host,
                    self._letters.node,
                )
            self._watch.set(twin=twin is not None)
            return
        self._election.want(self._config().vips(), self._watch.refusals())
        if self._describe():
            self._election.say_presence()
            self._election.rank_again()
        if not self._letters.described().listening:
            self._election.members.settle()
        self._followers.follow()

    def _describe(self) -> bool:
        node = self._config().node
        return self._letters.describe(
            weight=node.vip_weight,
            health=self._watch.health,
            zone=node.zone,
            draining=self._watch.standing.draining,
            refuses=self._watch.refusals(),
            mac=self._edge.addresses.mac(),
            listening=self._listening(),
        )

    def _listening(self) -> bool:
        """R1: at no majority of the brokers this node has listened for long enough to claim."""
        now_ns = self._edge.clock.now_ns()
        wait_ns = self._config().election.timing.wait_ms * 1_000_000
        return not self._brokers.quorum_since(now_ns - wait_ns)

    def _restore(self, vip: str) -> None:
        async def put_back() -> None:
            try:
                await self._tenure.restore(vip)
            except (OSError, AddressError) as error:
                log.error("vip %s: not put back: %s", vip, error)

        self._tasks.spawn(put_back())

    def _backends_changed(self, down: Down) -> None:
        self._serving.mark_down(down)
        self._watch.set(down=down)
        self._followers.follow()

    def _announced(self, vip: str) -> bool:
        return announced(self._serving.config, vip)

    def _leaving(self, config: Config) -> list[str]:
        """VIPs owned here that the file no longer has."""
        gone = set(self._tenure.owned()) - {*config.vips(), LEADER}
        return sorted(vip for vip in gone if not is_loopback(vip))

    async def _hand_over_first(self, takers: Mapping[str, str | None]) -> None:
        """Others may still have a VIP that leaves this file: nobody who uses it is to notice."""
        await self._steward.give_all(takers, Reason.REMOVED)
        self._rekey()

    def _rekey(self) -> None:
        self._guard()
        self._election.set_keys(self._config().vips())
        self._changed()

    def _left(self, vip: str) -> None:
        """The fence lets go of what left the file, too: BGP may lead to it now."""
        if vip not in {*self._config().vips(), *self._tenure.here()}:
            self._unguard.soon()

    def _guard(self) -> None:
        """The VIPs of the file, and those that left it and are not gone yet."""
        interface = self._config().node.interface
        vips = {*self._config().vips(), *self._tenure.here()}
        self._vips.guard(interface, vips, self._followers.accepted)
        warning = crowded(interface, vips) if interface is not None else None
        if warning is not None and warning != self._warned:
            log.warning("%s", warning)
        self._warned = warning

    def _reload(self, file: Config) -> str:
        """What became of it."""
        fixed = needs_restart(self.services.file, file)
        if fixed:
            log.error("reload: restart needed to change %s", ", ".join(fixed))
            return "restart-needed"
        if len(file.vips()) >= MAX_KEYS:
            log.error("reload: at most %d VIPs, not %d", MAX_KEYS - 1, len(file.vips()))
            return "failed"
        try:
            self._serve(self.services.merged(file), strict=True)
        except (OSError, ValueError) as error:
            log.error("reload: %s", error)
            return "failed"
        self._letters.secrets = file.secrets
        self._admin.set_token(file.admin_token)
        self.services.reloaded(file)
        return "done"

    def _refresh(self) -> None:
        """What is applied, assigned or registered has changed."""
        try:
            merged = self.services.merged()
            self.merged = merged
            if merged.config != self._serving.config:
                self._serve(merged, strict=False)
        except (OSError, ValueError) as error:
            log.error("services: %s; what is served stays as it was", error)

    def _serve(self, merged: Merged, *, strict: bool) -> None:
        """Make a configuration true in one step; raises OSError or ValueError: nothing changed."""
        config = merged.config
        leaving = self._leaving(config)
        # What no service has any more leaves every node: there is nobody to give it to. A VIP that
        # leaves this file may be in those of others.
        takers = self._election.placing.successors(leaving) if strict else {}
        self._serving.reconfigure(config, frozenset(leaving), strict=strict)
        self._access_log.follow()
        self.merged = merged
        self._health.configure(config)
        self._backends_changed(self._health.down())
        if takers:
            log.info("handing over %s, which the file no longer has", ", ".join(takers))
            self._tasks.spawn(self._hand_over_first(takers))
        else:
            self._rekey()

    # ---- life ---------------------------------------------------------------------------------

    async def _work(self) -> bool:
        crashed = True
        try:
            async with asyncio.TaskGroup() as group:
                parts: tuple[Coroutine[Any, Any, None], ...] = (
                    self._election.run(),
                    self._edge.bus.run(self._election.deliver),
                    self._edge.lan.run(self._watch.deliver),
                    self._watch.run(),
                    self._health.run(),
                    self._steward.run(),
                    self.services.run(),
                    self._followers.run(),
                    self._edge.forwarding.run(),
                )
                tasks = [group.create_task(part) for part in parts]
                self._edge.notifier.ready(self._summary())
                log.info("node %s: %s", self._serving.config.node.name, self._summary())
                await self._stop.wait()
                await self._wind_down()
                crashed = False
                for task in reversed(tasks):
                    task.cancel()
        except* Exception as errors:
            for error in errors.exceptions:
                log.critical("a part of the agent crashed", exc_info=error)
            crashed = True
        await self._take_down()
        return not crashed

    async def _wind_down(self) -> None:
        """VIPs first, so that others take over at once; then the connections that are left."""
        log.info("stopping: handing VIPs over")
        self._edge.notifier.stopping()
        self._followers.withdraw()
        config = self._serving.config
        await self._steward.hand_over(config.vips(), Reason.STOPPING)
        timeout_s = config.election.timing.lease_ms / 1000 + 1
        if not await self._election.resign(timeout_s):
            log.error("stopping: not every VIP could be released in %.1f s", timeout_s)
        await self._unless_in_a_hurry(self._tenure.end())
        # Connections to an address that has gone are dead: nothing more will come of them.
        drain_ms = config.election.drain_ms if self._stays_reachable() else 0
        left = await self._unless_in_a_hurry(self._edge.plane.drain(drain_ms))
        if left:
            log.warning("stopping: %d connections cut after %d ms", left, drain_ms)

    def _stays_reachable(self) -> bool:
        """Whether connections came by addresses that stay: loopback VIPs, the node's own, `lo`."""
        plan, vips = self._serving.plan, self._serving.config.vips()
        others = () if plan is None else (one.address for one in plan.listeners)
        return any(map(is_loopback, vips)) or any(one not in vips for one in others)

    async def _unless_in_a_hurry(self, work: Coroutine[Any, Any, Any]) -> Any:
        task, hurry = asyncio.ensure_future(work), asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait((task, hurry), return_when=asyncio.FIRST_COMPLETED)
        for each in (task, hurry):
            each.cancel()
        return task.result() if task.done() and not task.cancelled() else None

    async def _take_down(self) -> None:
        """Leave no address behind, whatever has happened."""
        for vip in self._serving.config.vips():
            with suppress(OSError, AddressError):
                await self._vips.leave(vip)

    def _summary(self) -> str:
        config = self._serving.config
        return f"serving {len(config.vips())} VIPs, {len(config.services)} services"
