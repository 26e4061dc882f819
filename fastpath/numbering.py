"""The slots of everything that tables name: services, backends, listeners, gateways, routes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from fastpath.slots import Slots
from fastpath.tables import Tables

# As in abi.pxd.
MAX_LISTENERS = 1024
MAX_SERVICES = 2048
MAX_BACKENDS = 8192
MAX_GATEWAYS = 512
MAX_ROUTES = 20480


class Names:
    """What a table names, in the form that slots are kept by."""

    def __init__(self, tables: Tables) -> None:
        """Collect the names of all five kinds."""
        self.services = [service.name for service in tables.services]
        self.backends = [(s.name, b.name) for s in tables.services for b in s.backends]
        self.listeners = [each.key for each in tables.listeners]
        self.gateways = [gateway.name for gateway in tables.gateways]
        self.routes = [(g.name, r.name) for g in tables.gateways for r in g.routes]


@dataclass(frozen=True)
class Numbering:
    """Never changed: `assign` makes a new one, for the engine to keep once all has gone well."""

    service_slots: Slots = field(default_factory=lambda: Slots("services", MAX_SERVICES))
    backend_slots: Slots = field(default_factory=lambda: Slots("backends", MAX_BACKENDS))
    listener_slots: Slots = field(default_factory=lambda: Slots("listeners", MAX_LISTENERS))
    gateway_slots: Slots = field(default_factory=lambda: Slots("gateways", MAX_GATEWAYS))
    route_slots: Slots = field(default_factory=lambda: Slots("routes", MAX_ROUTES))

    def assign(
        self,
        tables: Tables,
        is_idle: Callable[[int], bool],
        is_left: Callable[[int], bool],
        is_unused: Callable[[int], bool],
        *,
        settled: bool,
    ) -> Numbering:
        """Number these tables; ValueError when there is too much of something.

        is_idle: whether no socket is open to the backend of that slot. is_left: whether no
        connection is open that the listener of that slot accepted. is_unused: whether nothing is
        counted as in flight on the route of that slot. settled: whether every worker has gone over
        to the tables before these; else no slot is used again yet.
        """
        names = Names(tables)

        def backend_is_free(slot: int) -> bool:
            return settled and is_idle(slot)

        def service_is_free(_slot: int) -> bool:
            # A connection on its way to a retired backend may ask its service for another one.
            return settled and all(is_idle(slot) for slot in self.backend_slots.retired)

        def listener_is_free(slot: int) -> bool:
            return settled and is_left(slot)

        def route_is_free(slot: int) -> bool:
            return settled and is_unused(slot)

        def is_free(_slot: int) -> bool:
            return settled

        return Numbering(
            self.service_slots.assign(names.services, service_is_free),
            self.backend_slots.assign(names.backends, backend_is_free),
            self.listener_slots.assign(names.listeners, listener_is_free),
            self.gateway_slots.assign(names.gateways, is_free),
            self.route_slots.assign(names.routes, route_is_free),
        )

    @property
    def services(self) -> Mapping[Hashable, int]:
        """Service name -> slot."""
        return self.service_slots.used

    @property
    def backends(self) -> Mapping[Hashable, int]:
        """(service, backend) -> slot."""
        return self.backend_slots.used

    @property
    def listeners(self) -> Mapping[Hashable, int]:
        """`Listener.key` -> slot."""
        return self.listener_slots.used

    @property
    def gateways(self) -> Mapping[Hashable, int]:
        """Gateway name -> slot."""
        return self.gateway_slots.used

    @property
    def routes(self) -> Mapping[Hashable, int]:
        """(gateway, route) -> slot."""
        return self.route_slots.used


class SlotNames:
    """What slots are called, those included whose owner is gone."""

    def __init__(self, services: dict[int, str]) -> None:
        """Begin with names of services that no tables have."""
        self.services: dict[int, Hashable] = {**services}
        self.backends: dict[int, Hashable] = {}
        self.gateways: dict[int, Hashable] = {}
        self.routes: dict[int, Hashable] = {}
        """As Numbering has them."""

    def learn(self, numbering: Numbering) -> None:
        """These names hold from now on."""
        self.services.update((slot, name) for name, slot in numbering.services.items())
        self.backends.update((slot, name) for name, slot in numbering.backends.items())
        self.gateways.update((slot, name) for name, slot in numbering.gateways.items())
        self.routes.update((slot, name) for name, slot in numbering.routes.items())
