"""Regular expressions in linear time: the automata that `piagent.core.patterns` compiles."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t

from fastpath.abi cimport pattern_t

cdef enum:
    PATTERN_FAILED = 0          # whatever follows
    PATTERN_MATCHED = 1

# Goes on from `state` (pattern_t.first at the beginning) over more of the value.
cdef inline uint16_t pattern_go_on(const pattern_t *self, uint16_t state, const uint8_t *text,
                                   size_t size) noexcept nogil:
    cdef size_t i = 0
    while i < size and state > PATTERN_MATCHED:
        state = self.table[<size_t>state * self.n_classes + self.classes[text[i]]]
        i += 1
    return state

# Whether a value that ends in `state` matches.
cdef inline bint pattern_ends(const pattern_t *self, uint16_t state) noexcept nogil:
    return self.accepts[state]

cdef inline bint pattern_matches(const pattern_t *self, const uint8_t *text,
                                 size_t size) noexcept nogil:
    return pattern_ends(self, pattern_go_on(self, self.first, text, size))
