"""Prometheus' text format 0.0.4: metric families to text.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import accumulate

from msgspec import Struct

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Kind(StrEnum):
    """The types that we use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Sample(Struct, frozen=True):
    """One line: its labels and value."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""
    """"_bucket", "_sum" or "_count" in a histogram."""


class Family(Struct, frozen=True):
    """Everything of one name."""

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...]


class Histogram:
    """Counts of values by upper bounds (seconds, mostly)."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds`: rising upper bounds; the one of infinity is implied."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        at = next((i for i, bound in enumerate(self._bounds) if value <= bound), len(self._bounds))
        self._counts[at] += 1
        self._sum += value

    def samples(self, labels: Mapping[str, str] | None = None) -> tuple[Sample, ...]:
        """The lines of this histogram under `labels`."""
        buckets = zip((*self._bounds, math.inf), accumulate(self._counts), strict=True)
        return histogram_samples(buckets, self._sum, labels or {})


def histogram_samples(
    buckets: Iterable[tuple[float, int]], total: float, labels: Mapping[str, str]
) -> tuple[Sample, ...]:
    """Lines of a histogram of which (upper bound, count up to it) and the sum are known.

    The last bound is infinity.
    """
    lines = [Sample({**labels, "le": _number(bound)}, count, "_bucket") for bound, count in buckets]
    count = lines[-1].value
    return (*lines, Sample(labels, total, "_sum"), Sample(labels, count, "_count"))


def render(families: Iterable[Family]) -> bytes:
    """The text of all families; those without samples are left out."""
    lines: list[str] = []
    for family in families:
        if not family.samples:
            continue
        lines.append(f"# HELP {family.name} {_escape_help(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        lines.extend(
            f"{family.name}{s.suffix}{_labels(s.labels)} {_number(s.value)}" for s in family.samples
        )
    return ("\n".join(lines) + "\n").encode("utf-8", "replace") if lines else b""


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    inner = ",".join(f'{name}="{_escape_value(value)}"' for name, value in labels.items())
    return "{" + inner + "}"


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escape_value(text: str) -> str:
    return _escape_help(text).replace('"', '\\"')


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if value == int(value) else repr(float(value))
