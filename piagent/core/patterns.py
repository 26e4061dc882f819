"""Regular expressions in linear time: text -> a deterministic automaton, and its run.

The tree (`pattern_syntax`) becomes Thompson's automaton, and that, by the construction of subsets,
a deterministic one: one table look-up a byte, whatever the pattern and the value. One that would
take more than STATES_MAX states is refused. A pattern is looked for anywhere in the value.

A program is what the engine runs (fastpath/http/patterns.pyx), numbers of 16 bits in the machine's
order: states, classes of bytes, first state, 0; then 256 bytes, the class of each byte; a byte for
each state, whether a value that ends there matches, and a 0 if they are odd; then a row of next
states for each state. State 0 never matches any more, state 1 has matched.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from piagent.core.pattern_syntax import Choice, Edge, Node, OneOf, PatternError, Sequence, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

STATES_MAX: Final = 512
WORK_MAX: Final = 400_000
"""Steps to make an automaton, a few tenths of a second: an agent has leases to renew meanwhile."""
_SIMPLER: Final = "a simpler one: fewer repetitions within { }, or ^ at its beginning"
FAILED: Final = 0
MATCHED: Final = 1
_FIRST: Final = 2
_HEADER: Final = 4


class Pattern(Struct, frozen=True):
    """A compiled regular expression."""

    text: str
    program: bytes

    def matches(self, value: bytes) -> bool:
        """Tell whether it is somewhere in the value."""
        n_states, n_classes, state, _ = array("H", self.program[: 2 * _HEADER])
        classes = self.program[2 * _HEADER :]
        accepts = classes[256:]
        table = memoryview(accepts[n_states + n_states % 2 :]).cast("H")
        for byte in value:
            if state <= MATCHED:
                break
            state = table[state * n_classes + classes[byte]]
        return accepts[state] != 0


@lru_cache(maxsize=16384)
def compile_pattern(text: str) -> Pattern:
    """Compile a regular expression; raises PatternError."""
    nodes = _Nodes()
    first = nodes.add(parse(text), _Nodes.END)
    return Pattern(text, _Determined(nodes, first).program())


class _Nodes:
    """Thompson's automaton: what takes bytes, what leads on by itself, and the end."""

    END: Final = 0

    def __init__(self) -> None:
        self.takes: dict[int, frozenset[int]] = {}
        self.leads: dict[int, list[int]] = {}
        self.edges: dict[int, bool] = {}
        """Passed only at the beginning (True) or the end of the value."""
        self._n = 1
        self._work = 0

    def add(self, tree: Node, then: int) -> int:
        """Add what leads to `then`; the node to begin with."""
        if isinstance(tree, OneOf | Edge):
            node = self._fork([then])
            if isinstance(tree, OneOf):
                self.takes[node] = tree.bytes
            else:
                self.edges[node] = tree.at_start
            return node
        if isinstance(tree, Sequence):
            for part in reversed(tree.parts):
                then = self.add(part, then)
            return then
        if isinstance(tree, Choice):
            return self._fork([self.add(part, then) for part in tree.parts])
        if tree.most is None:
            loop = self._fork([then])
            self.leads[loop].append(self.add(tree.part, loop))
            then = loop
        else:
            for _ in range(tree.most - tree.least):
                then = self._fork([then, self.add(tree.part, then)])
        for _ in range(tree.least):
            then = self.add(tree.part, then)
        return then

    def _fork(self, leads: list[int]) -> int:
        self._n += 1
        self.leads[self._n - 1] = leads
        return self._n - 1

    def spend(self, steps: int) -> None:
        """Count what has been done; raises PatternError when it is too much."""
        self._work += steps
        if self._work > WORK_MAX:
            raise PatternError("its automaton takes too long to make", _SIMPLER)

    def reach(self, first: list[int], *, start: bool, end: bool) -> int:
        """The bits of the nodes that wait for something, from these on without a byte.

        `start`, `end`: whether this is at the beginning and at the end of the value.
        """
        found, waiting = set(first), list(first)
        bits = 0
        while waiting:
            node = waiting.pop()
            edge = self.edges.get(node)
            is_open = edge is None or (start if edge else end)
            if node in self.takes or node == self.END or not is_open:
                bits |= 1 << node
                continue
            fresh = [other for other in self.leads[node] if other not in found]
            found.update(fresh)
            waiting.extend(fresh)
        self.spend(len(found))
        return bits


class _Determined:
    """The deterministic automaton of one of Thompson's."""

    def __init__(self, nodes: _Nodes, first: int) -> None:
        self._nodes = nodes
        self._again = nodes.reach([first], start=False, end=False)
        """A match may begin at every byte."""
        self._after = {
            node: nodes.reach(nodes.leads[node], start=False, end=False) for node in nodes.takes
        }
        self._classes, self._takers = self._split()
        self._rows = [[FAILED] * len(self._takers), [MATCHED] * len(self._takers)]
        self._accepts = [False, True]
        self._sets: list[int] = [0, 0]
        self._numbers: dict[int, int] = {0: FAILED}
        begin = nodes.reach([first], start=True, end=False)
        self.first = MATCHED if begin & 1 else self._add(begin, start=True)
        if self.first != MATCHED:
            # The first state is nobody else's: the beginning of the value is behind the others.
            self._fill()

    def _split(self) -> tuple[bytes, list[int]]:
        """Put bytes that no node tells apart into one class; by class, the nodes that take it."""
        takers = [0] * 256
        for node, chosen in self._nodes.takes.items():
            for byte in chosen:
                takers[byte] |= 1 << node
        kinds = list(dict.fromkeys(takers))
        number = {kind: i for i, kind in enumerate(kinds)}
        return bytes(number[kind] for kind in takers), kinds

    def _add(self, chosen: int, *, start: bool = False) -> int:
        if len(self._sets) >= STATES_MAX:
            raise PatternError(f"it takes more than {STATES_MAX} states", _SIMPLER)
        self._sets.append(chosen)
        at_end = self._nodes.reach(list(_bits(chosen)), start=start, end=True)
        self._accepts.append(bool(at_end & 1))
        return len(self._sets) - 1

    def _fill(self) -> None:
        state = _FIRST
        while state < len(self._sets):
            chosen = self._sets[state]
            self._rows.append([self._next(chosen & takers) for takers in self._takers])
            state += 1

    def _next(self, taking: int) -> int:
        found = self._again
        self._nodes.spend(taking.bit_count())
        for node in _bits(taking):
            found |= self._after[node]
        if found & 1:
            return MATCHED
        if found not in self._numbers:
            self._numbers[found] = self._add(found)
        return self._numbers[found]

    def program(self) -> bytes:
        """Lay it out as the engine wants it."""
        n_states = len(self._sets)
        rows = self._rows[:n_states]
        head = array("H", [n_states, len(self._takers), self.first, 0])
        accepts = bytes(self._accepts) + bytes(n_states % 2)
        table = array("H", [state for row in rows for state in row])
        return head.tobytes() + self._classes + accepts + table.tobytes()


def _bits(number: int) -> Iterator[int]:
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest
