"""Election profiles and what their values must satisfy.

docs/reference/toml.md says what each is, docs/explanation/failover-budget.md how they add up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import asdict

from piagent.config.values import ProfileName
from piagent.core.model import QuorumLoss, Timing

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


OVERRIDES: Final = ("lease", "renew", "guard", "attempt", "stagger", "lag")
"""The keys that replace a profile's values."""


def _timing(**values_ms: int) -> Timing:
    return Timing(
        wait_ms=wait_ms(values_ms["lease"]), **{f"{key}_ms": values_ms[key] for key in OVERRIDES}
    )


PROFILES: Final[dict[ProfileName, Timing]] = {
    ProfileName.FAST: _timing(lease=900, renew=200, guard=80, attempt=250, stagger=40, lag=400),
    ProfileName.NORMAL: _timing(lease=1500, renew=300, guard=100, attempt=250, stagger=40, lag=500),
    ProfileName.WIFI: _timing(lease=3000, renew=600, guard=200, attempt=400, stagger=80, lag=1000),
    ProfileName.KILO: _timing(lease=6000, renew=1500, guard=300, attempt=500, stagger=80, lag=2000),
}


def timing(election: Election) -> Timing:
    """Return the profile's values with the file's own in their place."""
    base = PROFILES[election.profile]
    own = {key: getattr(election, key) for key in OVERRIDES}
    return _timing(
        **{
            key: getattr(base, f"{key}_ms") if value is None else value
            for key, value in own.items()
        }
    )


def check_election(election: Election, node: str, report: Report) -> None:
    """Check the timing, the candidates, and what is dared without a quorum."""
    if election.profile:
        _check_timing(timing(election), report)
    if election.on_quorum_loss is QuorumLoss.HOLD:
        what = '"hold": owners keep their VIPs without the brokers, which is safe unless L2 splits'
        cure = 'meant for a single broker; with three, "release" survives the loss of one'
        report.warn(("election", "on_quorum_loss"), what, cure)
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
