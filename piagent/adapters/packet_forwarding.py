"""`ports.Forwarding` on one interface: packet sockets, the kernel's routes, nftables, BPF.

What is forwarded is taken out of what comes to this host: a copy goes to the forwarder, the
original nowhere (forward_fence). So nothing is forwarded that is not taken, and nothing stays taken
that is not forwarded; which comes first depends on whether there is more or less than before.

A VIP that goes may get packets here for a moment more, until its LAN has heard whose it is now.
They must not be answered with resets, which would end connections that go on elsewhere: so it stays
taken for as long, and `dsr`, which sends nothing in the VIP's name, goes on.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from piagent.adapters import packet_filter
from piagent.adapters.backend_paths import BackendPaths
from piagent.adapters.forward_fence import ForwardFence
from piagent.adapters.forwarded import TCP, UDP, Forwarded
from piagent.adapters.rtnetlink import Rtnetlink
from piagent.core.flow import FlowQuestion
from piagent.core.forwarding import Mode
from piagent.core.model import host_port
from piagent.core.packets import (
    NAT_PORTS,
    ForwardingState,
    Unreached,
    backends,
    cut,
    still_drained,
    unreached,
)
from piagent.core.paths import Path, PathReason
from piagent.core.plan import Plan, PlannedForward, PlannedService
from piagent.ports import ListenError

FADE_S = 1.0
"""How long a VIP that has gone stays taken: announcements of the next owner take less."""
LOOK_S = 1.0
"""How often the interface and our table are looked at."""

Place = tuple[str, int, bool]
"""Address, port, whether UDP."""

_EMPTY = Plan(listeners=(), services=(), gateways=())
_log = logging.getLogger(__name__)


class Engine(Protocol):
    """What carries packets: `dataplane.PacketEngine`."""

    mode: str
    reason: str

    @property
    def is_gone(self) -> bool: ...  # noqa: D102 -- PacketEngine says

    def publish(  # noqa: D102
        self, plan: Plan, forwards: Iterable[PlannedForward], paths: dict[str, Path],
        program: packet_filter.Program,
    ) -> None: ...  # fmt: skip

    def explain(  # noqa: D102
        self, plan: Plan, forwards: Sequence[PlannedForward], paths: Mapping[str, Path],
        asked: FlowQuestion, mac: bytes,
    ) -> dict[str, Any]: ...  # fmt: skip

    def export_flows(self, vip: str, most: int, each: int) -> list[bytes]: ...  # noqa: D102

    def adopt_flows(self, vip: str, batch: bytes) -> dict[str, int]: ...  # noqa: D102

    def end_flows(self, vip: str) -> int: ...  # noqa: D102

    def hold(self, ms: int) -> None: ...  # noqa: D102

    def stats(self) -> dict[str, Any]: ...  # noqa: D102

    def stop(self) -> None: ...  # noqa: D102


class _Fading(Struct):
    """A forward whose VIP has gone."""

    forward: PlannedForward
    service: PlannedService
    until_s: float


class KernelForwarding:
    """Forwards by an engine that is there while something is to be forwarded."""

    def __init__(self, interface: str | None, make: Callable[[int, int], Engine]) -> None:
        """`make`: an engine for an interface, given its index and MTU; it may raise OSError."""
        self._interface = interface
        self._make = make
        self._engine: Engine | None = None
        self._link = (0, 0)  # index and MTU of the interface that the engine is on
        self._paths: BackendPaths | None = None
        self._has_paths = asyncio.Event()
        self._fence = ForwardFence()
        self._taken: frozenset[Forwarded] = frozenset()
        self._plan = _EMPTY
        self._fading: dict[Place, _Fading] = {}
        self._drained: frozenset[tuple[str, str]] = frozenset()
        """(service, backend) of those that keep nothing any more."""
        self._held_until_s = 0.0
        self._soon: asyncio.Handle | None = None
        self._unreached: tuple[Unreached, ...] = ()
        self._trouble: str | None = None
        self._counted: dict[str, dict[str, int]] = {}
        """By engines that are no more: service -> verdict -> packets."""

    # ---- what is to be done ----

    def apply(self, plan: Plan) -> None:
        """Forward what the plan says, or raise ListenError or ValueError and change nothing."""
        if plan.forwards == self._plan.forwards == ():
            self._plan = plan
            return
        before, fading = self._plan, dict(self._fading)
        if plan.forwards:
            self._begin(plan.forwards[0])
        self._plan = plan
        self._drained = still_drained(plan, self._drained)
        self._fade(before)
        try:
            if self._paths is not None:
                self._paths.follow(backends(plan))
            self._publish()
        except (OSError, ValueError) as error:
            self._plan, self._fading = before, fading
            if plan.forwards and isinstance(error, OSError):
                raise _refused(plan.forwards[0], error) from error
            raise

    def cut_backends(self, those: Collection[tuple[str, str]]) -> None:
        """End the flows of these, each (service, backend) of the plan: they have drained."""
        self._drained |= frozenset(those)
        self._try_to_publish()

    def hold(self, ms: int) -> None:
        """VIPs are this node's for so long from now on: speak for them no longer than that."""
        self._held_until_s = time.monotonic() + ms / 1000
        if self._engine is not None:
            self._engine.hold(ms)

    def state(self) -> ForwardingState | None:
        """How it goes; None when nothing is to be forwarded."""
        if not self._plan.forwards and self._trouble is None:
            return None
        if self._engine is None:
            return ForwardingState(mode="none", reason=self._trouble or "it has not begun yet")
        return ForwardingState(
            mode=self._engine.mode, reason=self._engine.reason, unreached=self._unreached
        )

    def stats(self) -> dict[str, Any]:
        """Packets by service and verdict, since the start."""
        packets = {service: dict(counts) for service, counts in self._counted.items()}
        if self._engine is not None:
            _add(packets, self._engine.stats())
        return {"packets": packets}

    def explain(self, asked: FlowQuestion) -> dict[str, Any] | None:
        """What becomes of a flow, and by which interface; None: it is not forwarded.

        Whoever owns its VIP: else it is what it would be here.
        """
        flow = asked.flow
        place = flow.dst, flow.dst_port, flow.protocol == "udp"
        wanted = [one for one in self._plan.forwards if _place(one) == place]
        if not wanted:
            return None
        if self._engine is None or self._interface is None:
            raise OSError(errno.ENETDOWN, self._trouble or "forwarding has not begun yet")
        others = [one for one in self._tabled() if _place(one) != place]
        paths = {} if self._paths is None else self._paths.paths
        with Rtnetlink() as rtnetlink:
            mac = rtnetlink.link(self._interface).mac
        told = self._engine.explain(self._plan, [*wanted, *others], paths, asked, mac)
        return told | {"interface": _name(told["interface"])}

    # ---- from other threads, too ----

    def export_flows(self, vip: str, most: int, each: int) -> list[bytes]:
        """The VIP's connections by `nat`, for another node; see `ports.Forwarding`."""
        engine = self._engine
        return [] if engine is None else engine.export_flows(vip, most, each)

    def adopt_flows(self, vip: str, batch: bytes) -> dict[str, int]:
        """Go on with another node's connections."""
        engine = self._engine
        if engine is None:
            raise OSError(errno.EOPNOTSUPP, "nothing is forwarded here")
        return engine.adopt_flows(vip, batch)

    def end_flows(self, vip: str) -> int:
        """End those that another node has now; how many."""
        engine = self._engine
        return 0 if engine is None else engine.end_flows(vip)

    # ---- what goes on ----

    async def run(self) -> None:
        """Follow the ways to backends, and repair what others break, until cancelled."""
        while self._paths is None:
            await self._has_paths.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._paths.run())
            while True:
                await asyncio.sleep(LOOK_S)
                self._look()

    def clear(self) -> None:
        """Take away what a former life has left: nothing is forwarded yet."""
        try:
            self._fence.remove()
        except OSError as error:
            _log.debug("forwarding: what a former life left, if it did: %s", error)

    def stop(self) -> None:
        """Forward nothing more; VIPs are gone already."""
        self._fading.clear()
        if self._soon is not None:
            self._soon.cancel()
        self._end()
        if self._paths is not None:
            self._paths.close()
            self.clear()
        self._fence.close()

    # ---- one step ----

    def _begin(self, first: PlannedForward) -> None:
        """Be able to forward; ListenError."""
        try:
            if self._paths is None:
                self._paths = BackendPaths(lambda _path: self._publish_soon())
                self._has_paths.set()
            if self._engine is None:
                self._open()
        except OSError as error:
            self._trouble = str(error.strerror or error)
            raise _refused(first, error) from error

    def _open(self) -> None:
        if self._interface is None:
            what = "no interface: write [node] interface"
            raise OSError(errno.ENODEV, what)
        self._fence.take(self._interface, self._taken)  # it says what is missing, if anything is
        self._link = _link(self._interface)
        self._engine = self._make(*self._link)
        self._engine.hold(max(0, int((self._held_until_s - time.monotonic()) * 1000)))
        self._trouble = None
        _log.info("forwarding: flows are carried by %s: %s", self._engine.mode, self._engine.reason)

    def _end(self) -> None:
        if self._engine is not None:
            self._engine.stop()
            _add(self._counted, self._engine.stats())
            self._engine = None

    def _publish(self) -> None:
        """Bring the engine and the fence to what is wanted; OSError or ValueError."""
        tabled = self._tabled()
        tabled += [one.forward for one in self._fading.values() if one.forward.how.mode is Mode.DSR]
        taken = frozenset(forwarded([*tabled, *(one.forward for one in self._fading.values())]))
        if taken - self._taken:
            self._take(self._taken | taken)
        paths = {} if self._paths is None else self._paths.paths
        if self._engine is not None:
            known = {service.name for service in self._plan.services}
            gone = {
                one.service.name: one.service
                for one in self._fading.values()
                if one.service.name not in known
            }
            plan = replace(self._plan, services=(*self._plan.services, *gone.values()))
            wraps = any(one.how.encapsulation is not None for one in tabled)
            own = {path.source for path in paths.values() if wraps and path.source}
            self._engine.publish(
                cut(plan, self._drained), tabled, paths, packet_filter.program(taken, own)
            )
        if self._taken - taken:
            self._take(taken)
        self._tell_of(unreached(self._plan, paths))
        if not self._plan.forwards and not self._fading:
            self._end()

    def _tabled(self) -> list[PlannedForward]:
        """Those of VIPs that are here."""
        return [one for one in self._plan.forwards if one.owned or one.draining]

    def _take(self, taken: frozenset[Forwarded]) -> None:
        if self._interface is not None and taken:
            self._fence.take(self._interface, taken)
        else:
            self._fence.remove()
        self._taken = taken

    def _fade(self, before: Plan) -> None:
        """What was forwarded, and is no more, though nobody else serves its port here."""
        now_s = time.monotonic()
        services = {service.name: service for service in before.services}
        wanted = {_place(one) for one in self._plan.forwards if one.owned or one.draining}
        wanted |= {(one.address, one.port, one.udp) for one in self._plan.listeners}
        for one in before.forwards:
            if (one.owned or one.draining) and _place(one) not in self._fading:
                ends_s = now_s + FADE_S
                going = replace(one, owned=False, draining=True)
                self._fading[_place(one)] = _Fading(going, services[one.target], ends_s)
        for place in wanted & self._fading.keys():
            del self._fading[place]
        if self._fading:
            asyncio.get_running_loop().call_later(FADE_S, self._faded)

    def _faded(self) -> None:
        now_s = time.monotonic()
        over = [place for place, one in self._fading.items() if one.until_s <= now_s]
        for place in over:
            del self._fading[place]
        if over:
            self._try_to_publish()

    # ---- what happens outside ----

    def _publish_soon(self) -> None:
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._paths_changed)

    def _paths_changed(self) -> None:
        self._soon = None
        self._try_to_publish()

    def _try_to_publish(self) -> None:
        try:
            self._publish()
        except (OSError, ValueError) as error:
            _log.error("forwarding: %s; it goes on as before", error)

    def _look(self) -> None:
        """The interface may be another one, and our table gone."""
        if self._interface is None or not self._plan.forwards:
            return
        try:
            link = _link(self._interface)
            if self._engine is None or self._engine.is_gone or link != self._link:
                _log.warning("forwarding: %s is another one; flows begin anew", self._interface)
                self._end()
                self._open()
                self._publish()
            elif self._taken and not self._fence.stands():
                _log.warning("forwarding: table %s was gone; it is there again", "piagent-forward")
                self._fence.take(self._interface, self._taken)
        except (OSError, ValueError) as error:
            trouble = str(error)
            if trouble != self._trouble:
                _log.error("forwarding: %s", trouble)
            self._trouble = trouble

    def _tell_of(self, found: tuple[Unreached, ...]) -> None:
        for one in found:
            if one not in self._unreached and one.reason is not PathReason.RESOLVING:
                _log.warning(
                    "forwarding: packets do not get to backend %s of %s: %s",
                    one.backend,
                    one.target,
                    one.reason,
                )
        self._unreached = found


def forwarded(forwards: Iterable[PlannedForward]) -> Iterable[Forwarded]:
    """Say what these take out of what comes to this host."""
    for one in forwards:
        protocol = UDP if one.udp else TCP
        by_flow = one.how.mode is Mode.NAT
        yield Forwarded(one.address, protocol, one.port, one.port, by_flow)
        if by_flow:
            yield Forwarded(one.address, protocol, *NAT_PORTS, by_flow)


def _place(forward: PlannedForward) -> Place:
    return forward.address, forward.port, forward.udp


def _link(interface: str) -> tuple[int, int]:
    """Its index and MTU."""
    with Rtnetlink() as rtnetlink:
        return socket.if_nametoindex(interface), rtnetlink.mtu(interface)


def _name(index: int) -> str:
    """Of an interface; empty: there is none of that index."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def _add(total: dict[str, dict[str, int]], stats: dict[str, Any]) -> None:
    for name, counted in stats["services"].items():
        service = name.partition(" ")[0]
        packets = total.setdefault(service, {})
        for verdict, count in counted["packets"].items():
            packets[verdict] = packets.get(verdict, 0) + count


def _refused(forward: PlannedForward, error: OSError) -> ListenError:
    udp = " by UDP" if forward.udp else ""
    text = (
        f"cannot forward {host_port(forward.address, forward.port)}{udp}"
        f' (mode = "{forward.how.mode}"): {error.strerror or error}'
    )
    return ListenError(
        error.errno or 0, text, address=forward.address, port=forward.port, udp=forward.udp
    )
