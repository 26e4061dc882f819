"""What this node serves: configuration, owned VIPs, dead backends -> a plan -> the data plane."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

from msgspec.structs import replace

from piagent.agent.tasks import Alarm
from piagent.core.draining import Drain, Drained, Key, drained
from piagent.core.model import Config
from piagent.core.plan import (
    Plan,
    PlannedForward,
    PlannedListener,
    is_loopback,
    plan,
    with_leaving,
)
from piagent.ports import DataPlane, Forwarding, ListenError

log = logging.getLogger(__name__)

Down = frozenset[tuple[str, str]]
"""(service, backend id) of backends that get no new connection."""
Vips = frozenset[str]
Place = tuple[str, int, bool]
"""Address, port, whether UDP."""


class Serving:
    """Keeps the data plane at the plan; a change that it refuses has not happened."""

    def __init__(
        self,
        plane: DataPlane,
        config: Config,
        now_ns: Callable[[], int],
        forwarding: Forwarding,
    ) -> None:
        """Nothing is served before the first `start`."""
        self._plane = plane
        self._forwarding = forwarding
        self._now_ns = now_ns
        self._alarm = Alarm(self._end_drains)
        self._config = config
        self._owned: Vips = frozenset()
        self._draining: Vips = frozenset()
        self._leaving: Vips = frozenset()
        self._down: Down = frozenset()
        self._wanted: Plan | None = None  # without what is on its way out
        self._drained: Drained | None = None
        self.left_out: dict[Place, str] = {}
        """Ports that cannot be had now, and why; the rest is served."""

    @property
    def config(self) -> Config:
        """The configuration that holds now."""
        return self._config

    @property
    def plan(self) -> Plan | None:
        """What is being served; None before the first plan."""
        return self._drained.plan if self._drained else None

    @property
    def drains(self) -> Mapping[Key, Drain]:
        """The backends that get no more connections, and until when they keep what they have."""
        return self._drained.drains if self._drained else {}

    def now_ms(self) -> int:
        """By the clock that drains go by."""
        return self._now_ns() // 1_000_000

    def start(self) -> None:
        """Serve the first plan; raises OSError when a port of a VIP cannot be had."""
        self._try(vital=self._config.vips())

    def reconfigure(
        self, config: Config, leaving: Vips = frozenset(), *, strict: bool = True
    ) -> None:
        """Serve another configuration; raises OSError, and then nothing has changed.

        `leaving`: VIPs that it no longer has, and whose connections live on until `left`. With
        `strict` a port of a VIP that cannot be had is such an error; else, like the port of a
        cluster address and a node port, it is left out.
        """
        leaving = (self._leaving | leaving) - {*config.vips()}
        self._try(config=config, leaving=leaving, vital=config.vips() if strict else ())

    def try_again(self) -> None:
        """Serve what was left out, if that can be now."""
        if self.left_out and self.plan is not None:
            self._apply(self.plan, ())

    def stop(self) -> None:
        """Change nothing more by itself."""
        self._alarm.set(None)

    def left(self, vip: str) -> None:
        """No connection to a VIP that left the configuration is served any more."""
        self._try(leaving=self._leaving - {vip})

    def own(self, vip: str) -> None:
        """A VIP has come; raises OSError when its ports cannot be had."""
        self._possess(self._owned | {vip}, vip)

    def require(self, vip: str) -> None:
        """Raises OSError when a port of the VIP was left out and cannot be had now, either.

        Another node may have it: this one had better not own the VIP.
        """
        if self.plan is not None and any(address == vip for address, _, _ in self.left_out):
            self._apply(self.plan, (vip,))

    def disown(self, vip: str) -> None:
        """A VIP has gone."""
        self._possess(self._owned - {vip}, vip)

    def drain(self, vip: str) -> None:
        """Another node owns the VIP: end its connections here one by one, each at a good moment."""
        self._try(draining=self._draining | {vip})

    def undrain(self, vip: str) -> None:
        """The VIP is here again, or its drain is over."""
        self._try(draining=self._draining - {vip})

    def hold(self, ms: int) -> None:
        """What is owned or drained here is so for so long from now on at least."""
        self._forwarding.hold(ms)

    def draining(self) -> Vips:
        """The VIPs that are being drained."""
        return self._draining

    def connections(self, vip: str) -> int:
        """How many connections clients have to the VIP here."""
        return self._plane.connections(vip)

    def cut(self, vip: str) -> int:
        """End what is left of them; how many there were."""
        return self._plane.cut(vip)

    def mark_down(self, down: Down) -> None:
        """These backends, and no others, are down."""
        self._try(down=down)

    def _possess(self, owned: Vips, vip: str) -> None:
        """Most VIPs are listened on whether they are owned or not: a take-over changes nothing."""
        forwards = self._wanted.forwards if self._wanted is not None else ()
        if is_loopback(vip) or any(one.address == vip for one in forwards):
            self._try(owned=owned, vital=(vip,) if vip in owned else ())
        else:
            self._owned = owned

    def _try(
        self,
        *,
        config: Config | None = None,
        owned: Vips | None = None,
        draining: Vips | None = None,
        leaving: Vips | None = None,
        down: Down | None = None,
        vital: Collection[str] = (),
    ) -> None:
        """`vital`: addresses whose ports must be had."""
        config = self._config if config is None else config
        owned = self._owned if owned is None else owned
        draining = self._draining if draining is None else draining
        leaving = self._leaving if leaving is None else leaving
        down = self._down if down is None else down
        wanted = plan(config, owned, down, draining)
        if self._wanted is not None and leaving:
            wanted = with_leaving(wanted, self._wanted, leaving)
        self._serve(wanted, vital)
        self._config, self._owned, self._draining = config, owned, draining
        self._leaving, self._down, self._wanted = leaving, down, wanted
        self._end_drains()

    def _serve(
        self, wanted: Plan, vital: Collection[str], ended: frozenset[Key] = frozenset()
    ) -> None:
        """Have the engine do it, with what is on its way out as far as there is room for that."""
        before, now_ms = self._drained, self.now_ms()
        after = drained(wanted, before, now_ms, ended)
        try:
            if after.plan != self.plan:
                self._apply(after.plan, vital)
        except ValueError as error:
            leaving = after.leaving()
            if not leaving:
                raise
            log.warning("%d backends that are gone have no time to drain: %s", len(leaving), error)
            self._cut_backends(leaving)
            after = drained(wanted, before, now_ms, ended | leaving)
            self._apply(after.plan, vital)
        self._drained = after

    def _end_drains(self) -> None:
        """Cut the connections of backends that drained for long enough."""
        while self._wanted and self._drained and (due := self._drained.due(self.now_ms())):
            for service, backend in sorted(due):
                log.info("backend %s of %s: drained, what is left of it is cut", backend, service)
            self._cut_backends(due)
            self._serve(self._wanted, (), due)
        next_ms = self._drained.next_ms() if self._drained else None
        self._alarm.set(None if next_ms is None else (next_ms - self.now_ms()) / 1000)

    def _cut_backends(self, backends: frozenset[Key]) -> None:
        self._plane.cut_backends(backends)
        self._forwarding.cut_backends(backends)

    def _apply(self, wanted: Plan, vital: Collection[str]) -> None:
        """Have the engine do it, without what cannot be had and is not vital."""
        left_out: dict[Place, str] = {}
        while True:
            listeners = tuple(one for one in wanted.listeners if _place(one) not in left_out)
            forwards = tuple(one for one in wanted.forwards if _place(one) not in left_out)
            try:
                self._engage(replace(wanted, listeners=listeners, forwards=forwards))
            except ListenError as error:
                place = error.address, error.port, error.udp
                if error.address in vital or place in left_out:
                    raise
                left_out[place] = str(error)
            else:
                break
        for place, why in left_out.items():
            if place not in self.left_out:
                log.error("%s: left out, and tried again now and then", why)
        self.left_out = left_out

    def _engage(self, wanted: Plan) -> None:
        """Have both, or neither."""
        self._forwarding.apply(wanted)
        try:
            self._plane.apply(wanted)
        except (OSError, ValueError):
            if self.plan is not None:
                self._forwarding.apply(self.plan)
            raise


def _place(listener: PlannedListener | PlannedForward) -> Place:
    return listener.address, listener.port, listener.udp
