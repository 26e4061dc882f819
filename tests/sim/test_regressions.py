"""What once went wrong stays right."""

from __future__ import annotations

import pytest

from tests.sim.history import play
from tests.sim.houses import HOUSES
from tests.sim.regressions import REGRESSIONS, Regression


@pytest.mark.parametrize("kept", REGRESSIONS, ids=lambda kept: f"{kept.house}-{kept.seed}")
def test_a_kept_seed_is_sound(kept: Regression) -> None:
    assert play(kept.seed, HOUSES[kept.house]).violation is None, kept.what
