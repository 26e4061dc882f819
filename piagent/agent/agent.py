"""The agent: its parts wired together, run, reloaded and stopped in order."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from msgspec import Struct

from piagent import ports
from piagent.admin.server import AdminServer
from piagent.agent.brokers import BrokerBook
from piagent.agent.election import Election
from piagent.agent.health import HealthLoop
from piagent.agent.letters import Letters
from piagent.agent.reload import needs_restart
from piagent.agent.serving import Down, Serving
from piagent.agent.view import View
from piagent.agent.vips import AnnounceOnce, Announcer, Vips, announced
from piagent.core.lease import LeaseGroup
from piagent.core.lease_types import MAX_KEYS, SetKeys
from piagent.core.model import Config
from piagent.core.placement import rank
from piagent.core.plan import is_loopback
from piagent.ports import AddressError

log = logging.getLogger(__name__)

DRAIN_MS = 10_000
"""How long a stop waits for connections under way."""


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
    announcer: Callable[[AnnounceOnce], Announcer]
    plane: ports.DataPlane
    prober: ports.Prober
    notifier: Notifier


class Agent:
    """One node at work."""

    def __init__(self, config: Config, edge: Edge, group: LeaseGroup, letters: Letters) -> None:
        """Wire the parts; nothing runs before `run`."""
        self._edge = edge
        self._serving = Serving(edge.plane, config)
        self._vips = Vips(
            edge.clock, edge.addresses, edge.announcer, self._serving, self._announced
        )
        self._brokers = BrokerBook(config.mqtt.brokers)
        self._election = Election(
            clock=edge.clock,
            bus=edge.bus,
            brokers=self._brokers,
            letters=letters,
            group=group,
            vips=self._vips,
            ranks=lambda online: ranks(self._serving.config, online),
            wants=lambda: wants(self._serving.config),
        )
        self._health = HealthLoop(edge.prober, self._backends_changed)
        self._health.configure(config)
        self._reloads: Counter[str] = Counter()
        self.view = self._view()
        self._admin = AdminServer(config.admin_socket, self.view)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def stop(self) -> None:
        """Release, drain, end; called again: end without waiting for connections."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def run(self) -> bool:
        """Until `stop`; False when a part crashed. Raises AdminError or OSError: cannot start."""
        await self._admin.start()
        try:
            self._serving.start()
            self._election.want_what_is_configured()
            return await self._work()
        finally:
            await self._admin.stop()
            self._edge.plane.stop()

    def reload(self, read: Callable[[], Config | None]) -> bool:
        """Make what `read` gives true in one step; False: it cannot be, nothing changed.

        `read` gives None, and has said why, when the file cannot be used.
        """
        if self._stop.is_set():
            log.warning("reload: not while stopping")
            return False
        self._edge.notifier.reloading()
        config = read()
        result = "bad-file" if config is None else self._change(config)
        self._reloads[result] += 1
        if result == "done":
            log.info("reload: done, %s", self._summary())
        else:
            log.error("reload: nothing changed, reason=%s", result)
        self._edge.notifier.ready(self._summary())
        return result == "done"

    # ---- inside -------------------------------------------------------------------------------

    def _change(self, config: Config) -> str:
        """What became of it."""
        fixed = needs_restart(self._serving.config, config)
        if fixed:
            log.error("reload: restart needed to change %s", ", ".join(fixed))
            return "restart-needed"
        if len(config.vips()) > MAX_KEYS:
            log.error("reload: at most %d VIPs, not %d", MAX_KEYS, len(config.vips()))
            return "failed"
        try:
            self._serving.reconfigure(config)
        except (OSError, ValueError) as error:
            log.error("reload: %s", error)
            return "failed"
        self._health.configure(config)
        self._backends_changed(self._health.down())
        self._election.post(SetKeys(ranks(config, self._election.online())))
        self._election.want_what_is_configured()
        return "done"

    async def _work(self) -> bool:
        crashed = True
        try:
            async with asyncio.TaskGroup() as group:
                parts: tuple[Coroutine[Any, Any, None], ...] = (
                    self._election.run(),
                    self._edge.bus.run(self._election.deliver),
                    self._health.run(),
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
        log.info("stopping: releasing VIPs")
        self._edge.notifier.stopping()
        config = self._serving.config
        timeout_s = config.election.timing.lease_ms / 1000 + 1
        if not await self._election.resign(config.vips(), timeout_s):
            log.error("stopping: not every VIP could be released in %.1f s", timeout_s)
        # Connections to an address that has gone are dead: nothing more will come of them.
        await self._drain(DRAIN_MS if any(map(is_loopback, config.vips())) else 0)

    async def _drain(self, timeout_ms: int) -> None:
        drain = asyncio.ensure_future(self._edge.plane.drain(timeout_ms))
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait((drain, hurry), return_when=asyncio.FIRST_COMPLETED)
        for task in (drain, hurry):
            task.cancel()
        if drain.done() and not drain.cancelled() and drain.result():
            log.warning("stopping: %d connections cut after %d ms", drain.result(), timeout_ms)

    async def _take_down(self) -> None:
        """Leave no address behind, whatever has happened."""
        for vip in self._serving.config.vips():
            with suppress(OSError, AddressError):
                await self._vips.leave(vip)

    def _backends_changed(self, down: Down) -> None:
        self._serving.mark_down(down)

    def _announced(self, vip: str) -> bool:
        return announced(self._serving.config, vip)

    def _summary(self) -> str:
        config = self._serving.config
        return f"serving {len(config.vips())} VIPs, {len(config.services)} services"

    def _view(self) -> View:
        return View(
            clock=self._edge.clock,
            plane=self._edge.plane,
            brokers=self._brokers,
            election=self._election,
            health=self._health,
            serving=self._serving,
            reloads=self._reloads,
        )


def ranks(config: Config, online: tuple[str, ...]) -> dict[str, int]:
    """VIP -> this node's place among its candidates: those of the file, else who is there."""
    named = config.election.candidates
    return {vip: rank(vip, config.node.name, named, online) for vip in config.vips()}


def wants(config: Config) -> dict[str, bool]:
    """VIP -> whether this node may own it: all or none."""
    candidates = config.election.candidates
    eligible = config.node.vip_weight > 0 and (not candidates or config.node.name in candidates)
    return dict.fromkeys(config.vips(), eligible)
