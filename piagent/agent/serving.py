"""What this node serves: configuration, owned VIPs, dead backends -> a plan -> the data plane."""

from __future__ import annotations

from piagent.core.model import Config
from piagent.core.plan import Plan, plan, with_leaving
from piagent.ports import DataPlane

Down = frozenset[tuple[str, str]]
"""(service, backend id) of backends that get no new connection."""
Vips = frozenset[str]


class Serving:
    """Keeps the data plane at the plan; a change that the engine refuses has not happened."""

    def __init__(self, plane: DataPlane, config: Config) -> None:
        """Nothing is served before the first `start`."""
        self._plane = plane
        self._config = config
        self._owned: Vips = frozenset()
        self._draining: Vips = frozenset()
        self._leaving: Vips = frozenset()
        self._down: Down = frozenset()
        self._plan: Plan | None = None

    @property
    def config(self) -> Config:
        """The configuration that holds now."""
        return self._config

    @property
    def plan(self) -> Plan | None:
        """What is being served; None before the first plan."""
        return self._plan

    def start(self) -> None:
        """Serve the first plan; raises OSError when a port cannot be had."""
        self._try()

    def reconfigure(self, config: Config, leaving: Vips = frozenset()) -> None:
        """Serve another configuration; raises OSError, and then nothing has changed.

        `leaving`: VIPs that it no longer has, and whose connections live on until `left`.
        """
        self._try(config=config, leaving=(self._leaving | leaving) - {*config.vips()})

    def left(self, vip: str) -> None:
        """No connection to a VIP that left the configuration is served any more."""
        self._try(leaving=self._leaving - {vip})

    def own(self, vip: str) -> None:
        """A VIP has come; raises OSError when its ports cannot be had."""
        self._try(owned=self._owned | {vip})

    def disown(self, vip: str) -> None:
        """A VIP has gone."""
        self._try(owned=self._owned - {vip})

    def drain(self, vip: str) -> None:
        """Another node owns the VIP: end its connections here one by one, each at a good moment."""
        self._try(draining=self._draining | {vip})

    def undrain(self, vip: str) -> None:
        """The VIP is here again, or its drain is over."""
        self._try(draining=self._draining - {vip})

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

    def _try(
        self,
        *,
        config: Config | None = None,
        owned: Vips | None = None,
        draining: Vips | None = None,
        leaving: Vips | None = None,
        down: Down | None = None,
    ) -> None:
        config = self._config if config is None else config
        owned = self._owned if owned is None else owned
        draining = self._draining if draining is None else draining
        leaving = self._leaving if leaving is None else leaving
        down = self._down if down is None else down
        wanted = plan(config, owned, down, draining)
        if self._plan is not None and leaving:
            wanted = with_leaving(wanted, self._plan, leaving)
        if wanted != self._plan:
            self._plane.apply(wanted)
        self._config, self._owned, self._draining = config, owned, draining
        self._leaving, self._down, self._plan = leaving, down, wanted
