"""What this node serves: configuration, owned VIPs, dead backends -> a plan -> the data plane."""

from __future__ import annotations

from piagent.core.model import Config
from piagent.core.plan import Plan, plan
from piagent.ports import DataPlane

Down = frozenset[tuple[str, str]]
"""(service, backend address) of backends that get no new connection."""


class Serving:
    """Keeps the data plane at the plan; a change that the engine refuses has not happened."""

    def __init__(self, plane: DataPlane, config: Config) -> None:
        """Nothing is served before the first `start`."""
        self._plane = plane
        self._config = config
        self._owned: frozenset[str] = frozenset()
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
        self._try(self._config, self._owned, self._down)

    def reconfigure(self, config: Config) -> None:
        """Serve another configuration; raises OSError, and then nothing has changed."""
        self._try(config, self._owned, self._down)

    def own(self, vip: str) -> None:
        """A VIP has come; raises OSError when its ports cannot be had."""
        self._try(self._config, self._owned | {vip}, self._down)

    def disown(self, vip: str) -> None:
        """A VIP has gone."""
        self._try(self._config, self._owned - {vip}, self._down)

    def mark_down(self, down: Down) -> None:
        """These backends, and no others, are down."""
        self._try(self._config, self._owned, down)

    def _try(self, config: Config, owned: frozenset[str], down: Down) -> None:
        wanted = plan(config, owned, down)
        if wanted != self._plan:
            self._plane.apply(wanted)
        self._config, self._owned, self._down, self._plan = config, owned, down, wanted
