"""Regular expressions beside Python's, on what both have; and what is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piagent.core.pattern_syntax import PatternError
from piagent.core.patterns import STATES_MAX, compile_pattern

ATOMS = st.sampled_from(
    ["a", "b", "c", ".", "[ab]", "[^a]", "[a-b]", "[b-]", r"\d", r"\D", r"\w", r"\W", r"\s", r"\S",
     r"\.", r"\-", r"\x61", r"[\d_b]", "(?:)"]
)  # fmt: skip
REPEATS = st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}", "{0}", "*?", "{1,2}?"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: (
        st.tuples(inner, REPEATS).map(lambda two: f"(?:{two[0]}){two[1]}")
        | st.lists(inner | st.sampled_from("^$"), min_size=1, max_size=4).map("".join)
        | st.lists(inner, min_size=2, max_size=3).map(lambda few: f"({'|'.join(few)})")
    ),
    max_leaves=8,
)
VALUES = st.text("abc.-_ 1\n", max_size=8).map(str.encode) | st.binary(max_size=6)


def python_says(pattern: str, value: bytes) -> bool:
    """What Python's `re` finds, where `$` is the very end and `.` is any byte."""
    return re.search(pattern.replace("$", r"\Z").encode(), value, re.DOTALL) is not None


@given(PATTERNS, st.lists(VALUES, min_size=1, max_size=10), st.booleans())
@settings(max_examples=300)
def test_a_pattern_is_found_where_python_finds_it(
    pattern: str, values: list[bytes], ignores_case: bool
) -> None:
    text = f"(?i){pattern}" if ignores_case else pattern
    try:
        compiled = compile_pattern(text)
    except PatternError as error:
        assert "states" in error.what
        return
    for value in values:
        assert compiled.matches(value) == python_says(text, value), (text, value)


@pytest.mark.parametrize(
    ("text", "taken", "not_taken"),
    [
        ("", [b"", b"x"], []),
        ("^t-", [b"t-", b"t-1"], [b"", b"at-", b"T-"]),
        ("(?i)^t-[a-c]$", [b"T-B", b"t-a"], [b"t-d", b"t-aa"]),
        (r"\.(css|js)$", [b"/a.css", b".js"], [b"/a.css/", b"/ajs"]),
        ("^/v[0-9]+(/|$)", [b"/v1", b"/v22/x"], [b"/v", b"/v1x"]),
        (r"\xc3\xa9", ["é".encode()], [b"e"]),
        ("a|^$", [b"", b"a"], [b"b"]),
        ("(^)*a($)?", [b"a", b"ba", b"ab"], [b"b"]),
        ("(?:^){2}a(?:$)+", [b"a"], [b"ba", b"ab"]),
        (r"^\^\$\|\(\)\[\]\{\}\*\+\?\.\\$", [rb"^$|()[]{}*+?.\ "[:-1]], []),
        ("a.c", [b"a\nc", b"a\xffc"], [b"ac"]),
        ("[^/]", [b"a", b"\x80"], [b"/", b""]),
        ("a{3}", [b"aaa", b"baaaa"], [b"aa", b"aaba"]),
    ],
)
def test_what_a_pattern_takes(text: str, taken: list[bytes], not_taken: list[bytes]) -> None:
    pattern = compile_pattern(text)
    assert [value for value in taken if not pattern.matches(value)] == []
    assert [value for value in not_taken if pattern.matches(value)] == []


@pytest.mark.parametrize(
    ("text", "what", "cure"),
    [
        ("a)", "at character 2: a ) that nothing opens", r"write \)"),
        ("(a", "at character 3: a group has no end", "write )"),
        ("(?=a)", "at character 1: (? begins something", "no look-around"),
        ("(?P<n>a)", "at character 1: (? begins something", "( )"),
        ("a(?i)b", "at character 2: (? begins something", "( )"),
        ("[a", "at character 3: a [ has no end", "write ]"),
        ("[]", "at character 1: an empty class", r"\["),
        ("[z-a]", "a range that ends before it begins", "[a-z]"),
        (r"[a-\d]", "a range", "[a-z]"),
        ("[[:alpha:]]", "at character 2: a [ in a class", r"\["),
        ("*a", "at character 1: nothing that * could repeat", r"\*"),
        ("a**", "at character 3: a repetition of a repetition", "( )"),
        ("a++", "at character 3: a repetition of a repetition", "( )"),
        ("^*", "an anchor that repeats", "leave"),
        ("a{", "at character 2: a { that is no number", r"\{"),
        ("a{2,1}", "the second number is below the first", "{1,2}"),
        ("a{1001}", "more than 1000 repetitions", "smaller"),
        ("a}", "at character 2: a } that nothing opens", r"\}"),
        (r"\b", r"at character 1: \b means nothing", r"\d"),
        (r"(a)\1", r"at character 4: \1 means nothing", r"\d"),
        ("a\\", "at character 2: \\ means nothing", r"\d"),
        (r"\xg0", r"at character 1: \x without two hex digits", r"\x41"),
        ("é", "at character 1: a character that is not printable ASCII", r"\xc3\xa9"),
        ("a\n", "at character 2: a character that is not printable", ""),
        ("(a{100}){100}", "its repetitions are too many", "smaller"),
        ("(" * 51, "more than 50 groups in each other", ""),
        ("a" * 1001, "longer than 1000 characters", "shorter"),
        ("^(?:a?b?c?d?e?f?g?h?i?j?){90}k", "its automaton takes too long to make", "simpler"),
        ("(a|b)*a(a|b){12}", f"it takes more than {STATES_MAX} states", "simpler"),
    ],
)
def test_what_is_no_pattern_of_ours_names_its_place_and_the_cure(
    text: str, what: str, cure: str
) -> None:
    with pytest.raises(PatternError) as caught:
        compile_pattern(text)
    assert what in caught.value.what
    assert cure in caught.value.cure


@given(st.text("ab|()[]{}*+?^$\\.-,0", max_size=12))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    try:
        pattern = compile_pattern(text)
    except PatternError as error:
        assert error.cure
        return
    assert pattern.matches(b"ab") == python_says_safely(text, b"ab")


def python_says_safely(text: str, value: bytes) -> bool:
    """The same of text that nobody has escaped: a `$` may be in a class."""
    spelled = re.sub(r"\\.|\[(?:\\.|[^\]])*\]|\$", lambda m: r"\Z" if m[0] == "$" else m[0], text)
    return re.search(spelled.encode(), value, re.DOTALL) is not None


def test_a_pattern_that_makes_others_backtrack_takes_one_step_a_byte() -> None:
    # Whatever the time: the automaton has few states, and each byte is one look-up.
    program = compile_pattern("^(a+)+$").program
    assert int.from_bytes(program[:2], "little") < 10
    assert not compile_pattern("^(a+)+$").matches(b"a" * 100_000 + b"b")
