"""How a structure is driven at random beside a model of it; built with PIAGENT_PROBE=1 only."""

from libc.stdint cimport uint32_t, uint64_t


cdef class Fuzz:
    """A structure, a model of it that is too simple to be wrong, and the dice that drive both.

    A subclass makes the structure in __cinit__ and overrides `step`. All follows from the seed.
    """

    cdef uint64_t seed
    cdef uint64_t n_drawn
    cdef uint64_t n_steps       # done so far
    cdef const char *difference     # the first one; NULL: none yet

    # One random operation on both, and everything that can be compared. Without the GIL.
    cdef void step(self) noexcept nogil
    # A number below `n`.
    cdef uint32_t roll(self, uint32_t n) noexcept nogil
    # A number of 0 to `n_bits` bits, small ones as often as large ones.
    cdef uint64_t roll_bits(self, uint32_t n_bits) noexcept nogil
    # Say what differs when the two do not agree.
    cdef void expect(self, bint agree, const char *what) noexcept nogil
