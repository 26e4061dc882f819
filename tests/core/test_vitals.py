"""What the hardware reports -> health in percent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piagent.core.vitals import PENALTIES, HealthScore, Trouble, Vitals, step

SECOND = 1_000_000_000
WELL = Vitals()
DIP = Vitals(under_voltage=True)


def run(*reports: tuple[int, Vitals]) -> HealthScore:
    """The score after reports at so many seconds."""
    state = HealthScore()
    for second, vitals in reports:
        state = step(state, vitals, second * SECOND)
    return state


def test_a_node_without_trouble_is_well() -> None:
    assert HealthScore().percent == 100
    assert run((0, WELL)) == HealthScore()


@pytest.mark.parametrize(
    ("vitals", "percent", "troubles"),
    [
        (DIP, 60, (Trouble.UNDER_VOLTAGE,)),
        (Vitals(throttled=True), 75, (Trouble.THROTTLED,)),
        (Vitals(wireless=True), 80, (Trouble.WIRELESS,)),
        (Vitals(temperature_mc=80_000), 90, (Trouble.HOT,)),
        (Vitals(temperature_mc=79_999), 100, ()),
        (Vitals(under_voltage=True, throttled=True), 35, tuple(Trouble)[:2]),
        (
            Vitals(under_voltage=True, throttled=True, temperature_mc=90_000, wireless=True),
            5,
            tuple(Trouble),
        ),
    ],
)
def test_trouble_counts_at_once(
    vitals: Vitals, percent: int, troubles: tuple[Trouble, ...]
) -> None:
    state = run((0, WELL), (1, vitals))
    assert state.percent == percent
    assert state.troubles == troubles


def test_trouble_counts_until_it_has_been_away_for_a_minute() -> None:
    assert run((0, DIP), (59, WELL)).percent == 60
    assert run((0, DIP), (60, WELL)).percent == 100


def test_a_dip_in_between_starts_the_minute_again() -> None:
    assert run((0, DIP), (50, DIP), (100, WELL)).percent == 60
    assert run((0, DIP), (50, DIP), (110, WELL)).percent == 100


def test_each_trouble_has_its_own_minute() -> None:
    state = run((0, DIP), (30, Vitals(throttled=True)), (60, WELL))
    assert state.troubles == (Trouble.THROTTLED,)


def test_a_hot_node_is_hot_until_it_has_cooled_down() -> None:
    warm = Vitals(temperature_mc=75_000)
    assert run((0, warm)).percent == 100
    hot = [(0, Vitals(temperature_mc=80_000)), *((second, warm) for second in range(30, 200, 30))]
    assert run(*hot).percent == 90
    assert run(*hot, (210, Vitals(temperature_mc=74_999)), (239, WELL)).percent == 90
    assert run(*hot, (210, Vitals(temperature_mc=74_999)), (240, WELL)).percent == 100


def test_heat_of_long_ago_does_not_make_a_warm_node_hot() -> None:
    assert (
        run((0, Vitals(temperature_mc=85_000)), (300, Vitals(temperature_mc=76_000))).percent == 100
    )


def test_no_trouble_takes_all_health_away() -> None:
    assert set(PENALTIES) == set(Trouble)
    assert 0 < sum(PENALTIES.values()) < 100


@given(
    st.lists(
        st.tuples(
            st.integers(0, 50),
            st.builds(Vitals, under_voltage=st.booleans(), throttled=st.booleans()),
        ),
        max_size=30,
    )
)
def test_the_score_rises_only_after_a_minute_of_peace(steps: list[tuple[int, Vitals]]) -> None:
    state, now, bad = HealthScore(), 0, 0
    for wait, vitals in steps:
        now += wait
        after = step(state, vitals, now * SECOND)
        if vitals.under_voltage:
            bad = now
        if after.percent > state.percent and Trouble.UNDER_VOLTAGE in state.seen_ns:
            assert Trouble.UNDER_VOLTAGE in after.seen_ns or now - bad >= 60
        state = after
