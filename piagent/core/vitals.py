"""How well a node is: what its hardware reports -> its health, in percent, for placement.

Trouble counts at once, and until it has been away for a minute: a node whose supply dips now and
then does not gain and lose VIPs with every dip.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

RECOVER_NS = 60_000_000_000
"""Trouble counts until it has not been seen for so long."""
HOT_MC = 80_000
"""Thousandths of a degree Celsius. From here on the firmware slows the CPU down (Raspberry Pi
documentation, "Frequency management and thermal control")."""
COOL_MC = 75_000
"""A hot node counts as hot until it is below this."""


class Trouble(StrEnum):
    """What lowers a node's health."""

    UNDER_VOLTAGE = "under-voltage"
    """The supply is too weak: the node may fail at any moment."""
    THROTTLED = "throttled"
    """The firmware holds the CPU's clock down."""
    WIRELESS = "wireless"
    """VIPs are on a wireless interface: broadcasts get lost, and ARP with them."""
    HOT = "hot"


PENALTIES: Mapping[Trouble, int] = {
    Trouble.UNDER_VOLTAGE: 40,
    Trouble.THROTTLED: 25,
    Trouble.WIRELESS: 20,
    Trouble.HOT: 10,
}
"""Percent off for each. Below 100 together: a node in every trouble is still a candidate."""


class Vitals(Struct, frozen=True, kw_only=True):
    """What the hardware reports now; what it cannot tell is no trouble."""

    under_voltage: bool = False
    throttled: bool = False
    temperature_mc: int | None = None
    """Of the CPU, in thousandths of a degree Celsius; None: not known."""
    wireless: bool = False


class HealthScore(Struct, frozen=True):
    """What is believed of the node; without arguments that of one that was never in trouble."""

    seen_ns: Mapping[Trouble, int] = {}
    """The trouble that counts -> when it was last there."""

    @property
    def percent(self) -> int:
        """100: no trouble."""
        return 100 - sum(PENALTIES[trouble] for trouble in self.seen_ns)

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """What lowers it, the gravest first."""
        return tuple(trouble for trouble in PENALTIES if trouble in self.seen_ns)


def step(state: HealthScore, vitals: Vitals, now_ns: int) -> HealthScore:
    """Take a report into account; `now_ns` is a clock that never goes back."""
    still = {trouble: seen for trouble, seen in state.seen_ns.items() if now_ns - seen < RECOVER_NS}
    hot_from = COOL_MC if Trouble.HOT in still else HOT_MC
    present = {
        Trouble.UNDER_VOLTAGE: vitals.under_voltage,
        Trouble.THROTTLED: vitals.throttled,
        Trouble.WIRELESS: vitals.wireless,
        Trouble.HOT: vitals.temperature_mc is not None and vitals.temperature_mc >= hot_from,
    }
    return HealthScore(still | {trouble: now_ns for trouble, there in present.items() if there})
