"""Python's forwards -> the C tables that the forwarder reads."""

from fastpath.abi cimport range_t
from fastpath.packet.forwards cimport forwards_t


cdef class ForwardTables:
    """Owns one forwards_t; free it when the forwarder has moved on, by letting go of it."""

    cdef forwards_t *c
    cdef range_t *ranges
    cdef dict maglev            # key -> Maglev: the tables that `c` points to
