"""The text is read back by a parser that follows the format's grammar to the letter."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from piagent.admin.exposition import Family, Histogram, Kind, Sample, render
from tests.prometheus import parse


def test_counter_reads_back_with_its_help_and_labels() -> None:
    family = Family("a_total", Kind.COUNTER, "What it counts.", (Sample({"x": "1"}, 7),))
    parsed = parse(render([family]))
    assert parsed["a_total"].kind == "counter"
    assert parsed["a_total"].help == "What it counts."
    assert parsed["a_total"].samples == {("a_total", (("x", "1"),)): 7.0}


@given(st.text(), st.text())
def test_any_label_value_and_help_survive_the_way(value: str, text: str) -> None:
    family = Family("m", Kind.GAUGE, text, (Sample({"l": value}, 1.5),))
    expected = value.encode("utf-8", "replace").decode()
    parsed = parse(render([family]))
    assert parsed["m"].samples == {("m", (("l", expected),)): 1.5}


@given(st.floats(allow_nan=False))
def test_any_number_survives_the_way(value: float) -> None:
    parsed = parse(render([Family("m", Kind.GAUGE, "h", (Sample({}, value),))]))
    assert parsed["m"].samples == {("m", ()): value}


def test_histogram_is_cumulative_and_ends_at_infinity() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 3.0):
        histogram.observe(value)
    parsed = parse(render([Family("h", Kind.HISTOGRAM, "h", histogram.samples({"k": "v"}))]))
    samples = parsed["h"].samples
    buckets = [samples["h_bucket", (("k", "v"), ("le", le))] for le in ("0.1", "1", "+Inf")]
    assert buckets == [2, 3, 4]
    assert samples["h_count", (("k", "v"),)] == 4
    assert math.isclose(samples["h_sum", (("k", "v"),)], 3.65)


def test_family_without_samples_is_left_out() -> None:
    assert render([Family("m", Kind.GAUGE, "h", ())]) == b""
