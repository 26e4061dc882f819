"""What an agent, its guardian and its host must do, each left out once; and broken assumptions.

The classes replaced here are the simulation's: they do what the real agent has to do.
"""

from __future__ import annotations

from typing import Any

import pytest

from piagent.core.lease import LeaseGroup
from piagent.core.lease_types import Released, Withdrawn
from tests.sim import owning, ranking
from tests.sim.broker import Connection
from tests.sim.guardian import Letter, SimGuardian
from tests.sim.host import Host
from tests.sim.lan import Kernel
from tests.sim.mutant import Mutant
from tests.sim.owning import Owning
from tests.sim.ranking import Ranking
from tests.sim.world import FAST, Options, S

# ---- R6 on the host ----


def _says_so_before_it_is_hidden(patch: pytest.MonkeyPatch) -> None:
    def silence(self: Owning, effect: Released, nth: int) -> None:
        del nth
        self._agent.step(Withdrawn(effect.key, effect.epoch))

    patch.setattr(Owning, "_silence", silence)


def _hides_only_from_ip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Kernel, "hide", lambda self, vip, serve_ns: None)


def _guardian_removes_nothing(patch: pytest.MonkeyPatch) -> None:
    def act(self: SimGuardian, vips: tuple[str, ...], letters: tuple[Letter, ...]) -> None:
        del vips
        for label, message, keys in letters:
            self._send(label, message, keys)

    patch.setattr(SimGuardian, "_act", act)


# ---- clocks ----


def _lease_clock_sleeps(patch: pytest.MonkeyPatch) -> None:
    """CLOCK_MONOTONIC instead of CLOCK_BOOTTIME."""
    real_clock, real_wake, real_at = Host.clock, Host._wake, Host.real
    slept: dict[int, int] = {}

    def wake(self: Host, slept_ns: int) -> None:
        slept[id(self)] = slept.get(id(self), 0) + slept_ns
        real_wake(self, slept_ns)

    patch.setattr(Host, "_wake", wake)
    patch.setattr(Host, "clock", lambda self: real_clock(self) - slept.get(id(self), 0))
    patch.setattr(Host, "real", lambda self, at: real_at(self, at + slept.get(id(self), 0)))


def _late_call_is_not_noticed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Owning, "_check_late", lambda self, key: None)


# ---- what is left over ----


def _new_life_finds_the_old_addresses(patch: pytest.MonkeyPatch) -> None:
    real = Host.boot

    def boot(self: Host) -> None:
        with pytest.MonkeyPatch.context() as inside:
            inside.setattr(Kernel, "power_off", lambda _: None)
            real(self)

    patch.setattr(Host, "boot", boot)


def _failed_removal_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Owning, "recount", lambda self: None)


# ---- the LAN ----


def _announced_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(owning, "_ANNOUNCED_AFTER_NS", ())
    patch.setattr(owning, "_REFRESH_NS", 3600 * S)


def _hold_does_not_ask(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Owning, "probe", lambda self, key: None)


def _hold_goes_on_after_a_gap(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Owning, "_lapsed", lambda self, key: False)


def _leadership_is_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LeaseGroup, "_holdable", lambda self, lease: self._hold)


# ---- moves ----


def _renews_too_seldom(patch: pytest.MonkeyPatch) -> None:
    real = LeaseGroup._send

    def send(self: LeaseGroup, broker: str, link: Any, asserts: Any) -> None:
        real(self, broker, link, asserts)
        link.next_renewal += self._spans.lease

    patch.setattr(LeaseGroup, "_send", send)


def _evens_nothing_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ranking, "excess", lambda placement: ())


def _says_only_once_that_it_is_there(patch: pytest.MonkeyPatch) -> None:
    real = Ranking.heard

    def heard(self: Ranking, connection: Connection, node: str, payload: bytes) -> None:
        if node != self._me:
            real(self, connection, node, payload)

    patch.setattr(Ranking, "heard", heard)


_UNSPLIT = ("partition", "broker-crash", "node-crash")

AGENT_MUTANTS: dict[str, Mutant] = {
    "r6-hidden": Mutant(
        "R6", "the address goes or is hidden first", _says_so_before_it_is_hidden, "plain", 0
    ),
    "r6-hidden-arp": Mutant(
        "R6", "a planned move hides it from ARP, too", _hides_only_from_ip, "plain", 0
    ),
    "r6-guardian": Mutant(
        "R6", "the guardian removes before it yields", _guardian_removes_nothing, "deadly", 0
    ),
    "clock-boottime": Mutant(
        "A3",
        "a lease clock that counts sleep",
        _lease_clock_sleeps,
        Options(only=("suspend", "node-crash"), faults_per_s=2),
        15,
    ),
    "late-call": Mutant(
        "A5",
        "telling the kernel again after a slow call",
        _late_call_is_not_noticed,
        Options(only=("freeze", "node-crash"), faults_per_s=2),
        13,
    ),
    "leftovers": Mutant(
        "A5",
        "a new life removes what the old one left",
        _new_life_finds_the_old_addresses,
        Options(only=("suspend", "node-crash"), faults_per_s=4),
        24,
    ),
    "removal": Mutant(
        "A5",
        "trying again to remove, after a sleep",
        _failed_removal_is_forgotten,
        Options(only=("suspend", "hand-over"), faults_per_s=4),
        1,
    ),
    "announce": Mutant("LAN", "announcing again", _announced_once, "plain", 8, ("clients send",)),
    "hold-probe": Mutant("hold", "asking the LAN before a claim", _hold_does_not_ask, "hold", 22),
    "hold-gap": Mutant(
        "hold",
        "a gap in the answers ends it",
        _hold_goes_on_after_a_gap,
        Options(
            hold=True,
            probes=True,
            timing=FAST,
            keys=1,
            only=("freeze", "partition", "broker-crash"),
            faults_per_s=4,
        ),
        12,
    ),
    "hold-leader": Mutant(
        "hold", "the leadership is never held", _leadership_is_held, "hold-leader", 26
    ),
    "presence": Mutant(
        "placement",
        "saying again that one is there",
        _says_only_once_that_it_is_there,
        "placed",
        320,
        ("its share", "without a cause"),
    ),
    "cause": Mutant(
        "causes", "renewing in time", _renews_too_seldom, "gentle", 0, ("without a cause",)
    ),
    "share": Mutant("placement", "evening out", _evens_nothing_out, "placed", 0, ("its share",)),
    "a1": Mutant("A1", "serial fan-out: a cluster of brokers", None, Options(cluster=True), 32),
    "a2": Mutant("A2", "no silent gap: 20 % is lost", None, Options(lossy=0.2), 11),
    "a3": Mutant(
        "A3",
        "rates within rho: they are 10 % apart",
        None,
        Options(
            rates_ppm=(-50_000, 50_000),
            ranked=False,
            favourites=("node-crash", "broker-crash"),
            faults_per_s=2,
        ),
        7,
    ),
    "a5": Mutant("A5", "the fence: only lifetimes end", None, Options(fenced=False), 0),
    "hold-split": Mutant(
        "hold",
        "one LAN: it splits, and so do the brokers",
        None,
        Options(
            hold=True,
            splits=True,
            probes=True,
            timing=FAST,
            favourites=("split",),
            only=("split", *_UNSPLIT),
            faults_per_s=2,
        ),
        0,
    ),
}
