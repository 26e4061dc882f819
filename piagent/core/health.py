"""Health of a backend: check results in, up or down out.

A backend starts as unknown, and unknown counts as up: traffic need not wait for the first round
of checks. The first result decides at once; from then on it takes `rise` good results in a row to
bring a backend up and `fall` bad ones in a row to take it down, so that one lost packet moves
nothing.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from piagent.core.model import HealthCheck


class Status(StrEnum):
    """What is believed of a backend."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


class HealthReason(StrEnum):
    """Why it is believed."""

    NOT_CHECKED = "not checked yet"
    FIRST_RESULT = "first check"
    RISE_REACHED = "enough good checks in a row"
    FALL_REACHED = "enough failed checks in a row"
    TOLD = "found by another node"


class BackendHealth(Struct, frozen=True):
    """One backend's state."""

    status: Status = Status.UNKNOWN
    reason: HealthReason = HealthReason.NOT_CHECKED
    """Why the status is what it is; kept until the status changes."""
    against: int = 0
    """Results in a row that speak against the status."""
    detail: str = ""
    """The last result in words: "connected", "refused", "timeout" …"""

    @property
    def usable(self) -> bool:
        """Whether new connections may go there."""
        return self.status is not Status.DOWN


def step(
    state: BackendHealth, check: HealthCheck, *, good: bool | None, detail: str
) -> BackendHealth:
    """Take one check result into account; None: the check could not be made."""
    if good is None:
        return replace(state, detail=detail)
    said = Status.UP if good else Status.DOWN
    if state.status is Status.UNKNOWN:
        return BackendHealth(said, HealthReason.FIRST_RESULT, 0, detail)
    if said is state.status:
        return BackendHealth(state.status, state.reason, 0, detail)
    against = state.against + 1
    if against < (check.rise if good else check.fall):
        return BackendHealth(state.status, state.reason, against, detail)
    reason = HealthReason.RISE_REACHED if good else HealthReason.FALL_REACHED
    return BackendHealth(said, reason, 0, detail)
