"""A strict parser of Prometheus' text format, for tests: what is not in the grammar is an error."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_HELP = re.compile(rf"# HELP ({_NAME}) (.*)", re.DOTALL)
_TYPE = re.compile(rf"# TYPE ({_NAME}) (counter|gauge|histogram)")
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)", re.DOTALL)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')
_NUMBER = re.compile(r"[+-]Inf|NaN|-?\d+(\.\d+)?(e[+-]?\d+)?")

Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass
class Parsed:
    """One family."""

    help: str
    kind: str = ""
    samples: dict[Key, float] = field(default_factory=dict)


def parse(text: bytes) -> dict[str, Parsed]:
    """Families by name; raises AssertionError at the first line that breaks the grammar."""
    families: dict[str, Parsed] = {}
    current = ""
    lines = text.decode("utf-8").split("\n")
    assert lines.pop() == "", "the last line must end with a line feed"
    for line in lines:
        if match := _HELP.fullmatch(line):
            current = match[1]
            assert current not in families, f"{current}: twice"
            families[current] = Parsed(_unescape(match[2]))
        elif match := _TYPE.fullmatch(line):
            assert match[1] == current, f"TYPE of {match[1]} inside {current}"
            assert not families[current].samples
            families[current].kind = match[2]
        else:
            _sample(families[current], current, line)
    return families


def _sample(family: Parsed, name: str, line: str) -> None:
    match = _SAMPLE.fullmatch(line)
    assert match, f"not a sample: {line!r}"
    suffixes = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
    assert match[1] in {name + suffix for suffix in suffixes}, f"{match[1]} inside {name}"
    assert _NUMBER.fullmatch(match[3]), f"not a number: {match[3]!r}"
    key = (match[1], _labels(match[2] or ""))
    assert key not in family.samples, f"{key}: twice"
    family.samples[key] = float(match[3])


def _labels(text: str) -> tuple[tuple[str, str], ...]:
    labels: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        match = _LABEL.match(text, at)
        assert match, f"not labels: {text!r}"
        labels.append((match[1], _unescape(match[2])))
        at = match.end()
    return tuple(labels)


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], text)
