"""Election profiles and what their values must satisfy (election.md 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import asdict, replace

from piagent.config.values import ProfileName
from piagent.core.model import Timing

if TYPE_CHECKING:
    from piagent.config.problems import Report
    from piagent.config.schema import Election

RHO_PERCENT: Final = 2
"""How far the rates of two nodes' clocks may differ."""
SLACK_MS: Final = 20
CANDIDATES_ADVISED: Final = 5
RENEWALS_IN_A_LEASE: Final = 3


def wait_ms(lease_ms: int) -> int:
    """Return W, how long a claimer keeps quiet: lease * (1 + rho) + slack, rounded up."""
    return -(-lease_ms * (100 + RHO_PERCENT) // 100) + SLACK_MS


def _profile(lease: int, renew: int, guard: int, attempt: int, stagger: int, lag: int) -> Timing:
    return Timing(
        lease_ms=lease,
        renew_ms=renew,
        wait_ms=wait_ms(lease),
        guard_ms=guard,
        attempt_ms=attempt,
        stagger_ms=stagger,
        lag_ms=lag,
    )


PROFILES: Final[dict[ProfileName, Timing]] = {
    ProfileName.FAST: _profile(900, 200, 80, 250, 40, 400),
    ProfileName.NORMAL: _profile(1500, 300, 100, 250, 40, 500),
    ProfileName.WIFI: _profile(3000, 600, 200, 400, 80, 1000),
    ProfileName.KILO: _profile(6000, 1500, 300, 500, 80, 2000),
}

OVERRIDES: Final = ("lease", "renew", "guard", "attempt", "stagger", "lag")


def timing(election: Election) -> Timing:
    """Return the profile's values with the file's own in their place."""
    base = PROFILES[election.profile]
    own = {f"{key}_ms": value for key in OVERRIDES if (value := getattr(election, key)) is not None}
    made = replace(base, **own)
    return replace(made, wait_ms=wait_ms(made.lease_ms))


def check_election(election: Election, node: str, report: Report) -> None:
    """Check the timing and the candidates."""
    if election.profile:
        _check_timing(timing(election), report)
    names = election.candidates
    if names and node and node not in names and all(names):
        what = f'"{node}" is not among them, so this node never owns a VIP'
        report.warn(("election", "candidates"), what, "add it if it should")
    if len(names) > CANDIDATES_ADVISED:
        what = f"{len(names)} candidates: each hears all messages of the others"
        report.warn(("election", "candidates"), what, f"at most {CANDIDATES_ADVISED} are advised")


def _check_timing(times: Timing, report: Report) -> None:
    if not all(asdict(times).values()):
        return  # a value that could not be read has been reported
    usable = times.lease_ms - times.guard_ms
    if usable < RENEWALS_IN_A_LEASE * times.renew_ms:
        report.error(
            ("election", "renew"),
            f"lease - guard ({usable}ms) is less than three times renew ({times.renew_ms}ms)",
            f"renew at most {max(usable, 0) // RENEWALS_IN_A_LEASE}ms, or a longer lease",
        )
    if times.attempt_ms >= usable:
        report.error(
            ("election", "attempt"),
            f"attempt ({times.attempt_ms}ms) is not less than lease - guard ({usable}ms)",
            "a shorter attempt, or a longer lease",
        )
