r"""The syntax of regular expressions: text -> tree.

What there is: characters, `.`, classes (`[a-z]`, `[^/]`, `\d \w \s` and their opposites), groups
(`( )`, `(?: )`), `|`, `* + ? {n} {n,} {n,m}` (lazy ones are the same: nobody asks where a match
ends), `^` and `$`, `\t`, `\x41`, and a backslash before anything else that is no letter or digit.
`(?i)` at the beginning: letters without case. All of it is ASCII and about bytes; `.` is any of
them. Nothing that would need backtracking: no back-references, no look-around.
"""

from __future__ import annotations

import re
import string
from typing import Final

from msgspec import Struct

TEXT_MAX: Final = 1000
REPEATS_MAX: Final = 1000
DEPTH_MAX: Final = 50
SIZE_MAX: Final = 2000
"""Nodes of a tree whose repetitions are written out."""

_DIGITS: Final = frozenset(string.digits.encode())
_WORD: Final = _DIGITS | frozenset(f"{string.ascii_letters}_".encode())
_SPACE: Final = frozenset(b" \t\n\r\f\v")
EVERY: Final = frozenset(range(256))
_CLASSES: Final = {
    "d": _DIGITS,
    "w": _WORD,
    "s": _SPACE,
    "D": EVERY - _DIGITS,
    "W": EVERY - _WORD,
    "S": EVERY - _SPACE,
}
_COUNTS: Final = re.compile(r"\{([0-9]{1,9})(?:(,)([0-9]{1,9})?)?\}")


class PatternError(ValueError):
    """Text that is no regular expression, or none of ours."""

    def __init__(self, what: str, cure: str) -> None:
        """Take what is wrong, with its place, and what to write."""
        super().__init__(what)
        self.what = what
        self.cure = cure


class OneOf(Struct, frozen=True):
    """One byte of these."""

    bytes: frozenset[int]


class Edge(Struct, frozen=True):
    """No byte, but the beginning of the text, or its end."""

    at_start: bool


class Sequence(Struct, frozen=True):
    """One after the other."""

    parts: tuple[Node, ...]


class Choice(Struct, frozen=True):
    """Any of them."""

    parts: tuple[Node, ...]


class Repeat(Struct, frozen=True):
    """The same again; None: as often as it likes."""

    part: Node
    least: int
    most: int | None


Node = OneOf | Edge | Sequence | Choice | Repeat


def parse(text: str) -> Node:
    """Read a regular expression; raises PatternError."""
    if len(text) > TEXT_MAX:
        raise PatternError(f"longer than {TEXT_MAX} characters", "a shorter one")
    tree = _Parser(text).whole()
    if size_of(tree) > SIZE_MAX:
        raise PatternError("its repetitions are too many", "smaller numbers in { }")
    return tree


def size_of(node: Node) -> int:
    """How many nodes it has with its repetitions written out."""
    if isinstance(node, Sequence | Choice):
        return 1 + sum(map(size_of, node.parts))
    if isinstance(node, Repeat):
        return 1 + size_of(node.part) * max(node.least + 1, node.most or 0)
    return 1


class _Parser:
    def __init__(self, text: str) -> None:
        self._ignores_case = text.startswith("(?i)")
        self._text = text
        self._at = 4 if self._ignores_case else 0
        self._depth = 0

    def whole(self) -> Node:
        """Read it to the end."""
        tree = self._choice()
        if self._at < len(self._text):
            raise self._error("a ) that nothing opens", r"write \)")
        return tree

    def _choice(self) -> Node:
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _sequence(self) -> Node:
        parts = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            parts.append(self._repeated())
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeated(self) -> Node:
        part = self._atom()
        found = self._repeat()
        if found is None:
            return part
        if isinstance(part, Edge):
            raise self._error("an anchor that repeats", "leave the repetition out")
        self._take("?")
        if self._at < len(self._text) and self._text[self._at] in "*+?{":
            raise self._error("a repetition of a repetition", "put the inner one in ( )")
        return Repeat(part, *found)

    def _repeat(self) -> tuple[int, int | None] | None:
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        for sign, counts in simple.items():
            if self._take(sign):
                return counts
        if self._text[self._at : self._at + 1] != "{":
            return None
        found = _COUNTS.match(self._text, self._at)
        if found is None:
            raise self._error("a { that is no number of repetitions", r"write {2} or {1,3}, or \{")
        least, most = int(found[1]), int(found[3]) if found[3] else None
        most = most if found[2] else least
        if most is not None and most < least:
            raise self._error("the second number is below the first", f"write {{{most},{least}}}")
        if max(least, most or 0) > REPEATS_MAX:
            raise self._error(f"more than {REPEATS_MAX} repetitions", "a smaller number")
        self._at = found.end()
        return least, most

    def _atom(self) -> Node:
        sign = self._text[self._at]
        if sign in "*+?{":
            raise self._error(f"nothing that {sign} could repeat", rf"write \{sign}")
        if sign in "}]":
            raise self._error(f"a {sign} that nothing opens", rf"write \{sign}")
        if sign == "(":
            return self._group()
        if sign == "[":
            return self._class()
        if sign == "\\":
            found = self._escape()
            return OneOf(found if isinstance(found, frozenset) else self._folded({found}))
        byte = self._ascii(sign)
        self._at += 1
        if sign in "^$":
            return Edge(at_start=sign == "^")
        return OneOf(EVERY if sign == "." else self._folded({byte}))

    def _group(self) -> Node:
        self._at += 1
        if self._text.startswith("?", self._at) and not self._take("?:"):
            self._at -= 1
            raise self._error(
                "(? begins something that we do not have", "write ( ) or (?: ); no look-around"
            )
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._error(f"more than {DEPTH_MAX} groups in each other", "fewer")
        inner = self._choice()
        self._depth -= 1
        if not self._take(")"):
            raise self._error("a group has no end", "write )")
        return Sequence((inner,)) if isinstance(inner, Edge) else inner

    def _class(self) -> Node:
        opened = self._at
        self._at += 1
        opposite = self._take("^")
        found: set[int] = set()
        while not self._take("]"):
            low = self._member()
            if isinstance(low, frozenset):
                found |= low
                continue
            high: int | frozenset[int] = low
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                high = self._member()
            if isinstance(high, frozenset) or high < low:
                raise self._error("a range that ends before it begins", "write [a-z]")
            found |= self._folded(set(range(low, high + 1)))
        if not found:
            self._at = opened
            raise self._error("an empty class", r"write \[ or what is in it")
        return OneOf(EVERY - found if opposite else frozenset(found))

    def _member(self) -> int | frozenset[int]:
        if self._at >= len(self._text):
            raise self._error("a [ has no end", r"write ], or \[")
        sign = self._text[self._at]
        if sign == "\\":
            return self._escape()
        if sign == "[":
            raise self._error("a [ in a class", r"write \[")
        byte = self._ascii(sign)
        self._at += 1
        return byte

    def _escape(self) -> int | frozenset[int]:
        sign = self._text[self._at + 1 : self._at + 2]
        if sign in _CLASSES:
            self._at += 2
            return _CLASSES[sign]
        if sign == "x":
            digits = self._text[self._at + 2 : self._at + 4]
            if re.fullmatch("[0-9a-fA-F]{2}", digits) is None:
                raise self._error(r"\x without two hex digits", r"write \x41")
            self._at += 4
            return int(digits, 16)
        if sign == "t":
            self._at += 2
            return ord("\t")
        if not sign or sign.isalnum():
            cure = r"there are \d \w \s \D \W \S \t and \x41"
            raise self._error(f"\\{sign} means nothing", cure)
        self._at += 1
        byte = self._ascii(sign)
        self._at += 1
        return byte

    def _ascii(self, sign: str) -> int:
        if not " " <= sign <= "~":
            cure = r"write its bytes, \xc3\xa9; in a path %C3%A9"
            raise self._error("a character that is not printable ASCII", cure)
        return ord(sign)

    def _folded(self, chosen: set[int]) -> frozenset[int]:
        if not self._ignores_case:
            return frozenset(chosen)
        letters = bytes(sorted(chosen))
        return frozenset(letters + letters.lower() + letters.upper())

    def _take(self, sign: str) -> bool:
        if not self._text.startswith(sign, self._at):
            return False
        self._at += len(sign)
        return True

    def _error(self, what: str, cure: str) -> PatternError:
        return PatternError(f"at character {self._at + 1}: {what}", cure)
