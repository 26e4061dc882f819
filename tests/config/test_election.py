"""Profiles, and the checks of their values."""

from __future__ import annotations

import pytest

from piagent.config.election import PROFILES, wait_ms
from piagent.config.values import ProfileName
from tests.config.conftest import Load, Problems

BASE = '[cluster]\nsecret_file = "cluster.secret"\n[mqtt]\nbrokers = ["mqtt://192.0.2.1"]\n'


def test_a_claimer_keeps_quiet_for_the_lease_the_clocks_difference_and_some_slack() -> None:
    assert [wait_ms(lease) for lease in (900, 1500, 3000, 6000)] == [938, 1550, 3080, 6140]
    assert wait_ms(1) == 22


@pytest.mark.parametrize("profile", ProfileName)
def test_every_profile_satisfies_its_own_checks(load: Load, profile: ProfileName) -> None:
    loaded = load(BASE + f'[election]\nprofile = "{profile}"')
    assert loaded.config.election.timing == PROFILES[profile]
    assert loaded.config.election.profile == profile


def test_single_values_take_the_place_of_the_profiles(load: Load) -> None:
    text = '[election]\nlease = "2s"\nlag = "600ms"\nstagger = "50ms"\nguard = "0.2s"'
    timing = load(BASE + text).config.election.timing
    assert (timing.lease_ms, timing.wait_ms, timing.guard_ms) == (2000, 2060, 200)
    assert (timing.lag_ms, timing.stagger_ms) == (600, 50)
    assert (timing.renew_ms, timing.attempt_ms) == (300, 250)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ('renew = "466ms"', []),
        ('renew = "467ms"', ["election.renew"]),
        ('attempt = "1399ms"', []),
        ('attempt = "1400ms"', ["election.attempt"]),
        ('lease = "100ms"', ["election.renew", "election.attempt"]),
        ('lease = "0s"', ["election.lease"]),
        ('guard = "x"\nrenew = "9s"', ["election.guard"]),
        ('profile = "x"\nrenew = "9s"', ["election.profile"]),
    ],
)
def test_a_lease_must_hold_three_renewals_and_an_attempt(
    errors: Problems, text: str, keys: list[str]
) -> None:
    assert sorted(problem.key for problem in errors(BASE + "[election]\n" + text)) == sorted(keys)


def test_the_cure_names_the_bound(errors: Problems) -> None:
    (problem,) = errors(BASE + '[election]\nrenew = "1s"')
    assert problem.what == "lease - guard (1400ms) is less than three times renew (1000ms)"
    assert "466ms" in problem.cure
